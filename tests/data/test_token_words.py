"""Which words speak for which token, and the words of another."""

import dataclasses

import pytest

from tsrec_jax.data.catalogue import TokenDescription
from tsrec_jax.data.dataset import read_dataset, write_dataset
from tsrec_jax.data.token_words import TokenWords, shuffled_words


def words_of(*path):
    return TokenDescription(path[-1], f"on {'/'.join(path).replace('<', '').replace('>', '')}", path, path[:-1])


@pytest.fixture
def path_descriptions(catalogue):
    """Of every path of two tokens, of every token of the first level and, by themselves, those of the last."""
    pairs = sorted({sid[:2] for sid in catalogue.sids})
    listed = [words_of(token) for token in (*catalogue.level_tokens[0], *catalogue.level_tokens[2])]
    return {words.name: words for words in [*listed, *(words_of(*pair) for pair in pairs)]}


def test_paths_are_written_and_read_beside_tokens(tmp_path, catalogue, splits, path_descriptions):
    write_dataset("Shop", catalogue, splits, path_descriptions.values(), tmp_path / "shop")
    assert read_dataset(tmp_path / "shop").token_descriptions == path_descriptions


def test_a_token_is_spoken_for_by_the_paths_that_end_in_it(catalogue, path_descriptions):
    path_descriptions["<b_1>"] = words_of("<b_1>")  # of no use, since paths end in it
    found = TokenWords.of(catalogue, path_descriptions)
    listed = {
        words.name: (catalogue.tokens[token], items)
        for words, token, items in zip(found.descriptions, found.token_P.tolist(), found.items_P.tolist(), strict=True)
    }
    assert listed == {
        "<a_2>": ("<a_2>", 1),
        "<a_9>": ("<a_9>", 3),
        "<a_10>": ("<a_10>", 1),
        "<a_9><b_1>": ("<b_1>", 2),
        "<a_10><b_1>": ("<b_1>", 1),
        "<a_9><b_2>": ("<b_2>", 1),
        "<a_2><b_7>": ("<b_7>", 1),
        "<c_0>": ("<c_0>", 1),
        "<c_1>": ("<c_1>", 1),
        "<c_3>": ("<c_3>", 3),
    }
    groups = {}
    for words, group in zip(found.descriptions, found.siblings_P.tolist(), strict=True):
        groups.setdefault(group, set()).add(words.name)
    assert set(map(frozenset, groups.values())) == {
        frozenset({"<a_2>", "<a_9>", "<a_10>"}),
        frozenset({"<a_9><b_1>", "<a_9><b_2>"}),
        frozenset({"<a_10><b_1>"}),
        frozenset({"<a_2><b_7>"}),
        frozenset({"<c_0>", "<c_1>", "<c_3>"}),
    }


@pytest.mark.parametrize("kind", ["tokens", "paths"])
def test_shuffled_each_has_the_words_of_another_of_its_level(catalogue, token_descriptions, path_descriptions, kind):
    before = token_descriptions if kind == "tokens" else path_descriptions
    said = {words.description: (name, words.keywords) for name, words in before.items()}
    level_of = dict(zip(catalogue.tokens, catalogue.token_levels.tolist(), strict=True))
    seen = set()
    for seed in range(4):
        after = shuffled_words(catalogue, before, seed)
        assert list(after) == list(before)
        for name, words in after.items():
            other, keywords = said[words.description]
            assert (words.name, words.keywords) == (name, keywords)
            assert other != name
            assert (level_of[before[other].token], len(before[other].path)) == (level_of[words.token], len(words.path))
        assert sorted(words.description for words in after.values()) == sorted(said)
        seen.add(tuple(words.description for words in after.values()))
    assert len(seen) > 1
    assert shuffled_words(catalogue, before, 3) == after


def test_alone_on_its_level_a_token_keeps_its_words(catalogue, token_descriptions):
    one = dataclasses.replace(catalogue, sids=tuple((*sid, "<d_0>") for sid in catalogue.sids))
    descriptions = {**token_descriptions, "<d_0>": words_of("<d_0>")}
    assert shuffled_words(one, descriptions, 0)["<d_0>"] == descriptions["<d_0>"]
