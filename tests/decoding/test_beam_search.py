import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tsrec_jax.decoding import beam_search as module
from tsrec_jax.decoding.beam_search import beam_search
from tsrec_jax.models.sharding import make_mesh, named_sharding


@functools.partial(jax.jit, static_argnums=0)
def forward(graphdef, state, rows):
    return nnx.merge(graphdef, state)(rows)


def step_scores(model, trie, prompts):
    """Log-probability of each level's token of every SID: one full forward pass over every prompt + SID, (B, N, C)."""
    levels = trie.num_levels
    codes_NC = np.asarray(trie.sid_codes_NC)
    ids_NC = np.stack([np.asarray(trie.token_ids[c])[codes_NC[:, c]] for c in range(levels)], axis=1)
    longest = max(map(len, prompts)) + levels
    rows_BNT = np.zeros((len(prompts), len(ids_NC), longest), np.int32)
    for row, prompt in enumerate(prompts):
        rows_BNT[row, :, : len(prompt)] = prompt
        rows_BNT[row, :, len(prompt) : len(prompt) + levels] = ids_NC
    logits = np.asarray(forward(*nnx.split(model), rows_BNT.reshape(-1, longest)), np.float64)
    logits = logits.reshape(*rows_BNT.shape, -1)
    logits = logits - logits.max(axis=-1, keepdims=True)
    scores = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    rows_B11, sids_N1 = np.arange(len(prompts))[:, None, None], np.arange(len(ids_NC))[:, None]
    steps_B1C = np.array([len(prompt) - 1 for prompt in prompts])[:, None, None] + np.arange(levels)
    return scores[rows_B11, sids_N1, steps_B1C, ids_NC]


def textbook_beams(scores_NC, codes_NC, beams):
    """(score, codes) of a beam search on the host over the step scores of all SIDs."""
    live = {(): 0.0}
    for level in range(codes_NC.shape[1]):
        grown = {}
        for codes, score in zip(map(tuple, codes_NC[:, : level + 1].tolist()), scores_NC[:, level], strict=True):
            if codes[:-1] in live:
                grown[codes] = live[codes[:-1]] + score
        live = dict(sorted(grown.items(), key=lambda entry: -entry[1])[:beams])
    return live


def best_sids(trie, totals_N, count):
    """{codes: score} of the best SIDs, best first."""
    codes_NC = np.asarray(trie.sid_codes_NC).tolist()
    return {tuple(codes_NC[leaf]): totals_N[leaf] for leaf in np.argsort(-totals_N)[:count]}


def assert_ranks(codes_WC, scores_W, wanted, gap=1e-4):
    """The wanted SIDs in the wanted order, but for neighbours whose scores are closer than `gap`."""
    wanted_codes, wanted_scores = np.array(list(wanted)), np.array(list(wanted.values()))
    np.testing.assert_allclose(scores_W, wanted_scores, atol=gap)
    near = np.abs(np.diff(wanted_scores)) <= gap
    clear = ~(np.append(near, False) | np.append(False, near))
    assert clear.mean() > 0.8, "the test needs distinct scores"
    np.testing.assert_array_equal(np.asarray(codes_WC)[clear], wanted_codes[clear])


@pytest.mark.parametrize(
    ("family", "tied", "sizes"),
    [("llama", True, (6, 5, 7)), ("qwen2", False, (8, 9)), ("qwen3", True, (4, 3, 5, 3)), ("llama", False, (20,))],
)
def test_enough_beams_equal_exhaustive_scoring_of_every_item(
    make_model, make_trie, prompts, padded, family, tied, sizes
):
    model, trie = make_model(family, tied), make_trie(sizes, items=40)
    found = beam_search(model, trie, *padded, trie.num_sids)
    for row, totals_N in enumerate(step_scores(model, trie, prompts).sum(axis=-1)):
        assert_ranks(found.codes_BWC[row], found.scores_BW[row], best_sids(trie, totals_N, trie.num_sids))


def test_as_many_beams_as_two_level_prefixes_are_exact(make_model, make_trie, prompts, padded):
    model, trie = make_model(), make_trie()
    beams = trie.children[-1].shape[0]
    assert beams < trie.num_sids
    found = beam_search(model, trie, *padded, beams)
    for row, totals_N in enumerate(step_scores(model, trie, prompts).sum(axis=-1)):
        assert_ranks(found.codes_BWC[row], found.scores_BW[row], best_sids(trie, totals_N, beams))


