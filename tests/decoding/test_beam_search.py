import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tsrec_jax.decoding.beam_search import SearchSettings, beam_search
from tsrec_jax.models.inference import InferenceModel, log_normaliser, make_prefix
from tsrec_jax.models.sharding import make_mesh, named_sharding


def search(model, trie, padded, beams, prefix=None, **settings):
    """The search of a training-form model on a trie."""
    return beam_search(InferenceModel.of(model), trie.arrays, *padded, SearchSettings(beams, **settings), prefix)


@functools.partial(jax.jit, static_argnums=0)
def forward(graphdef, state, rows):
    return nnx.merge(graphdef, state)(rows)


def step_scores(model, trie, prompts):
    """Log-probability of each level's token of every SID: one full forward pass over every prompt + SID, (B, N, C)."""
    levels = trie.num_levels
    codes_NC = trie.sid_codes()
    ids_NC = np.stack([trie.token_ids[c][codes_NC[:, c]] for c in range(levels)], axis=1)
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
    codes_NC = trie.sid_codes().tolist()
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
    found = search(model, trie, padded, trie.num_sids)
    for row, totals_N in enumerate(step_scores(model, trie, prompts).sum(axis=-1)):
        assert_ranks(found.codes_BWC[row], found.scores_BW[row], best_sids(trie, totals_N, trie.num_sids))


def test_as_many_beams_as_two_level_prefixes_are_exact(make_model, make_trie, prompts, padded):
    model, trie = make_model(), make_trie()
    beams = trie.prefixes(trie.num_levels - 1)
    assert beams < trie.num_sids
    found = search(model, trie, padded, beams)
    for row, totals_N in enumerate(step_scores(model, trie, prompts).sum(axis=-1)):
        assert_ranks(found.codes_BWC[row], found.scores_BW[row], best_sids(trie, totals_N, beams))


@pytest.mark.parametrize("beams", [1, 3, 10])
def test_few_beams_take_the_same_path_as_a_textbook_search(make_model, make_trie, prompts, padded, beams):
    model, trie = make_model(), make_trie()
    found = search(model, trie, padded, beams)
    for row, scores_NC in enumerate(step_scores(model, trie, prompts)):
        wanted = textbook_beams(scores_NC, trie.sid_codes(), beams)
        assert_ranks(found.codes_BWC[row], found.scores_BW[row], wanted)


def test_beams_beyond_the_sids_are_dead_and_the_rest_are_all_sids_once(make_model, make_trie, padded):
    trie = make_trie((3, 2, 2), items=6)
    found = search(make_model(), trie, padded, 50)
    count = trie.num_sids
    for codes_WC in np.asarray(found.codes_BWC)[:, :count]:
        np.testing.assert_array_equal(np.unique(codes_WC, axis=0), trie.sid_codes())
    assert np.isfinite(found.scores_BW[:, :count]).all()
    assert np.isneginf(found.scores_BW[:, count:]).all()


def test_no_more_beams_than_there_are_codes_are_computed(make_model, make_trie, padded):
    assert search(make_model(), make_trie((3, 2, 2), items=6), padded, 50).scores_BW.shape == (5, 3 * 2 * 2)


def test_equal_scores_come_in_order_of_codes(make_model, make_trie, padded):
    model, trie = make_model(), make_trie()
    model.head[...] = jnp.zeros_like(model.head[...])
    found = search(model, trie, padded, 10)
    np.testing.assert_array_equal(found.codes_BWC, np.tile(trie.sid_codes()[:10], (5, 1, 1)))
    np.testing.assert_allclose(found.scores_BW, -3 * np.log(96), rtol=1e-6)


def test_scores_are_normalised_over_the_used_ids_and_all_of_them(make_model, make_trie, padded):
    model, trie = make_model(), make_trie()
    before = search(model, trie, padded, 10)
    model.head[...] = model.head[...].at[96:].set(100.0)  # not in use
    np.testing.assert_array_equal(before.scores_BW, search(model, trie, padded, 10).scores_BW)
    model.head[...] = model.head[...].at[90:96].multiply(3.0)  # ordinary ids outside the trie
    assert not np.allclose(before.scores_BW, search(model, trie, padded, 10).scores_BW)


