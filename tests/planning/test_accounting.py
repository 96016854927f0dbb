"""The arithmetic of a step against what JAX traces and what XLA compiles."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from flax import nnx

from benchmarks.growth.cell import abstract_step
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.dense_head import DenseHead
from tsrec_jax.models.settings import AdapterSettings
from tsrec_jax.planning.accounting import (
    DenseShape,
    MeshShape,
    StepShape,
    flops_utilisation,
    parameter_bytes,
    parameter_count,
    step_flops,
    step_memory,
    trained_count,
)
from tsrec_jax.planning.chips import CHIPS, chip_of
from tsrec_jax.training.dense_loss import item_logits, place_users


def shape_of(layers=6, vocabulary=49_152, tied=True):
    """SmolLM2-135M's shape, its first layers."""
    return ModelConfig.from_hf(
        {
            "model_type": "llama",
            "vocab_size": vocabulary,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": layers,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "tie_word_embeddings": tied,
        }
    )


def traced_flops(jaxpr):
    """2 x the multiplications of every dot_general, loops counted as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for part in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(part):
                total += times * traced_flops(getattr(part, "jaxpr", part))
    return total


def _is_jaxpr(value):
    return isinstance(value, jax.extend.core.ClosedJaxpr | jax.extend.core.Jaxpr)


SMALL = StepShape(rows=4, sequence_length=32, loss_slots=16)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"remat": False},
        {"loss_chunk": 4},
        {"rows_per_group": 2},
        {"accumulation": 2},
        {"freeze": "trunk", "remat": False, "new_rows": 64},
        {"freeze": "pretrained_rows", "new_rows": 64},
        {"freeze": "trunk", "new_rows": 64, "adapter": AdapterSettings(rank=4)},
        {"freeze": "trunk", "remat": False, "new_rows": 64, "adapter": AdapterSettings(rank=4, targets=("q", "o"))},
    ],
    ids=str,
)
@pytest.mark.parametrize("tied", [True, False])
def test_flops_are_the_matrix_products_of_the_traced_step(change, tied):
    config, step = shape_of(layers=3, vocabulary=512, tied=tied), dataclasses.replace(SMALL, **change)
    step_fn, state, batch = abstract_step(config, step)
    traced = traced_flops(step_fn.trace(state, batch).jaxpr.jaxpr)
    assert step_flops(config, step).hardware == traced


# Less work on machine code, which neither memory nor FLOPs depend on.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@pytest.mark.parametrize(
    "step",
    [
        StepShape(8, 256, 64),
        StepShape(8, 256, 64, remat=False),
        StepShape(8, 256, 64, loss_chunk=16, dtype="bfloat16"),
        StepShape(8, 256, 64, loss_chunk=16, freeze="trunk", new_rows=768, adapter=AdapterSettings(rank=16)),
    ],
    ids=["remat", "all kept", "bfloat16", "adapter"],
)
def test_memory_is_within_15_percent_and_flops_within_5_percent_of_what_xla_states(step):
    config = shape_of()
    step_fn, state, batch = abstract_step(config, step)
    compiled = step_fn.lower(state, batch).compile(compiler_options=QUICK)
    found = compiled.memory_analysis()
    allocated = found.argument_size_in_bytes + found.temp_size_in_bytes
    assert step_memory(config, step).total == pytest.approx(allocated, rel=0.15)
    if not step.loss_chunk:  # XLA counts the body of a loop once: one layer, and one piece of the logits
        counted = compiled.cost_analysis()["flops"]
        assert step_flops(dataclasses.replace(config, num_layers=1), step).hardware == pytest.approx(counted, rel=0.05)


def test_sid_tokens_scored_at_every_position_cost_three_products_with_their_rows():
    shape = shape_of(layers=2)
    extra = step_flops(shape, dataclasses.replace(SMALL, sid_tokens=560)).model - step_flops(shape, SMALL).model
    assert extra == 3 * 2 * SMALL.token_slots * 560 * 576


def test_flops_of_a_dense_head_are_the_matrix_products_of_its_trace():
    sids = np.stack([np.arange(10) % 3, 3 + np.arange(10) % 4], axis=1)
    head = DenseHead(
        np.zeros((10, 5), np.float32), sids, np.arange(10), first_id=7, d_model=8, temperature=0.1, rngs=nnx.Rngs(0)
    )
    batch = {name: np.zeros((4, 6), np.int32) for name in ("item_sid_BS", "item_segment_BS", "item_place_BS")}

    def forward(table_VD, x_BTD):
        return item_logits(head, *place_users(head, table_VD, x_BTD, batch))

    traced = traced_flops(jax.make_jaxpr(forward)(np.zeros((20, 8)), np.zeros((4, 12, 8))).jaxpr)
    shape = DenseShape(items=10, slots=6, features=5)
    assert shape.flops(8, rows=4) == traced
    config = shape_of(layers=2)
    more = step_flops(config, dataclasses.replace(SMALL, dense=shape)).model - step_flops(config, SMALL).model
    assert more == 3 * shape.flops(config.d_model, SMALL.rows)


def test_kernels_keep_no_scores():
    config, step = shape_of(layers=2), dataclasses.replace(SMALL, remat=False, loss_slots=1)
    by_xla, by_cudnn, by_pallas = (
        step_memory(config, dataclasses.replace(step, attention=name)) for name in ("xla", "cudnn", "pallas")
    )
    scores = 2 * 4 * step.rows * config.num_heads * step.sequence_length**2  # computed and normalised, float32
    assert by_xla.activations - by_pallas.activations == scores * config.num_layers
    assert by_xla.working - by_pallas.working == scores
    assert by_cudnn.activations == by_pallas.activations
    assert by_cudnn.working - by_pallas.working == 2 * 4 * step.rows * step.sequence_length**2  # one mask for all heads


def test_parameters_and_moments_are_divided_as_the_rules_say():
    config = dataclasses.replace(shape_of(layers=2, vocabulary=4096), num_heads=8, num_kv_heads=4, d_model=512)
    whole = step_memory(config, SMALL)
    split = step_memory(config, SMALL, MeshShape(data=2, fsdp=2, tensor=2))
    norms = 4 * (2 * config.num_layers + 1) * config.d_model
    assert whole.parameters == 4 * parameter_count(config)
    assert split.parameters - norms == pytest.approx((whole.parameters - norms) / 4)
    assert split.moments == 2 * split.parameters
    assert split.activations == whole.activations / 4
    assert parameter_bytes(config, MeshShape(data=8)) == whole.parameters


def test_moments_are_those_of_what_trains():
    config = shape_of(layers=2, vocabulary=512, tied=False)
    new, rest = 2 * 64 * 576, parameter_count(config) - 2 * 512 * 576
    adapter = AdapterSettings(rank=4, targets=("q", "down"))
    factors = 2 * 4 * ((576 + 576) + (1536 + 576))
    for step, trained in (
        (SMALL, parameter_count(config)),
        (dataclasses.replace(SMALL, freeze="pretrained_rows", new_rows=64), rest + new),
        (dataclasses.replace(SMALL, freeze="trunk", new_rows=64), new),
        (dataclasses.replace(SMALL, freeze="trunk", new_rows=64, adapter=adapter), new + factors),
    ):
        assert trained_count(config, step) == trained
        assert step_memory(config, step).moments == 8 * trained


def test_utilisation_is_a_share_of_all_devices():
    assert flops_utilisation(flops=2e12, seconds=2.0, devices=4, tflops=1.0) == 0.25


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU v4", "v4"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
    ],
)
def test_a_chip_is_known_by_the_name_that_jax_gives_it(kind, name):
    assert chip_of(kind) is CHIPS[name]


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA A100-SXM4-40GB", "TPU v99"])
def test_an_unknown_device_is_no_chip(kind):
    assert chip_of(kind) is None
