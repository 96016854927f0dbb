import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tsrec_jax.decoding import beam_search as module
from tsrec_jax.decoding.beam_search import beam_search
from tsrec_jax.models.sharding import make_mesh, named_sharding


def log_probs(model, tokens):
    """float64 log-probabilities of the token after `tokens`, by a full forward pass."""
    logits_V = np.asarray(model(jnp.asarray([tokens], jnp.int32))[0, -1], np.float64)
    shifted = logits_V - logits_V.max()
    return shifted - np.log(np.exp(shifted).sum())


def exhaustive(model, trie, prompt):
    """Score of every SID: one full forward pass over prompt + SID each, batched by SID."""
    codes_NC = np.asarray(trie.sid_codes_NC)
    ids_NC = np.stack([np.asarray(trie.token_ids[c])[codes_NC[:, c]] for c in range(trie.num_levels)], axis=1)
    rows = np.concatenate([np.tile(prompt, (len(ids_NC), 1)), ids_NC], axis=1).astype(np.int32)
    logits = np.asarray(model(jnp.asarray(rows)), np.float64)[:, len(prompt) - 1 : -1]
    logits = logits - logits.max(axis=-1, keepdims=True)
    scores = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return np.take_along_axis(scores, ids_NC[..., None], axis=-1)[..., 0].sum(axis=1)


def reference_beams(model, trie, prompt, beams):
    """Textbook beam search on the host, every step a full forward pass."""
    live = [(0.0, (), 0)]
    for level in range(trie.num_levels):
        ids = np.asarray(trie.token_ids[level])
        grown = []
        for score, codes, node in live:
            path = [int(trie.token_ids[c][code]) for c, code in enumerate(codes)]
            step = log_probs(model, [*prompt, *path])
            for code, child in enumerate(np.asarray(trie.children[level][node])):
                if child >= 0:
                    grown.append((score + step[ids[code]], (*codes, code), int(child)))
        live = sorted(grown, key=lambda entry: -entry[0])[:beams]
    return live


@pytest.mark.parametrize(
    ("family", "tied", "sizes"),
    [("llama", True, (6, 5, 7)), ("qwen2", False, (8, 9)), ("qwen3", True, (4, 3, 5, 3)), ("llama", False, (20,))],
)
def test_enough_beams_equal_exhaustive_scoring_of_every_item(make_model, make_trie, prompts, padded, family, tied, sizes):
    model, trie = make_model(family, tied), make_trie(sizes)
    beams = max(trie.num_sids, *(table.shape[0] for table in trie.children))
    found = beam_search(model, trie, *padded, beams)
    for row, prompt in enumerate(prompts):
        wanted_N = exhaustive(model, trie, prompt)
        order = np.argsort(-wanted_N)
        np.testing.assert_allclose(found.scores_BW[row][: trie.num_sids], wanted_N[order], atol=1e-4)
        assert np.diff(wanted_N[order]).max() < -1e-4, "the test needs distinct scores"
        np.testing.assert_array_equal(found.leaf_BW[row][: trie.num_sids], order)


def test_exact_beams_need_only_the_prefixes_of_the_last_but_one_level(make_model, make_trie, prompts, padded):
    model, trie = make_model(), make_trie((6, 5, 7), items=90)
    beams = trie.children[-1].shape[0]
    assert beams < trie.num_sids
    found = beam_search(model, trie, *padded, beams)
    for row, prompt in enumerate(prompts):
        best = np.argsort(-exhaustive(model, trie, prompt))[:beams]
        np.testing.assert_array_equal(found.leaf_BW[row], best)


@pytest.mark.parametrize("beams", [1, 3, 8])
def test_few_beams_take_the_same_path_as_a_textbook_search(make_model, make_trie, prompts, padded, beams):
    model, trie = make_model("qwen2"), make_trie((6, 5, 7), items=90)
    found = beam_search(model, trie, *padded, beams)
    for row, prompt in enumerate(prompts[:2]):
        wanted = reference_beams(model, trie, prompt, beams)
        np.testing.assert_array_equal(found.codes_BWC[row], [codes for _, codes, _ in wanted])
        np.testing.assert_array_equal(found.leaf_BW[row], [leaf for _, _, leaf in wanted])
        np.testing.assert_allclose(found.scores_BW[row], [score for score, _, _ in wanted], atol=1e-4)