def test_the_length_of_the_padding_and_what_stands_in_it_do_not_matter(make_model, make_trie, padded):
    model, trie = make_model(), make_trie()
    tokens_BS, lengths_B = padded
    noisy = np.where(np.arange(40) < lengths_B[:, None], np.pad(tokens_BS, ((0, 0), (0, 16))), 31)
    short, long = search(model, trie, padded, 10), search(model, trie, (noisy, lengths_B), 10)
    np.testing.assert_array_equal(short.codes_BWC, long.codes_BWC)
    np.testing.assert_allclose(short.scores_BW, long.scores_BW, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_shared_beginning_computed_once_changes_nothing(make_model, make_trie, padded, family):
    model, trie = make_model(family), make_trie()
    tokens_BS, lengths_B = padded
    shared = (5, 9, 2, 7)
    whole = np.concatenate([np.tile(shared, (5, 1)), tokens_BS], axis=1).astype(np.int32)
    prefix = make_prefix(InferenceModel.of(model), shared)
    alone, cached = search(model, trie, (whole, lengths_B + 4), 10), search(model, trie, padded, 10, prefix)
    np.testing.assert_array_equal(alone.codes_BWC, cached.codes_BWC)
    np.testing.assert_allclose(alone.scores_BW, cached.scores_BW, atol=1e-4)


def test_scores_over_a_level_or_over_the_allowed_codes_are_conditional_probabilities(make_model, make_trie, padded):
    model, trie = make_model(), make_trie()
    for normaliser in ("level", "constrained"):
        found = search(model, trie, padded, trie.num_sids, normaliser=normaliser)
        mass_B = np.exp(np.asarray(found.scores_BW, np.float64)).sum(axis=1)
        if normaliser == "constrained":
            np.testing.assert_allclose(mass_B, 1.0, rtol=1e-5)
        else:
            assert (mass_B < 0.999).all(), "some codes have no item, and keep their share"
        first = {}
        for codes, score in zip(np.asarray(found.codes_BWC[0]), np.asarray(found.totals_BWC[0, :, 0]), strict=True):
            first[codes[0]] = score
        # All six codes of the first level have items, so that both normalise over the same.
        assert len(first) == 6
        np.testing.assert_allclose(np.exp(list(first.values())).sum(), 1.0, rtol=1e-5)


def test_totals_are_the_scores_of_the_first_codes(make_model, make_trie, prompts, padded):
    model, trie = make_model(), make_trie()
    found = search(model, trie, padded, 10)
    wanted = step_scores(model, trie, prompts).cumsum(axis=-1)
    number = {tuple(codes): n for n, codes in enumerate(trie.sid_codes().tolist())}
    for row in range(5):
        leaves = [number[tuple(codes)] for codes in np.asarray(found.codes_BWC[row]).tolist()]
        np.testing.assert_allclose(found.totals_BWC[row], wanted[row, leaves], atol=1e-4)


def test_the_best_score_let_go_bounds_every_sid_that_was_not_found(make_model, make_trie, prompts, padded):
    model, trie, beams = make_model(), make_trie(), 10
    model.head[...] = model.head[...] * 16  # some prompts are answered surely, others not
    codes_NC = trie.sid_codes()
    found = search(model, trie, padded, beams)
    proven = 0
    for row, totals_N in enumerate(step_scores(model, trie, prompts).sum(axis=-1)):
        kept = set(map(tuple, np.asarray(found.codes_BWC[row]).tolist()))
        missed_N = [tuple(codes) not in kept for codes in codes_NC.tolist()]
        assert totals_N[missed_N].max() <= float(found.dropped_B[row]) + 1e-2
        count = int((found.scores_BW[row] > found.dropped_B[row]).sum())
        np.testing.assert_allclose(found.scores_BW[row, :count], np.sort(totals_N)[::-1][:count], rtol=1e-4)
        proven += count
    assert 0 < proven < 5 * beams, "the test needs answers that are proven and answers that are not"
    assert np.isneginf(search(model, trie, padded, trie.num_sids).dropped_B).all()


def test_the_normaliser_is_the_same_in_parts_as_in_one_piece(make_model):
    model = InferenceModel.of(make_model())
    x_DBW = jax.random.normal(jax.random.key(0), (32, 3, 211))
    wanted = jax.nn.logsumexp(jnp.einsum("dbw,vd->bwv", x_DBW, model.output_table[:96]), axis=-1)
    for width in (1, 20, 60, 211):
        np.testing.assert_allclose(log_normaliser(model, x_DBW[..., :width]), wanted[:, :width], rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beams": 0}, "beams=0"),
        ({"normaliser": "items"}, "'items' is not one of vocabulary, level, constrained"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SearchSettings(**settings)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_nan_scores_come_first_as_infinity(make_model, make_trie, padded, sign):
    model = make_model()
    model.head[...] = model.head[...].at[40].set(np.copysign(np.float32(np.nan), np.float32(sign)))
    found = search(model, make_trie(), padded, 10)
    assert np.isposinf(found.scores_BW[:, 0]).all()


def test_one_compile_a_shape_whatever_weights_lengths_and_catalogue(make_model, make_trie, padded):
    tokens_BS, lengths_B = padded
    tokens_BS = tokens_BS[:, :22]  # a shape of this test alone
    size = beam_search._cache_size()
    search(make_model(), make_trie(), (tokens_BS, lengths_B), 6)
    assert beam_search._cache_size() == size + 1
    search(make_model(seed=1), make_trie(items=30), (tokens_BS[::-1], lengths_B[::-1] - 1), 6)
    assert beam_search._cache_size() == size + 1


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 2, 2)])
def test_eight_devices_find_what_one_finds(make_model, make_trie, padded, axes):
    trie = make_trie()
    tokens_BS, lengths_B = (np.concatenate([part, part])[:8] for part in padded)
    alone = search(make_model(), trie, (tokens_BS, lengths_B), 10)
    mesh = make_mesh(*axes)
    sharded = jax.device_put((tokens_BS, lengths_B), named_sharding(mesh, "batch"))
    with jax.set_mesh(mesh):
        together = search(make_model(mesh=mesh), trie, sharded, 10)
    np.testing.assert_array_equal(alone.codes_BWC, together.codes_BWC)
    np.testing.assert_allclose(alone.scores_BW, together.scores_BW, atol=1e-4)
