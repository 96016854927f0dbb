import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models.reference import forward, tiny_facts, tiny_tokens
from tsrec_jax.errors import UserError
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.layers import rope_frequencies
from tsrec_jax.models.sharding import make_mesh

FAMILIES = ("llama_tied", "qwen2_untied", "qwen3_untied")


def test_packed_segments_are_as_if_alone(make_model):
    model = make_model("qwen3_tied")
    one, two = tiny_tokens(1, 5, seed=1), tiny_tokens(1, 7, seed=2)
    packed_BT = np.concatenate([one, two, np.zeros((1, 4), int)], axis=1)
    positions_BT = np.array([[*range(5), *range(7), 0, 0, 0, 0]])
    segments_BT = np.array([[1] * 5 + [2] * 7 + [0] * 4])
    logits = forward(model, packed_BT, positions_BT, segments_BT)
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(logits[:, :5], forward(model, one), atol=1e-5)
    np.testing.assert_allclose(logits[:, 5:12], forward(model, two), atol=1e-5)


def test_rows_beyond_the_window_of_a_local_layer_are_refused(make_model):
    with pytest.raises(UserError, match=r"rows of 25 positions, and a gemma3_text is run up to .* of 24"):
        make_model("gemma3_tied").hidden(tiny_tokens(1, 25))


def test_a_token_does_not_see_later_ones(make_model):
    model = make_model()
    tokens_BT = tiny_tokens(1, 8)
    changed_BT = tokens_BT.copy()
    changed_BT[0, 5] = (changed_BT[0, 5] + 1) % 40
    before, after = forward(model, tokens_BT), forward(model, changed_BT)
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert (before[:, 5:] != after[:, 5:]).any(axis=-1).all()


def test_gradients_are_the_same_with_and_without_remat(make_model):
    def gradients(remat):
        graphdef, state = nnx.split(make_model(remat=remat))

        def loss(state):
            return jnp.mean(jnp.square(nnx.merge(graphdef, state)(tiny_tokens())))

        program = jax.jit(jax.grad(loss))
        return program.trace(state), program(state)

    (plain_trace, plain), (remat_trace, rematerialised) = gradients(False), gradients(True)
    assert "remat" in str(remat_trace.jaxpr) or "checkpoint" in str(remat_trace.jaxpr)
    assert "remat" not in str(plain_trace.jaxpr) and "checkpoint" not in str(plain_trace.jaxpr)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), plain, rematerialised)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(plain))


def test_a_tied_model_has_one_table(make_model):
    tied, untied = make_model("llama_tied"), make_model("llama_untied_llama3")
    assert tied.head is None and untied.head is not None
    leaves = [len(jax.tree.leaves(nnx.state(model, nnx.Param))) for model in (tied, untied)]
    assert leaves == [11, 12]
    tied.embedding[...] = tied.embedding[...] * 2
    np.testing.assert_array_equal(tied.output_table(), tied.embedding[...])


def test_ids_beyond_the_used_vocabulary_cannot_be_predicted(make_model):
    model = make_model()
    before = forward(model, tiny_tokens())
    model.num_tokens = 33
    after = forward(model, tiny_tokens())
    assert np.isneginf(after[..., 33:]).all()
    np.testing.assert_array_equal(after[..., :33], before[..., :33])


def test_bfloat16_computes_near_float32_and_returns_float32_logits(make_model):
    full, half = make_model("qwen2_tied"), make_model("qwen2_tied", dtype="bfloat16")
    assert half.embedding[...].dtype == jnp.float32
    assert jax.eval_shape(half.hidden, tiny_tokens()).dtype == jnp.bfloat16
    logits, wanted = forward(half, tiny_tokens()), forward(full, tiny_tokens())
    assert logits.dtype == np.float32
    assert np.abs(logits - wanted).max() < 0.05 * np.abs(wanted).max()


@pytest.mark.parametrize(("case", "sizes"), [("qwen3_untied", (2, 2, 2)), ("llama_tied", (1, 8, 1))])
def test_eight_devices_give_what_one_gives(case, sizes, make_model):
    tokens_BT = tiny_tokens(8, 12)
    wanted = forward(make_model(case), tokens_BT)
    mesh = make_mesh(*sizes)
    with jax.set_mesh(mesh):
        model = make_model(case, mesh=mesh)
        got = forward(model, tokens_BT)
    _, fsdp, tensor = sizes
    table = model.embedding[...]
    assert table.sharding.shard_shape(table.shape) == (40 // (fsdp * tensor), 16)
    q = model.blocks.q[...]
    assert q.sharding.shard_shape(q.shape) == (2, 16 // fsdp, 4 // tensor, model.config.head_dim)
    np.testing.assert_allclose(got, wanted, atol=2e-5, rtol=1e-5)


def test_fresh_weights_are_small_and_norms_are_one():
    config = ModelConfig.from_hf(tiny_facts("qwen2_untied") | {"hidden_size": 64, "vocab_size": 200})
    model = Decoder(config, param_dtype="bfloat16", rngs=nnx.Rngs(3))
    table = np.asarray(model.embedding[...], np.float32)
    assert model.embedding[...].dtype == jnp.bfloat16
    assert abs(table.mean()) < 1e-3 and abs(table.std() - 0.02) < 1e-3
    assert not np.array_equal(table, np.asarray(model.head[...], np.float32))
    assert (np.asarray(model.blocks.mlp_norm[...]) == 1).all() and (np.asarray(model.blocks.k_bias[...]) == 0).all()


def test_llama3_scaling_slows_long_waves_and_blends_shorter_ones(make_model):
    scaled = np.asarray(rope_frequencies(make_model("llama_untied_llama3").config))
    plain = 73.0 ** -(np.arange(0, 8, 2) / 8)
    turns = 16 * plain / (2 * np.pi)  # of each wave within the original context
    assert (turns < 1).any() and 1 < turns[0] < 4
    np.testing.assert_allclose(scaled[turns < 1], plain[turns < 1] / 8, rtol=1e-6)
    share = (turns[0] - 1) / (4 - 1)
    np.testing.assert_allclose(scaled[0], plain[0] * (share + (1 - share) / 8), rtol=1e-6)