def test_beams_beyond_the_sids_are_dead_and_the_rest_are_all_sids_once(make_model, make_trie, padded):
    trie = make_trie((3, 2, 2), items=6)
    found = beam_search(make_model(), trie, *padded, 50)
    count = trie.num_sids
    assert (np.sort(found.leaf_BW[:, :count], axis=1) == np.arange(count)).all()
    assert np.isfinite(found.scores_BW[:, :count]).all()
    assert np.isneginf(found.scores_BW[:, count:]).all()
    assert (np.asarray(found.leaf_BW[:, count:]) == -1).all()


def test_generated_codes_are_those_of_the_named_sid(make_model, make_trie, padded):
    trie = make_trie((6, 5, 7), items=90)
    found = beam_search(make_model(), trie, *padded, 10)
    np.testing.assert_array_equal(found.codes_BWC, trie.sid_codes_NC[found.leaf_BW])


def test_equal_scores_come_in_order_of_codes(make_model, make_trie, padded):
    model, trie = make_model(tied=False), make_trie((6, 5, 7), items=90)
    model.head[...] = jnp.zeros_like(model.head[...])
    found = beam_search(model, trie, *padded, 9)
    np.testing.assert_array_equal(found.leaf_BW, np.tile(np.arange(9), (5, 1)))
    np.testing.assert_allclose(found.scores_BW, -3 * np.log(96), rtol=1e-6)


def test_scores_are_normalised_over_used_ids_only(make_model, make_trie, padded):
    trie = make_trie((5, 5), items=20)
    model = make_model(tied=False)
    before = beam_search(model, trie, *padded, 5)
    model.head[...] = model.head[...].at[96:].set(100.0)
    after = beam_search(model, trie, *padded, 5)
    np.testing.assert_array_equal(before.scores_BW, after.scores_BW)
    model.head[...] = model.head[...].at[90:96].set(0.0)  # ordinary ids, outside the trie, count
    assert not np.allclose(before.scores_BW, beam_search(model, trie, *padded, 5).scores_BW)


def test_the_length_of_the_padding_and_what_stands_in_it_do_not_matter(make_model, make_trie, padded):
    model, trie = make_model(), make_trie()
    tokens_BS, lengths_B = padded
    noisy = jnp.where(jnp.arange(40) < lengths_B[:, None], jnp.pad(tokens_BS, ((0, 0), (0, 16))), 31)
    short, long = beam_search(model, trie, tokens_BS, lengths_B, 10), beam_search(model, trie, noisy, lengths_B, 10)
    np.testing.assert_array_equal(short.leaf_BW, long.leaf_BW)
    np.testing.assert_allclose(short.scores_BW, long.scores_BW, atol=1e-5)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_nan_scores_come_first_as_infinity(make_model, make_trie, padded, sign):
    model = make_model(tied=False)
    model.head[...] = model.head[...].at[40].set(np.copysign(np.float32(np.nan), np.float32(sign)))
    found = beam_search(model, make_trie(), *padded, 4)
    assert np.isposinf(found.scores_BW[:, 0]).all()


def test_one_compile_a_shape_whatever_weights_trie_values_and_lengths(make_model, make_trie, padded):
    tokens_BS, lengths_B = padded
    tokens_BS = tokens_BS[:, :22]  # a shape of this test alone
    trie = make_trie()
    moved = jax.tree.map(lambda x: x, trie)
    size = module._search._cache_size()
    beam_search(make_model(), trie, tokens_BS, lengths_B, 6)
    assert module._search._cache_size() == size + 1
    beam_search(make_model(seed=1), moved, tokens_BS[::-1], lengths_B[::-1] - 1, 6)
    assert module._search._cache_size() == size + 1


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 2, 2)])
def test_eight_devices_find_what_one_finds(make_model, make_trie, padded, axes):
    if jax.device_count() != 8:
        pytest.skip("needs 8 (emulated) devices")
    trie = make_trie()
    tokens_BS, lengths_B = (jnp.concatenate([part, part])[:8] for part in padded)
    alone = beam_search(make_model(), trie, tokens_BS, lengths_B, 12)
    mesh = make_mesh(*axes)
    sharded = jax.device_put((tokens_BS, lengths_B), named_sharding(mesh, "batch"))
    with jax.set_mesh(mesh):
        together = beam_search(make_model(mesh=mesh), trie, *sharded, 12)
    np.testing.assert_array_equal(alone.leaf_BW, together.leaf_BW)
    np.testing.assert_allclose(alone.scores_BW, together.scores_BW, atol=1e-5)


def test_the_search_leaves_the_model_as_it_was(make_model, make_trie, padded):
    model = make_model()
    before = jax.tree.map(np.asarray, nnx.state(model))
    beam_search(model, make_trie(), *padded, 4)
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, nnx.state(model)))
