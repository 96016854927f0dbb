"""Meshes of data x fsdp x tensor on eight emulated devices: the curve of one device, real shards, no wasted traffic."""

import contextlib
import math
import re

import jax
import numpy as np
import pytest

from tests.training.test_step import settings
from tsrec_jax.data.catalogue import Catalogue, Item
from tsrec_jax.data.input import train_batches
from tsrec_jax.data.sid_paths import SidPaths
from tsrec_jax.data.tasks.task import Example
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.layers import parameter_shapes
from tsrec_jax.models.sharding import make_mesh, named_sharding
from tsrec_jax.training.loop import put_batch
from tsrec_jax.training.loss import SftLoss
from tsrec_jax.training.step import first_step_and_state

SHAPES = ((8, 1, 1), (1, 8, 1), (2, 4, 1), (4, 1, 2), (2, 2, 2), (1, 2, 4))
STEPS = 20
# Sizes at which the stacked kernels and the table are larger than any activation, and no two of them alike.
CONFIG = ModelConfig.from_hf(
    {
        "model_type": "llama",
        "vocab_size": 640,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
)
SMALLEST_KERNEL = 4 * 64 * 64


def batches():
    rng = np.random.default_rng(0)
    rows = [
        Example("ab"[index % 2], rng.integers(1, 640, 8).astype(np.int32), int(rng.integers(4, 7)), f"row/{index}")
        for index in range(64)
    ]
    made = train_batches(
        {"a": rows[::2], "b": rows[1::2]},
        rates={"a": 1.0, "b": 1.0},
        sequence_length=16,
        rows=8,
        loss_slots=8,
        accumulation=1,
        seed=0,
    )
    return [made.batch(step) for step in range(1, STEPS + 1)]


SIDS = tuple((f"<a_{n % 5}>", f"<b_{n % 7}>", f"<c_{n}>") for n in range(24))
CATALOGUE = Catalogue(tuple(Item(str(n), "") for n in range(24)), SIDS)
PATHS = SidPaths.of_catalogue(CATALOGUE, 600)


def sid_batches():
    """Histories of SIDs between words."""
    known = {token: 600 + number for number, token in enumerate(CATALOGUE.tokens)}
    rng = np.random.default_rng(1)
    rows = []
    for index in range(64):
        sids = [[known[token] for token in SIDS[item]] for item in rng.integers(0, 24, 3)]
        tokens = [int(rng.integers(1, 600)), *sids[0], *sids[1], int(rng.integers(1, 600)), *sids[2]]
        others = CATALOGUE.tokens_IC[[index % 24, (index + 9) % 24]].reshape(-1)
        ranked = np.concatenate([part for sid in sids[1:] for part in (np.array(sid) - 600, others)])
        ranked = ranked.astype(np.int32)[: None if index % 2 else 0]  # each other row is certain
        rows.append(Example("a", np.array(tokens, np.int32), 4, f"row/{index}", ranked))
    made = train_batches(
        {"a": rows},
        rates={"a": 1.0},
        sequence_length=16,
        rows=8,
        loss_slots=8,
        accumulation=1,
        seed=0,
        paths=PATHS,
        top_k=3,
    )
    return [made.batch(step) for step in range(1, 6)]


def run(mesh, batches=batches, paths=None, dropout=0.0):
    """Losses of all steps, the last state and the compiled step on a mesh (None: one device)."""
    rng = np.random.default_rng(0)
    weights = {
        name: jax.device_put(
            (rng.normal(0.0, 0.05, shape) + name.endswith("norm")).astype(np.float32), named_sharding(mesh, *axes)
        )
        for name, (shape, axes) in parameter_shapes(CONFIG).items()
    }
    rates = settings(learning_rate=3e-3, loss_chunk=4, dropout=dropout)
    loss = SftLoss({"a": 1.0, "b": 1.0}, rates, paths)
    step, state = first_step_and_state(Decoder(CONFIG, weights=weights), loss, rates)
    inputs = [put_batch(batch, mesh) for batch in batches()]
    compiled = step.update.lower(state, inputs[0]).compile()
    losses = []
    for batch in inputs:
        state, metrics = compiled(state, batch)
        losses.append(float(metrics["loss"]))
    return losses, state, compiled


@pytest.fixture(scope="module")
def losses_of_one_device():
    with jax.default_matmul_precision("highest"):
        return run(None)[0]


def test_a_mesh_drops_what_one_device_drops():
    found = []
    for mesh in (None, make_mesh(2, 2, 2)):
        with jax.default_matmul_precision("highest"), contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
            found.append(run(mesh, dropout=0.3)[0])
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)], ids=lambda shape: "x".join(map(str, shape)))
def test_sid_tokens_learned_among_their_siblings_follow_the_curve_of_one_device(shape):
    found = []
    for mesh in (None, make_mesh(*shape)):
        with jax.default_matmul_precision("highest"), contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
            found.append(run(mesh, sid_batches, PATHS)[0])
    assert len(set(found[0])) == 5
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)


