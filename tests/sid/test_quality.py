"""What the SID report measures, against values computed by hand; gates; the written report."""

import json
import math

import numpy as np
import pytest

from tsrec_jax.data.catalogue import Item
from tsrec_jax.sid.index import sid_token
from tsrec_jax.sid.quality import level_use, measure, purity, relative_error
from tsrec_jax.sid.report import counting_levels, failed_gates, to_json, to_markdown
from tsrec_jax.sid.settings import IndexSettings

CODES = np.array([[0, 0], [0, 0], [0, 1], [1, 0], [1, 2]], np.int32)
BRANDS = ("x", "x", "y", "y", "")


def items(titles=("pen", "pen", "ink", "pad", "cup")):
    return tuple(Item(str(n), title, brand=brand) for n, (title, brand) in enumerate(zip(titles, BRANDS, strict=True)))


def report(codes_IC=CODES, sizes=(3, 3), **options):
    sids = [tuple(sid_token(level, code) for level, code in enumerate(row)) for row in codes_IC.tolist()]
    return measure(codes_IC, sizes, sids, items(), **options)


def test_collisions_are_counted():
    found = report()
    assert (found.items, found.sids, found.collision_rate) == (5, 4, pytest.approx(0.2))
    assert (found.colliding_items, found.collision_groups, found.largest_group, found.same_text_items) == (2, 1, 2, 2)


def test_use_of_a_level():
    use = level_use(np.array([0, 0, 0, 1]), 3)
    assert (use.codes, use.used, use.use) == (3, 2, pytest.approx(2 / 3))
    assert use.perplexity == pytest.approx(math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))))
    assert use.gini == pytest.approx(0.5)  # mean absolute difference of (0, 1, 3) over twice the mean, by hand
    assert (use.items_min, use.items_median, use.items_max) == (0, 1.0, 3)
    even = level_use(np.arange(8), 8)
    assert (even.perplexity, even.gini) == (pytest.approx(8.0), pytest.approx(0.0))


def test_nodes_of_every_depth():
    first, second = report().depths
    assert (first.nodes, first.items_mean, first.items_max, first.children_max) == (2, 2.5, 3, 2)
    assert (second.nodes, second.items_max, second.children_max) == (4, 2, 0)


def test_purity_counts_the_other_labelled_items_of_a_node():
    nodes_I, labels_I = np.array([0, 0, 0, 1, 1, 2]), np.array([5, 5, 7, 7, -1, 5])
    # Node 0: the two 5s see one of two alike, the 7 none; in node 1 only one item has a label; node 2 has no company.
    assert purity(nodes_I, labels_I) == pytest.approx((0.5 + 0.5 + 0.0) / 3)
    assert purity(np.arange(3), np.arange(3)) is None
    assert purity(np.arange(3), np.full(3, -1)) is None


def test_errors_fall_from_level_to_level_and_are_shares_of_the_variance():
    x_ID = np.array([[0.0], [2.0], [4.0], [6.0], [8.0]], np.float32)
    found = report(embeddings_ID=x_ID, reconstruct=lambda depth: x_ID + (1.0 if depth == 1 else 0.0))
    assert found.depths[0].error == pytest.approx(5 / 40)
    assert found.depths[1].error == 0.0
    assert relative_error(np.ones((3, 2)), np.ones((3, 2))) == 0.0


def test_the_nearest_neighbour_is_by_cosine_and_never_the_item_itself():
    x_ID = np.array([[1, 0], [9, 4], [9, 5], [1, 9], [-1, -1]], np.float32)
    found = report(embeddings_ID=x_ID, reconstruct=lambda depth: x_ID)
    assert found.neighbour_purity["brand"][0] == 0.5  # of x, x, y, y: 0 finds 1, 1 finds 2, 2 finds 1, 3 finds 2
    assert found.neighbour_queries == 5


