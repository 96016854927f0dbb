"""SA-Init and its controls, and the extension of tied and untied tables."""

import numpy as np
import pytest

from tests.models.reference import tiny_tokens
from tsrec_jax.data.token_words import TokenWords
from tsrec_jax.errors import UserError
from tsrec_jax.models.sharding import make_mesh
from tsrec_jax.models.vocabulary import extend_vocabulary, sid_init_rows

TABLE = np.random.default_rng(0).normal(0.3, 1.0, (100, 16)).astype(np.float32)
OLD_SIZE = 90
KEYWORDS = [[1, 2, 3], [4], [5, 5, 6], [7, 8], [9], [10, 11]]
LEVELS = np.array([0, 0, 0, 1, 1, 2])


def words_of(token_P, siblings_P, items_P):
    return TokenWords((), *(np.array(values, np.int32) for values in (token_P, siblings_P, items_P)))


TOKENS = words_of(range(6), LEVELS, [3, 1, 2, 4, 2, 6])  # each described by itself


def rows(mode, **changes):
    settings = {
        "words": TOKENS,
        "keyword_ids": KEYWORDS,
        "levels_n": LEVELS,
        "init_levels": (),
        "mode": mode,
        "target_norm": 1.0,
        "base_vocab_size": OLD_SIZE,
        "seed": 0,
    }
    return sid_init_rows(TABLE, **(settings | changes))


def test_sa_is_the_mean_over_all_sub_words_at_the_mean_norm_of_the_ids_in_use():
    found = rows("sa")
    norm = np.linalg.norm(TABLE[:OLD_SIZE], axis=1).mean()
    mean = (2 * TABLE[5] + TABLE[6]) / 3
    np.testing.assert_allclose(found[2], mean * norm / np.linalg.norm(mean), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), norm, rtol=1e-5)


def test_target_norm_scales_sa_rows():
    np.testing.assert_allclose(rows("sa", target_norm=0.3), 0.3 * rows("sa"), rtol=1e-5)


def test_centred_rows_are_what_tells_the_tokens_of_a_level_apart():
    plain, found = rows("sa"), rows("sa", centred=True)
    norm = np.linalg.norm(TABLE[:OLD_SIZE], axis=1).mean()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), norm, rtol=1e-5)
    first, second = (TABLE[ids].mean(axis=0) for ids in KEYWORDS[3:5])
    np.testing.assert_allclose(found[3], norm * (first - second) / np.linalg.norm(first - second), rtol=1e-4)
    np.testing.assert_allclose(found[4], -found[3], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found[5], plain[5])  # alone in its level


def test_a_level_with_the_same_keywords_throughout_keeps_its_rows_when_centred():
    same = [[1, 2, 3]] * 3 + KEYWORDS[3:]
    plain, found = rows("sa", keyword_ids=same), rows("sa", keyword_ids=same, centred=True)
    np.testing.assert_array_equal(found[LEVELS == 0], plain[LEVELS == 0])
    assert not np.allclose(found[3:5], plain[3:5])


# Below tokens 0 and 1 (items 3 and 1): paths that end in 2, 3, 2 and 3; token 4 ends only paths without siblings.
PATHS = words_of([0, 1, 2, 3, 2, 4, 5], [0, 0, 1, 1, 2, 3, 4], [3, 1, 2, 1, 1, 1, 1])
PATH_KEYWORDS = [[1, 2], [3], [4], [5, 6], [7], [8, 9], [10]]
PATH_LEVELS = np.array([0, 0, 1, 1, 2, 2])


def scaled(row_D):
    return row_D * np.linalg.norm(TABLE[:OLD_SIZE], axis=1).mean() / np.linalg.norm(row_D)


def path_rows(**changes):
    return rows("sa", words=PATHS, keyword_ids=PATH_KEYWORDS, levels_n=PATH_LEVELS, **changes)


def test_the_row_of_a_token_is_the_mean_of_the_paths_that_end_in_it_by_their_items():
    found = path_rows()
    np.testing.assert_allclose(found[2], scaled(2 * TABLE[4] + TABLE[7]), rtol=1e-4)
    np.testing.assert_allclose(found[3], scaled(TABLE[5] + TABLE[6]), rtol=1e-4)
    np.testing.assert_allclose(found[1], scaled(TABLE[3]), rtol=1e-4)


def test_centred_a_path_counts_by_what_sets_it_apart_from_its_siblings():
    found = path_rows(centred=True)
    beside = TABLE[4] - (TABLE[5] + TABLE[6]) / 2
    np.testing.assert_allclose(found[2], scaled(beside), rtol=1e-4)  # its other path has no sibling
    np.testing.assert_allclose(found[3], -found[2], rtol=1e-4, atol=1e-6)
    alone = (TABLE[8] + TABLE[9]) / 2 - TABLE[10]  # no path of level 2 has a sibling: beside the tokens of the level
    np.testing.assert_allclose(found[4], scaled(alone), rtol=1e-4)
    np.testing.assert_allclose(found[5], -found[4], rtol=1e-4, atol=1e-6)


def test_levels_that_are_not_chosen_get_the_mean_row_and_need_no_keywords():
    chosen = np.isin(LEVELS, (0, 2))
    found = rows("sa", init_levels=(0, 2), keyword_ids=[*KEYWORDS[:3], [], [], KEYWORDS[5]])
    np.testing.assert_array_equal(found[chosen], rows("sa")[chosen])
    np.testing.assert_allclose(found[~chosen], np.tile(TABLE[:OLD_SIZE].mean(axis=0), (2, 1)), rtol=1e-5)
    np.testing.assert_allclose(rows("mean"), np.tile(TABLE[:OLD_SIZE].mean(axis=0), (6, 1)), rtol=1e-5)


