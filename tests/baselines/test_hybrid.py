import numpy as np
import pytest

from tests.baselines.catalogues import catalogue_of, dataset_of, quiet, rows_of
from tsrec_jax.baselines.hybrid import fit_hybrid
from tsrec_jax.baselines.run import run_baseline
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.errors import UserError

COLOURS, THINGS = ("red", "blue", "green"), ("drill", "saw", "lamp", "glue")
CATALOGUE = catalogue_of([f"{colour} {thing}" for colour in COLOURS for thing in THINGS])
RNG = np.random.default_rng(0)


def random_rows(count, rule):
    histories = [tuple(map(int, RNG.integers(0, 12, RNG.integers(1, 5)))) for _ in range(count)]
    return rows_of(*[(history, rule(history[-1])) for history in histories])


def follows(item):
    return (item * 5 + 3) % 12


def same_thing(item):
    return (item + 4) % 12


TRAIN = random_rows(200, follows)


def test_it_leans_on_what_selection_shows_to_work():
    by_counts = fit_hybrid(CATALOGUE, TRAIN, random_rows(60, follows), 0, quiet)
    by_text = fit_hybrid(CATALOGUE, TRAIN, random_rows(60, same_thing), 0, quiet)
    assert by_counts.settings["transitions"] > by_text.settings["transitions"]
    assert by_counts.scores([(2,)]).argmax() == follows(2)
    texts = np.setdiff1d(by_text.scores([(2,)])[0].argsort()[-4:], [2])
    assert same_thing(2) in texts


def test_the_score_is_the_weighted_sum_of_the_parts():
    fitted = fit_hybrid(CATALOGUE, TRAIN, random_rows(40, follows), 0, quiet)
    history, weights = (3, 7), fitted.settings
    decay = weights["history_decay"]
    seen = np.zeros(12)
    seen[[7, 3]] = np.array([1, decay]) / (1 + decay)
    share, log = fitted.popularity_2I
    assert share.max() == log.max() == 1
    expected = (
        fitted.text.scores([history])[0]
        + weights["transitions"] * fitted.transitions.scores([history])[0]
        + weights["popularity"] * share
        + weights["log_popularity"] * log
        + weights["seen"] * seen
    )
    np.testing.assert_allclose(fitted.scores([history])[0], expected, rtol=1e-5, atol=1e-6)
    assert fitted.text.history_decay == decay


def test_the_targets_of_the_evaluated_rows_change_nothing(tmp_path):
    select, rows = random_rows(40, follows), random_rows(40, follows)
    permuted = Interactions(rows.users, rows.histories, RNG.permutation(rows.targets))
    dataset = dataset_of(CATALOGUE, tmp_path)
    first, second = (run_baseline("hybrid", dataset, TRAIN, select, each, 10, 0, quiet) for each in (rows, permuted))
    assert first.lists == second.lists
    assert first.facts["settings"] == second.facts["settings"]


def test_a_selection_larger_than_memory_allows_is_thinned_evenly(monkeypatch):
    monkeypatch.setattr("tsrec_jax.baselines.hybrid.MOST_CELLS", 12 * 10)
    select = random_rows(100, follows)
    ranked = []
    real = fit_hybrid.__globals__["choose_seen_by_row"]
    monkeypatch.setattr(
        "tsrec_jax.baselines.hybrid.choose_seen_by_row",
        lambda scores, rows, *given: ranked.append(rows.targets.tolist()) or real(scores, rows, *given),
    )
    fit_hybrid(CATALOGUE, TRAIN, select, 0, quiet)
    assert all(targets == select.targets[::11].tolist() for targets in ranked)


def test_a_selection_without_rows_is_refused():
    with pytest.raises(UserError, match=r"^the selection split holds no rows"):
        fit_hybrid(CATALOGUE, TRAIN, rows_of(), 0, quiet)