def test_gates_name_the_value_the_limit_and_the_way_out():
    found = report()
    assert failed_gates(found, IndexSettings()) == []
    assert failed_gates(found, IndexSettings(max_collision_rate=found.collision_rate, min_code_use=2 / 3)) == []
    (collision,) = failed_gates(found, IndexSettings(max_collision_rate=0.1))
    assert "0.2000" in collision
    assert "index.max_collision_rate=0.1" in collision
    (use,) = failed_gates(found, IndexSettings(min_code_use=0.9))
    assert "level 1 uses 2 of 3" in use


def test_a_gate_on_perplexity_sees_a_level_whose_items_have_nearly_all_one_code():
    codes_IC = np.array([[0, 0], [1, 0], [2, 0], [0, 0], [1, 1]], np.int32)
    found = report(codes_IC, (3, 2))
    assert failed_gates(found, IndexSettings(min_code_use=1.0)) == [], "every code is used"
    (line,) = failed_gates(found, IndexSettings(min_perplexity=0.9))
    perplexity = math.exp(-(0.8 * math.log(0.8) + 0.2 * math.log(0.2)))
    assert f"level 2 has a perplexity of {perplexity:.1f} of 2 codes ({perplexity / 2:.4f}; 4 items" in line
    assert "index.min_perplexity=0.9" in line
    assert failed_gates(report(codes_IC, (3, 2), numbered=True), IndexSettings(min_perplexity=0.9)) == [], (
        "a level that counts"
    )


def test_levels_that_only_count_are_said_with_sizes_that_would_do():
    codes_IC = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 2], [1, 1, 0], [1, 1, 1]], np.int32)
    apart = report(np.array([[0, 0, 0], [0, 1, 1], [1, 0, 2], [1, 1, 0], [1, 2, 1]], np.int32), (64, 64, 64))
    assert counting_levels(apart) == (
        "the first 2 levels tell 100% of the items apart (5 nodes for 5 items), so the codes after that only count and "
        "group nothing; index.sizes=(8, 8, 8) would leave them more to say"
    )
    assert counting_levels(apart)[1:] in to_markdown(apart, {})
    assert counting_levels(report(codes_IC, (64, 64, 64))) == "", "a node of two is left to the third level"
    assert counting_levels(report(codes_IC, (2, 2, 3), numbered=True)) == "", "an extra level is meant to count"


def test_the_report_is_written_for_programs_and_for_people():
    found = report()
    facts = json.loads(json.dumps(to_json(found)))
    assert facts["collision_rate"] == pytest.approx(0.2)
    assert facts["levels"][0]["use"] == pytest.approx(2 / 3)
    unique = report(np.array([[0, 0], [0, 1], [0, 2], [1, 0], [1, 2]], np.int32))
    assert json.loads(json.dumps(to_json(unique), allow_nan=False))["depths"][1]["purity"]["brand"] == [None, None]
    assert "| 0 | | none |" in " ".join(to_markdown(unique, {}).split())
    text = to_markdown(found, {"dataset": "Shop", "seed": 1})
    assert "# Semantic IDs of Shop" in text
    assert "| 1 | 3 | 2 | 66.7% |" in " ".join(text.split())
    assert "`<a_0>`, 3 items: pen; pen; ink" in text


def test_one_item_and_four_levels_are_measured():
    found = measure(np.array([[1, 0, 2, 1]]), (2, 1, 3, 4), [("<a_1>", "<b_0>", "<c_2>", "<d_1>")], items()[:1])
    assert (found.collision_rate, len(found.levels), found.depths[3].nodes) == (0.0, 4, 1)
    assert "by chance" in to_markdown(found, {})


def test_plots_of_the_codes_are_drawn(tmp_path):
    from tsrec_jax.sid.plots import plot_sids  # with matplotlib

    plot_sids(report(), CODES, (3, 3), tmp_path / "plots" / "codes.png")
    assert (tmp_path / "plots" / "codes.png").read_bytes().startswith(b"\x89PNG")