def test_normal_rows_have_the_stated_deviation_and_follow_the_seed():
    assert rows("normal", levels_n=np.zeros(4000)).std() == pytest.approx(0.02, rel=0.02)
    np.testing.assert_array_equal(rows("normal"), rows("normal"))
    assert not np.array_equal(rows("normal"), rows("normal", seed=1))


def test_hf_keeps_padding_rows_and_draws_the_rest_around_the_mean():
    found = rows("hf", levels_n=np.zeros(2010, int))
    np.testing.assert_array_equal(found[:10], TABLE[90:])
    drawn = found[10:] - TABLE.mean(axis=0)
    covariance = np.cov(TABLE.T, bias=True)
    np.testing.assert_allclose(np.cov(drawn.T) * 1e9, covariance, atol=0.2 * covariance.diagonal().max())


def test_hf_is_what_transformers_leaves_where_nothing_is_drawn():
    torch = pytest.importorskip("torch", reason="the comparison with transformers needs torch")
    from tests.models.reference import torch_model

    model = torch_model("llama_tied")
    table_VD = model.get_input_embeddings().weight.detach().numpy().copy()
    torch.manual_seed(0)
    model.resize_token_embeddings(4040)
    theirs_nD = model.get_input_embeddings().weight.detach().numpy()[40:]
    ours_nD = sid_init_rows(
        table_VD,
        levels_n=np.zeros(4000, int),
        init_levels=(),
        mode="hf",
        target_norm=1.0,
        base_vocab_size=40,
        seed=0,
    )
    # Both are draws, so their first two moments are compared.
    np.testing.assert_allclose(ours_nD.mean(axis=0), theirs_nD.mean(axis=0), atol=5e-6)
    scale = np.cov(theirs_nD.T).diagonal().max()
    np.testing.assert_allclose(np.cov(ours_nD.T) / scale, np.cov(theirs_nD.T) / scale, atol=0.15)


def test_a_token_without_keywords_and_an_unknown_mode_are_refused():
    with pytest.raises(UserError, match=r"number 1 has no keywords.*sid_init\.mode=mean"):
        rows("sa", keyword_ids=[[1], [], [2], [3], [4], [5]])
    with pytest.raises(UserError, match=r"sid_init\.mode 'sematic' is not one of sa"):
        rows("sematic")


@pytest.mark.parametrize(("table_rows", "base_vocab_size"), [(40, 40), (128, 100)])
@pytest.mark.parametrize("case", ["llama_tied", "qwen2_untied"])
def test_extension_keeps_old_rows_and_gives_new_ids_theirs(case, table_rows, base_vocab_size, make_model):
    """The table grows to a multiple of 128 in one case; in the other the new ids fit into its padding rows."""
    model = make_model(case, vocab_size=table_rows)
    fresh = np.random.default_rng(0).normal(size=(6, 16)).astype(np.float32)
    output = None if model.head is None else 2 * fresh
    grown = extend_vocabulary(model, base_vocab_size=base_vocab_size, input_rows_nD=fresh, output_rows_nD=output)
    assert grown.config.vocab_rows == grown.embedding[...].shape[0] == 128
    for old, new, rows_nD in ((model.embedding, grown.embedding, fresh), (model.head, grown.head, output)):
        if old is None:
            assert new is None
            continue
        before, after = np.asarray(old[...]), np.asarray(new[...])
        np.testing.assert_array_equal(after[:base_vocab_size], before[:base_vocab_size])
        np.testing.assert_array_equal(after[base_vocab_size : base_vocab_size + 6], rows_nD)
        mean = before[:base_vocab_size].mean(axis=0)
        np.testing.assert_allclose(
            after[base_vocab_size + 6 :], np.tile(mean, (len(after) - base_vocab_size - 6, 1)), atol=1e-6
        )


def test_ids_that_are_not_in_use_can_never_be_written(make_model):
    grown = extend_vocabulary(make_model(), base_vocab_size=40, input_rows_nD=np.ones((20, 16), np.float32))
    logits_BTV = np.asarray(grown(tiny_tokens(1, 3)))
    assert logits_BTV.shape[-1] == 128
    assert np.isneginf(logits_BTV[..., 60:]).all()
    assert np.isfinite(logits_BTV[..., :60]).all()


def test_the_first_model_is_left_as_it_was(make_model):
    model = make_model()
    extend_vocabulary(model, base_vocab_size=40, input_rows_nD=np.ones((6, 16), np.float32))
    assert model.embedding[...].shape == (40, 16)
    assert model.config.vocab_rows == 40
    assert model.num_tokens is None


def test_the_mesh_divides_the_rows_of_the_new_table(make_model):
    fresh = np.random.default_rng(0).normal(size=(6, 16)).astype(np.float32)
    single = extend_vocabulary(make_model(), base_vocab_size=40, input_rows_nD=fresh)
    sharded = extend_vocabulary(make_model(mesh=make_mesh(2, 2, 2)), base_vocab_size=40, input_rows_nD=fresh)
    table = sharded.embedding[...]
    assert table.shape == (512, 16)
    assert table.sharding.shard_shape(table.shape) == (128, 16)
    np.testing.assert_array_equal(table[:46], single.embedding[...][:46])
    np.testing.assert_allclose(table[46:128], single.embedding[...][46:], atol=1e-7)  # a mean, summed in another order


def test_what_cannot_be_extended_is_refused(make_model):
    with pytest.raises(ValueError, match="tied"):
        extend_vocabulary(
            make_model(), base_vocab_size=40, input_rows_nD=np.ones((1, 16)), output_rows_nD=np.ones((1, 16))
        )
    with pytest.raises(ValueError, match="beyond"):
        extend_vocabulary(make_model(), base_vocab_size=41, input_rows_nD=np.ones((1, 16)))