def collectives(text):
    """(kind, shapes of the result, whether it is run by a loop) of every collective of a compiled program."""
    bodies, calls, found = {}, {}, []
    for computation in re.split(r"\n(?=\S)", text):
        name = re.match(r"(?:ENTRY )?%?([\w.\-]+)", computation)
        if name is None:
            continue
        name = name[1]
        calls[name] = set(
            re.findall(r"(?:to_apply|calls|body|condition|branch_computations)=\{?%?([\w.\-]+)", computation)
        )
        bodies |= dict.fromkeys(re.findall(r"body=%?([\w.\-]+)", computation), True)
        for result, kind in re.findall(r"= (.*?) (all-gather|all-reduce|all-to-all)(?:-start)?\(", computation):
            shapes = [tuple(int(n) for n in dims.split(",") if n) for dims in re.findall(r"\[([\d,]*)\]", result)]
            found.append((kind, shapes, name))
    looped, waiting = set(), list(bodies)
    while waiting:
        each = waiting.pop()
        if each not in looped:
            looped.add(each)
            waiting += calls.get(each, ())
    return [(kind, shapes, name in looped) for kind, shapes, name in found]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_a_mesh_gives_the_losses_of_one_device_with_real_shards_and_no_wasted_traffic(
    shape, losses_of_one_device, capfd
):
    mesh = make_mesh(*shape)
    with jax.default_matmul_precision("highest"), jax.set_mesh(mesh):
        losses, state, compiled = run(mesh)
    np.testing.assert_allclose(losses, losses_of_one_device, atol=1e-5, rtol=0)
    assert losses[-1] < losses[0] - 0.1

    # Parameters and both moments: all but norms and scalars are split over fsdp x tensor.
    leaves = [leaf for tree in (state.trained, state.opt_state) for leaf in jax.tree.leaves(tree)]
    whole = {leaf.shape for leaf in leaves if leaf.size < SMALLEST_KERNEL}
    assert whole == {(), (4, 64), (64,)}
    wanted = sum(leaf.nbytes // (1 if leaf.shape in whole else shape[1] * shape[2]) for leaf in leaves)
    for device in jax.devices():
        held = sum(s.data.nbytes for leaf in leaves for s in leaf.addressable_shards if s.device == device)
        assert held == wanted

    assert "rematerialization" not in capfd.readouterr().err
    found = collectives(compiled.as_text())
    assert any(looped for _, _, looped in found), "the layers' collectives were not found: the text has another form"
    tables = {(640 // parts, 64) for parts in (1, 2, 4, 8)}
    for kind, results, looped in found:
        for result in results:
            assert kind != "all-gather" or math.prod(result) < SMALLEST_KERNEL, f"{kind} {result} gathers a parameter"
            assert not looped or result not in tables, f"{kind} {result} moves the table in every turn of a loop"
