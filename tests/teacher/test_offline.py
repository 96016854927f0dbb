"""Keywords without a model: contrast, phrases, deep levels, degenerate texts."""

import json
import string
import tracemalloc

import numpy as np
import pytest

from tsrec_jax import progress
from tsrec_jax.data.catalogue import Catalogue, Item
from tsrec_jax.shop.shop import FINISHES, make_shop
from tsrec_jax.teacher.answers import parse_answer
from tsrec_jax.teacher.backends import offline
from tsrec_jax.teacher.backends.offline import describe_tokens
from tsrec_jax.teacher.settings import DescribeSettings
from tsrec_jax.text.terms import item_terms


def keywords_of(catalogue, num_keywords=20):
    return {
        cluster.token: cluster.keywords
        for cluster in describe_tokens(catalogue, DescribeSettings(num_keywords=num_keywords))
    }


def test_every_token_has_an_answer_that_passes_the_check(catalogue):
    clusters = describe_tokens(catalogue, DescribeSettings())
    assert tuple(cluster.token for cluster in clusters) == catalogue.tokens
    for cluster in clusters:
        text = json.dumps({"description": cluster.description, "keywords": cluster.keywords})
        assert parse_answer(text, cluster.token) == cluster


def test_words_of_all_items_are_no_keywords_and_words_of_one_cluster_are(catalogue):
    items = tuple(Item(i.id, f"Durable {i.title}", i.description, i.brand, i.categories) for i in catalogue.items)
    found = keywords_of(Catalogue(items, catalogue.sids))
    assert "drill" in " ".join(found["<a_1>"]) and "clamp" not in " ".join(found["<a_1>"])
    assert "clamp" in " ".join(found["<a_2>"])
    assert not any("durable" in keyword for keywords in found.values() for keyword in keywords)


def test_a_deep_token_says_what_its_prefixes_do_not():
    """Three of four items of <b_1> are drills, which their prefix explains; that half of them are red, nothing does."""
    items, sids = [], []
    for kind, (name, size) in enumerate((("drill", 30), ("saw", 5), ("clamp", 5))):
        for n in range(40):
            red = n % 2 == 0 if n < size else n % 10 == 0
            items.append(Item(f"{name}{n}", f"{'Red, ' if red else ''}{name}"))
            sids.append((f"<a_{kind}>", f"<b_{1 if n < size else 2}>"))
    found = keywords_of(Catalogue(tuple(items), tuple(sids)))
    assert (found["<a_0>"][0], found["<b_1>"][0]) == ("drill", "red")


def test_a_path_says_what_its_siblings_do_not():
    """<b_1> is red below drills and steel below saws; in the whole catalogue it is half one and half the other."""
    items, sids = [], []
    for kind, (name, mark) in enumerate((("drill", "maroon"), ("saw", "steel"))):
        for n in range(20):
            items.append(Item(f"{name}{n}", f"{mark} {name}" if n < 8 else f"plain {name}"))
            sids.append((f"<a_{kind}>", f"<b_{1 if n < 8 else 2}>"))
    found = describe_tokens(Catalogue(tuple(items), tuple(sids)), DescribeSettings(unit="path"))
    first = {words.name: words.keywords[0] for words in found}
    assert (first["<a_0>"], first["<a_1>"]) == ("drill", "saw")
    assert "maroon" in first["<a_0><b_1>"] and "steel" in first["<a_1><b_1>"]
    assert "plain" in first["<a_0><b_2>"] and "plain" in first["<a_1><b_2>"]
    assert not any("<" in words.description for words in found)


def test_a_phrase_stands_for_its_parts():
    items = [Item(f"s{n}", f"Stainless steel bolt, grade {n}") for n in range(4)]
    items += [Item(f"w{n}", f"Oak dowel {word}") for n, word in enumerate(("long", "short", "thick", "thin"))]
    catalogue = Catalogue(tuple(items), tuple((f"<a_{n // 4}>",) for n in range(8)))
    keywords = keywords_of(catalogue)["<a_0>"]
    assert "stainless steel bolt" in keywords
    assert not {"stainless", "steel", "bolt", "stainless steel", "steel bolt"} & set(keywords)


def test_a_phrase_never_reaches_across_punctuation_numbers_and_stop_words():
    items = [Item(f"p{n}", "Steel, hex bolt 3 washer for wood") for n in range(2)]
    assert set(item_terms(items).names) == {"steel", "hex", "bolt", "hex bolt", "washer", "wood"}


@pytest.mark.parametrize(("title", "terms"), [
    ("स्टील की चम्मच", {"स्टील", "की", "चम्मच", "स्टील की", "की चम्मच", "स्टील की चम्मच"}),
    ("ช้อนเหล็ก", {"ช้อนเหล็ก"}),
    ("cafe\u0301", {"café"}),
    ("می\u200cخواهم \u200d", {"می\u200cخواهم"}),
    ("bolt\u2122\ufe0f 3\ufe0f\u20e3 \u0301nut", {"bolt", "nut"}),
])  # fmt: skip
def test_marks_and_joiners_belong_to_their_word(title, terms):
    assert set(item_terms([Item(f"p{n}", title) for n in range(2)]).names) == terms