@pytest.mark.parametrize("beams", [1, 3, 10])
def test_few_beams_take_the_same_path_as_a_textbook_search(make_model, make_trie, prompts, padded, beams):
    model, trie = make_model(), make_trie()
    found = beam_search(model, trie, *padded, beams)
    for row, scores_NC in enumerate(step_scores(model, trie, prompts)):
        wanted = textbook_beams(scores_NC, np.asarray(trie.sid_codes_NC), beams)
        assert_ranks(found.codes_BWC[row], found.scores_BW[row], wanted)


def test_beams_beyond_the_sids_are_dead_and_the_rest_are_all_sids_once(make_model, make_trie, padded):
    trie = make_trie((3, 2, 2), items=6)
    found = beam_search(make_model(), trie, *padded, 50)
    count = trie.num_sids
    assert (np.sort(found.leaf_BW[:, :count], axis=1) == np.arange(count)).all()
    assert np.isfinite(found.scores_BW[:, :count]).all()
    assert np.isneginf(found.scores_BW[:, count:]).all()
    assert (np.asarray(found.leaf_BW[:, count:]) == -1).all()


def test_generated_codes_are_those_of_the_named_sid(make_model, make_trie, padded):
    trie = make_trie()
    found = beam_search(make_model(), trie, *padded, 10)
    np.testing.assert_array_equal(found.codes_BWC, trie.sid_codes_NC[found.leaf_BW])


def test_equal_scores_come_in_order_of_codes(make_model, make_trie, padded):
    model, trie = make_model(), make_trie()
    model.head[...] = jnp.zeros_like(model.head[...])
    found = beam_search(model, trie, *padded, 10)
    np.testing.assert_array_equal(found.leaf_BW, np.tile(np.arange(10), (5, 1)))
    np.testing.assert_allclose(found.scores_BW, -3 * np.log(96), rtol=1e-6)


def test_scores_are_normalised_over_the_used_ids_and_all_of_them(make_model, make_trie, padded):
    model, trie = make_model(), make_trie()
    before = beam_search(model, trie, *padded, 10)
    model.head[...] = model.head[...].at[96:].set(100.0)  # not in use
    np.testing.assert_array_equal(before.scores_BW, beam_search(model, trie, *padded, 10).scores_BW)
    model.head[...] = model.head[...].at[90:96].multiply(3.0)  # ordinary ids outside the trie
    assert not np.allclose(before.scores_BW, beam_search(model, trie, *padded, 10).scores_BW)


def test_the_length_of_the_padding_and_what_stands_in_it_do_not_matter(make_model, make_trie, padded):
    model, trie = make_model(), make_trie()
    tokens_BS, lengths_B = padded
    noisy = np.where(np.arange(40) < lengths_B[:, None], np.pad(tokens_BS, ((0, 0), (0, 16))), 31)
    short, long = beam_search(model, trie, tokens_BS, lengths_B, 10), beam_search(model, trie, noisy, lengths_B, 10)
    np.testing.assert_array_equal(short.leaf_BW, long.leaf_BW)
    np.testing.assert_allclose(short.scores_BW, long.scores_BW, atol=1e-4)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_nan_scores_come_first_as_infinity(make_model, make_trie, padded, sign):
    model = make_model()
    model.head[...] = model.head[...].at[40].set(np.copysign(np.float32(np.nan), np.float32(sign)))
    found = beam_search(model, make_trie(), *padded, 10)
    assert np.isposinf(found.scores_BW[:, 0]).all()


def test_one_compile_a_shape_whatever_weights_and_lengths(make_model, make_trie, padded):
    tokens_BS, lengths_B = padded
    tokens_BS = tokens_BS[:, :22]  # a shape of this test alone
    size = module._search._cache_size()
    beam_search(make_model(), make_trie(), tokens_BS, lengths_B, 6)
    assert module._search._cache_size() == size + 1
    beam_search(make_model(seed=1), make_trie(), tokens_BS[::-1], lengths_B[::-1] - 1, 6)
    assert module._search._cache_size() == size + 1


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 2, 2)])
def test_eight_devices_find_what_one_finds(make_model, make_trie, padded, axes):
    trie = make_trie()
    tokens_BS, lengths_B = (np.concatenate([part, part])[:8] for part in padded)
    alone = beam_search(make_model(), trie, tokens_BS, lengths_B, 10)
    mesh = make_mesh(*axes)
    sharded = jax.device_put((tokens_BS, lengths_B), named_sharding(mesh, "batch"))
    with jax.set_mesh(mesh):
        together = beam_search(make_model(mesh=mesh), trie, *sharded, 10)
    np.testing.assert_array_equal(alone.leaf_BW, together.leaf_BW)
    np.testing.assert_allclose(alone.scores_BW, together.scores_BW, atol=1e-4)
