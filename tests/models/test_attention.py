"""Every backend computes the attention of XLA; the kernels in their emulation, since there is no accelerator here."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from tests.models.reference import tiny_facts, tiny_tokens
from tsrec_jax.models import attention
from tsrec_jax.models.attention import KERNELS, SETTINGS, causal_attention, choose, largest_difference
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.inference import InferenceModel, make_prefix, prefill
from tsrec_jax.models.settings import ModelSettings
from tsrec_jax.models.sharding import MESH_AXES, make_mesh
from tsrec_jax.section import choices_of

CONFIG = ModelConfig.from_hf(tiny_facts("llama_tied"))


@pytest.fixture
def on_a(monkeypatch):
    """Lets the choice believe that it is on a platform; the kernels stay emulated."""

    def be(platform, **kernels):
        attention._fault.cache_clear()
        attention._say_once.cache_clear()
        monkeypatch.setattr(jax, "default_backend", lambda: platform)
        for name, kernel in kernels.items():
            monkeypatch.setitem(KERNELS, name, lambda *arrays, emulated, kernel=kernel: kernel(*arrays, emulated=True))

    yield be
    attention._fault.cache_clear()
    attention._say_once.cache_clear()


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("backend", KERNELS)
def test_kernels_give_the_outputs_and_gradients_of_xla(backend):
    # Three query heads a key head, features that no vector and positions that no block divides into.
    assert largest_difference(backend, heads=6, kv_heads=2, head_dim=10, dtype="float32") < 1e-5


@pytest.mark.parametrize(
    ("backend", "platform", "device"),
    [("pallas", "cuda", ("NVIDIA H100 80GB HBM3", None, "gpu")), ("splash", "tpu", ("TPU v5p", 1, "tpu"))],
)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim", "length"), [(9, 3, 64, 160), (4, 2, 6, 12)])
def test_kernels_are_lowered_for_devices_that_are_not_here(
    backend, platform, device, heads, kv_heads, head_dim, length
):
    def gradients(q, k, v, ids):
        out, gradient = jax.vjp(lambda q, k, v: KERNELS[backend](q, k, v, ids), q, k, v)
        return gradient(out)

    arrays = [jax.ShapeDtypeStruct((2, length, count, head_dim), "bfloat16") for count in (heads, kv_heads, kv_heads)]
    ids = jax.ShapeDtypeStruct((2, length), "int32")
    with use_abstract_mesh(AbstractMesh((1, 1, 1), MESH_AXES, abstract_device=AbstractDevice(*device))):
        lowered = jax.jit(gradients).trace(*arrays, ids).lower(lowering_platforms=(platform,))
    assert "custom_call" in lowered.as_text()


@pytest.mark.parametrize("backend", ("xla", *KERNELS))
def test_segments_of_a_row_do_not_see_each_other(backend):
    ids_BT = jnp.array([[1] * 9 + [2] * 7 + [0] * 4])
    q, k, v, other = jax.random.normal(jax.random.key(1), (4, 1, 20, 2, 8))
    attend = causal_attention(backend, 20, 20, ids_BT)
    outside_BT = (ids_BT != 2)[:, :, None, None]

    @jax.jit
    def of_segment_2(q, k, v):
        return jnp.where(outside_BT, 0, attend(q, k, v))

    out, gradient = jax.vjp(of_segment_2, q, k, v)
    changed = (jnp.where(outside_BT, other, x) for x in (q, k, v))
    np.testing.assert_array_equal(of_segment_2(*changed), out)
    for of_input in gradient(other):
        assert np.isfinite(of_input).all()
        assert (np.asarray(of_input)[:, :9] == 0).all() and (np.asarray(of_input)[:, 16:] == 0).all()
        assert (np.asarray(of_input)[:, 10:16] != 0).any(axis=(-1, -2)).all()  # the query at 9 has no choice


def loss_and_gradients(model, tokens_BT, segment_ids_BT):
    graphdef, state = nnx.split(model)

    @jax.jit
    def run(state, tokens_BT, segment_ids_BT):
        def loss(state):
            return jnp.mean(jnp.square(nnx.merge(graphdef, state)(tokens_BT, None, segment_ids_BT)))

        return jax.value_and_grad(loss)(state)

    return run(state, tokens_BT, segment_ids_BT)


@pytest.mark.parametrize(("backend", "rows"), [*((name, 8) for name in KERNELS), ("pallas", 3)])  # 3 do not divide
def test_on_a_mesh_kernels_give_what_xla_gives_on_one_device(backend, rows, make_model):
    tokens_BT = tiny_tokens(rows, 12)
    segment_ids_BT = np.array([[1] * 5 + [2] * 4 + [0] * 3] * rows, np.int32)
    wanted = loss_and_gradients(make_model(), tokens_BT, segment_ids_BT)
    mesh = make_mesh(2, 2, 2)
    with jax.set_mesh(mesh):
        model = make_model(mesh=mesh)
        model.attention = backend
        got = loss_and_gradients(model, tokens_BT, segment_ids_BT)
        assert "shard_map" in str(jax.make_jaxpr(model.hidden)(tokens_BT))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, wanted)


@pytest.mark.parametrize("backend", KERNELS)
def test_prompts_behind_a_prefix_are_read_by_kernels_too(backend, make_model):
    prompts_BS, lengths_B = tiny_tokens(2, 9), np.array([5, 9])

    def read(backend):
        model = make_model("qwen3_untied")
        model.attention = backend
        model = InferenceModel.of(model)
        prefix = make_prefix(model, (3, 1, 4, 1, 5))
        return jax.jit(prefill)(model, prompts_BS, lengths_B, prefix)

    x_DB, cache = read(backend)
    wanted_DB, wanted_cache = read("xla")
    np.testing.assert_allclose(x_DB, wanted_DB, atol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), cache, wanted_cache)


def test_the_settings_are_those_of_the_config():
    (field,) = (field for field in dataclasses.fields(ModelSettings) if field.name == "attention")
    assert choices_of(ModelSettings, field) == SETTINGS


def test_on_a_cpu_xla_is_chosen_without_a_word(caplog):
    for dtype in ("float32", "bfloat16"):
        assert choose("auto", CONFIG, dtype) == choose("xla", CONFIG, dtype) == "xla"
    assert lines(caplog) == []


def test_what_the_platform_does_not_have_is_said_once(caplog, on_a):
    on_a("cpu")
    assert [choose("splash", CONFIG, "float32") for _ in range(2)] == ["xla", "xla"]
    assert lines(caplog) == ["attention is computed by xla (not by splash: it needs a TPU)"]


def test_on_a_gpu_the_first_kernel_that_passes_its_trial_is_chosen(caplog, on_a):
    on_a("gpu", cudnn=KERNELS["cudnn"])
    assert choose("auto", CONFIG, "bfloat16") == "cudnn"
    assert choose("auto", CONFIG, "float32") == "xla"
    assert lines(caplog) == []
    assert choose("cudnn", CONFIG, "float32") == "xla"
    assert lines(caplog) == ["attention is computed by xla (not by cudnn: it does not compute in float32)"]


def test_a_kernel_that_lets_segments_see_each_other_is_not_used(caplog, on_a):
    def blind(q, k, v, segment_ids, emulated):
        return right(q, k, v, jnp.zeros_like(segment_ids), emulated=emulated)

    def broken(*arrays, emulated):
        raise RuntimeError("no such driver\nand a long trace")

    right = KERNELS["cudnn"]
    on_a("gpu", cudnn=broken, pallas=blind)
    assert choose("auto", CONFIG, "bfloat16") == "xla"
    (line,) = lines(caplog)
    assert "not by cudnn: RuntimeError: no such driver; not by pallas: its results are" in line


def test_a_trial_is_made_outside_of_the_mesh_and_the_trace_that_are_around(on_a):
    on_a("gpu", cudnn=KERNELS["cudnn"])
    with jax.set_mesh(make_mesh(2, 2, 2)):
        model = nnx.eval_shape(lambda: Decoder(CONFIG, dtype="bfloat16", rngs=nnx.Rngs(0)))
    assert model.attention == InferenceModel.of(Decoder(CONFIG, dtype="bfloat16")).attention == "cudnn"


def test_a_kernel_that_gives_nan_is_not_used(on_a):
    on_a("tpu", splash=lambda q, k, v, ids, emulated: q * jnp.nan)
    assert choose("auto", CONFIG, "float32") == "xla"
