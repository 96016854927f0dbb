import numpy as np
import pytest

from tests.baselines.catalogues import catalogue_of, rows_of
from tsrec_jax.baselines import choosing
from tsrec_jax.baselines.choosing import (
    SEEN,
    Choice,
    best_settings,
    best_with_seen,
    choose_seen,
    choose_seen_and_decay,
    ndcg,
    ranks_by_seen,
)
from tsrec_jax.baselines.ranking import target_ranks
from tsrec_jax.baselines.tables import BELOW, Seen
from tsrec_jax.errors import UserError

CATALOGUE = catalogue_of("abcde", codes=[7, 3, 7, 5, 4])  # items 0 and 2 share a SID


def test_ndcg_is_the_discounted_gain_of_the_target_at_sid_level():
    scores_I = np.array([4, 3, 0, 2, 1], np.float32)  # the SID of item 2 is first through item 0
    rows = rows_of(((0,), 2), ((0,), 3))
    found = ndcg(lambda histories: np.repeat(scores_I[None], len(histories), 0), rows, CATALOGUE)
    assert found == pytest.approx((1 + 1 / np.log2(4)) / 2)


def test_a_selection_split_without_rows_is_refused():
    with pytest.raises(UserError, match="holds no rows"):
        ndcg(lambda histories: np.zeros((0, 5)), rows_of(), CATALOGUE)


def test_the_search_climbs_one_setting_after_another_and_asks_once():
    asked = []

    def value(settings):
        asked.append((settings["a"], settings["b"]))
        return -1.5 * (settings["a"] - 2) ** 2 - (settings["b"] - settings["a"]) ** 2  # takes two passes

    found = best_settings({"a": 0.0, "b": 0.0}, {"a": (0.0, 1.0, 2.0), "b": (0.0, 1.0, 2.0)}, value)
    assert (found.settings, found.value) == ({"a": 2.0, "b": 2.0}, 0.0)
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize(
    ("tried", "best", "said"),
    [
        ((1.0, 3.0, 9.0), 9.0, ("a",)),
        ((1.0, 3.0, 9.0), 1.0, ("a",)),
        ((1.0, 3.0, 9.0), 3.0, ()),
        ((0.0, 3.0, 9.0), 0.0, ()),
        ((1.0, 3.0, float("inf")), float("inf"), ()),
        ((0.3, 0.5, 1.0), 0.3, ("a",)),
        ((0.3, 0.5, 1.0), 1.0, ()),
    ],
)
def test_a_choice_at_the_end_of_its_grid_is_told_where_more_could_be_better(tried, best, said):
    found = best_settings({"a": tried[1], "fixed": 2.0}, {"a": tried}, lambda settings: settings["a"] == best)
    assert found.at_end == said
    assert found.facts == {"settings": {"a": best, "fixed": 2.0}, "at_end": list(said)}
    assert ("; at the end of what was tried: a" in found.said("toy")) == bool(said)


def rows_and_scores(sids):
    rng = np.random.default_rng(0)
    catalogue = catalogue_of("abcdefgh", codes=sids)
    histories = [tuple(map(int, rng.integers(0, 8, rng.integers(1, 6)))) for _ in range(80)]
    rows = rows_of(*[(history, int(rng.integers(0, 8))) for history in histories])
    return catalogue, rows, rng.integers(0, 4, (80, 8)).astype(np.float32) / 2


@pytest.mark.parametrize("sids", [range(8), [0, 1, 2, 3, 0, 4, 2, 2]])
@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_ranks_by_what_the_history_counts_are_those_of_the_scores_that_it_gives(sids, decay):
    catalogue, rows, scores_BI = rows_and_scores(sids)
    best_BU = np.stack([scores_BI[:, catalogue.sid_numbers_I == sid].max(axis=1) for sid in range(max(sids) + 1)], 1)
    ranks_GB = ranks_by_seen(best_BU, rows.histories, rows.targets, catalogue, decay)
    for weight, ranks_B in zip(SEEN, ranks_GB, strict=True):
        added_BI = scores_BI.copy()
        Seen(weight, decay, catalogue.sid_numbers_I).add(added_BI, rows.histories)
        np.testing.assert_array_equal(ranks_B, target_ranks(added_BI, rows.targets, catalogue))


def test_the_history_leaves_the_list_where_nobody_comes_back_and_leads_it_where_all_do():
    catalogue, rows, scores_BI = rows_and_scores(range(8))
    never = [(history, next(item for item in range(8) if item not in history)) for history in rows.histories]
    back = [(history, history[-1]) for history in rows.histories]
    for pairs, weights in ((never, [BELOW]), (back, [w for w in SEEN if w >= 3])):
        chosen = choose_seen(lambda histories: scores_BI[: len(histories)], rows_of(*pairs), catalogue, 0.5)
        assert chosen.settings["seen"] in weights
    assert choose_seen(lambda histories: scores_BI[: len(histories)], rows_of(*never), catalogue, 0.5).at_end == ()


@pytest.mark.parametrize("decays", [(0.5, 1.0), (1.0, 0.5)])
def test_of_several_decays_the_best_is_taken_and_told_as_an_end_where_it_counts(decays, monkeypatch):
    monkeypatch.setattr(choosing, "CHUNK", 30)
    catalogue, rows, scores_BI = rows_and_scores(range(8))
    order, scored = {history: number for number, history in enumerate(rows.histories)}, []

    def scores(histories):
        scored.extend(histories)
        return scores_BI[[order[history] for history in histories]]

    last = [(history, history[-1]) for history in order]
    never = [(history, next(item for item in range(8) if item not in history)) for history in order]
    for given, wanted, at_end in ((last, 0.5, ("seen_decay",)), (never, decays[0], ())):
        given = rows_of(*given)
        alone = {decay: choose_seen(scores, given, catalogue, decay) for decay in decays}
        scored.clear()
        found = choose_seen_and_decay(scores, given, catalogue, decays)
        assert scored == list(given.histories), "scores are computed once for all decays"
        assert found.settings == {"seen_decay": wanted, **alone[wanted].settings}
        assert (found.value, found.at_end) == (alone[wanted].value, (*at_end, *alone[wanted].at_end))
        assert found.value == max(choice.value for choice in alone.values())


def test_what_the_history_counts_is_chosen_for_each_of_the_other_settings():
    best = {1.0: (0.5, 0.2), 2.0: (0.9, -0.1), 3.0: (0.7, 0.0)}

    def choose(settings):
        value, seen = best[settings["a"]]
        return Choice({"seen": seen}, value, ("seen",))

    found = best_with_seen({"a": 1.0}, {"a": (2.0, 3.0)}, choose)
    assert (found.settings, found.value, found.at_end) == ({"a": 2.0, "seen": -0.1}, 0.9, ("seen",))
    assert best_with_seen({"a": 1.0}, {}, choose).settings == {"a": 1.0, "seen": 0.2}


def test_below_all_others_is_told_in_words_that_json_has():
    choice = Choice({"seen": BELOW, "decay": 0.5}, 0.25, ())
    assert choice.facts["settings"] == {"seen": "below all others", "decay": 0.5}
    assert choice.said("toy") == "toy: seen below all others, decay 0.5, NDCG@10 0.2500 on selection"