def test_a_cluster_of_nearly_all_items_is_described_in_little_memory(monkeypatch):
    rng = np.random.default_rng(0)
    vocabulary = [f"{a}{b}rk" for a in "bcdfghjklmnpqrtvwxz" for b in string.ascii_lowercase[:13]]
    items = tuple(Item(f"p{n}", ", ".join(rng.choice(vocabulary, 4))) for n in range(400))
    sids = tuple((f"<a_{n % 40}>", f"<b_{int(n > 390)}>") for n in range(400))
    catalogue = Catalogue(items, sids)
    found, peaks = [], []
    for cells in (offline.CELLS, 1 << 12):
        monkeypatch.setattr(offline, "CELLS", cells)
        tracemalloc.start()
        found.append(describe_tokens(catalogue, DescribeSettings()))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert found[0] == found[1]
    assert peaks[1] < peaks[0] / 2


def test_markup_measures_and_numbers_are_no_terms_and_plurals_are_one():
    items = [Item("p1", "Drill &quot;bits&quot; 12 mm 5.5x30mm 3D", "<p>boxes</p>"), Item("p2", "Drill bit 12 3D box")]
    items.append(Item("p3", "Drill"))
    assert set(item_terms(items).names) == {"drill", "bit", "3d", "box"}


def test_a_keyword_stands_in_two_items_of_a_cluster_that_has_three():
    items = [Item(f"p{n}", f"Drill {word} maroon") for n, word in enumerate(("alpha", "beta", "gamma"))]
    items += [Item(f"q{n}", f"Saw {word} khaki") for n, word in enumerate(("alpha", "beta", "gamma"))]
    found = keywords_of(Catalogue(tuple(items), tuple((f"<a_{n // 3}>",) for n in range(6))), 5)
    assert not {"alpha", "beta", "gamma"} & set(found["<a_0>"])
    assert set(" ".join(found["<a_0>"]).split()) >= {"drill", "maroon"}


def test_a_single_item_gives_its_own_words():
    items = (Item("p1", "Devcon bathtub epoxy"), Item("p2", "Oak dowel"), Item("p3", "Oak plank"))
    found = keywords_of(Catalogue(items, (("<a_1>",), ("<a_2>",), ("<a_2>",))))
    assert found["<a_1>"] == ("devcon", "bathtub", "epoxy")


@pytest.mark.parametrize("titles", [("x", "x"), ("12", "!!!"), ("the", "of"), ("木", "木材"), ("<a_1>", "<b_1>")])
def test_degenerate_texts_have_answers_too(titles):
    catalogue = Catalogue((Item("p1", titles[0]), Item("p2", titles[1])), (("<a_1>", "<b_1>"), ("<a_2>", "<b_1>")))
    for cluster in describe_tokens(catalogue, DescribeSettings()):
        assert cluster.description.strip() and cluster.keywords and all(k.strip() for k in cluster.keywords)
        assert cluster.token not in cluster.description


def test_the_same_catalogue_gives_the_same_answer(catalogue):
    assert describe_tokens(catalogue, DescribeSettings()) == describe_tokens(
        Catalogue(catalogue.items, catalogue.sids), DescribeSettings()
    )


def test_a_token_with_items_without_words_below_one_prefix_has_the_words_of_the_others():
    items = (Item("p1", "!!!"), Item("p2", "oak dowel"), Item("p3", "steel bolt"))
    found = keywords_of(Catalogue(items, (("<a_1>", "<b_1>"), ("<a_2>", "<b_1>"), ("<a_2>", "<b_2>"))))
    assert "oak" in " ".join(found["<b_1>"]) and "steel" in " ".join(found["<b_2>"])


def test_long_work_says_how_far_it_is(catalogue, monkeypatch, capsys):
    monkeypatch.setattr(progress, "REPORT_SECONDS", 0.0)
    found = describe_tokens(catalogue, DescribeSettings(unit="path"))
    said = [line for line in capsys.readouterr().out.splitlines() if "groups of items" in line]
    assert len(said) == len(found) and f"{len(found)} of {len(found)} groups of items" in said[-1]


def test_no_more_keywords_than_asked_for(catalogue):
    assert max(len(keywords) for keywords in keywords_of(catalogue, 2).values()) == 2


def test_the_real_data_gives_distinct_keywords_on_every_level(shared_data):
    from benchmarks.keyword_overlap import keyword_overlap
    from tsrec_jax.data.dataset import read_dataset

    found = read_dataset(shared_data / "Industrial_and_Scientific")
    clusters = {cluster.token: cluster for cluster in describe_tokens(found.catalogue, DescribeSettings())}
    levels = keyword_overlap(found.catalogue, clusters, found.token_descriptions)
    for level in levels:
        assert level.distinct_first > level.distinct_second
        assert level.jaccard > 2 * level.jaccard_shuffled
    assert min(len(cluster.keywords) for cluster in clusters.values()) >= 5


def test_the_shop_is_described_by_its_grammar():
    """Categories and finishes are in the shop's texts; the teacher finds the finish of every last-level token."""
    shop = make_shop(0, num_items=120, num_users=40)
    found = keywords_of(shop.catalogue, 3)
    finishes = dict(zip((sid[2] for sid in shop.catalogue.sids), shop.finishes_I.tolist(), strict=True))
    for token, finish in finishes.items():
        assert list(FINISHES)[finish] in " ".join(found[token])
