import json

import numpy as np
import pytest

from tests.baselines.catalogues import catalogue_of, dataset_of, quiet, rows_of
from tsrec_jax.baselines.names import BASELINES, Baseline
from tsrec_jax.baselines.run import run_baseline
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.errors import UserError
from tsrec_jax.settings import default_config, settings_of

# Items 0 and 6 share a SID.
CATALOGUE = catalogue_of(
    ["red drill", "red saw", "blue saw", "blue drill", "red lamp", "blue lamp", "red drill"],
    codes=[0, 1, 2, 3, 4, 5, 0],
)
RNG = np.random.default_rng(0)


def random_rows(count):
    histories = [tuple(map(int, RNG.integers(0, 7, RNG.integers(1, 4)))) for _ in range(count)]
    return rows_of(*[(history, int(RNG.integers(0, 7))) for history in histories])


VECTORS = RNG.normal(size=(7, 4)).astype(np.float32)
TRAIN, SELECT, ROWS = random_rows(30), random_rows(10), random_rows(12)


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_ranks_every_sid_once_whatever_the_targets_are(name, tmp_path, monkeypatch):
    monkeypatch.setattr("tsrec_jax.baselines.run.CHUNK", 5)
    dataset = dataset_of(CATALOGUE, tmp_path)
    result = run_baseline(name, dataset, TRAIN, SELECT, ROWS, 99, 0, quiet, lambda: VECTORS)
    assert [sorted(ranked) for ranked in result.lists] == [sorted(CATALOGUE.items_of_sid)] * 12
    blind = Interactions(ROWS.users, ROWS.histories, np.zeros(12, np.int32))
    assert run_baseline(name, dataset, TRAIN, SELECT, blind, 3, 0, quiet, lambda: VECTORS).lists == [
        r[:3] for r in result.lists
    ]
    assert {"settings", "parameters", "fit_seconds", "rank_seconds"} <= set(result.facts)
    json.dumps(result.facts)
    if name.startswith("sasrec"):
        assert result.facts["tokens"] > 0
        assert result.facts["flops"] > 0


@pytest.mark.parametrize("name", ["transitions", "tfidf", "hybrid", "ease", "knn"])
def test_what_users_had_is_out_of_the_lists_where_nobody_comes_back_and_in_them_where_all_do(name, tmp_path):
    dataset = dataset_of(CATALOGUE, tmp_path)
    held = [{CATALOGUE.sid(item) for item in history} for history in ROWS.histories]
    new = [next(item for item in range(7) if CATALOGUE.sid(item) not in sids) for sids in held]
    old = [history[-1] for history in ROWS.histories]

    def ranked(targets):
        select = rows_of(*zip(ROWS.histories, targets, strict=True))
        return run_baseline(name, dataset, TRAIN, select, ROWS, 6, 0, quiet, lambda: VECTORS).lists

    assert [set(sids[6 - len(had) :]) for sids, had in zip(ranked(new), held, strict=True)] == held
    assert all(sids[0] in had for sids, had in zip(ranked(old), held, strict=True))


def test_a_baseline_that_needs_vectors_is_refused_where_there_are_none(tmp_path):
    with pytest.raises(UserError, match="knn: it needs vectors of the items"):
        run_baseline("knn", dataset_of(CATALOGUE, tmp_path), TRAIN, SELECT, ROWS, 3, 0, quiet)


def test_an_unknown_name_is_refused_with_the_names_there_are(tmp_path):
    with pytest.raises(UserError, match=r"'bert4rec'.*popularity.*sasrec\+text"):
        run_baseline("bert4rec", dataset_of(CATALOGUE, tmp_path), TRAIN, SELECT, ROWS, 3, 0, quiet)


def test_a_train_without_rows_is_refused(tmp_path):
    with pytest.raises(UserError, match="train holds no rows"):
        run_baseline("popularity", dataset_of(CATALOGUE, tmp_path), rows_of(), SELECT, ROWS, 3, 0, quiet)


TOY = """
import dataclasses

import numpy as np


@dataclasses.dataclass
class Newest:
    num_items: int
    facts: dict

    def scores(self, histories):
        return np.eye(self.num_items, dtype=np.float32)[[history[-1] for history in histories]]


def fit(catalogue, train, select, seed, report):
    report("newest: nothing to choose")
    return Newest(catalogue.num_items, {"settings": {}, "parameters": 0})
"""


def test_a_new_baseline_is_one_file_and_one_row(tmp_path, monkeypatch):
    (tmp_path / "newest_baseline.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(BASELINES, "newest", Baseline("newest_baseline:fit"))
    result = run_baseline("newest", dataset_of(CATALOGUE, tmp_path), TRAIN, SELECT, ROWS, 1, 0, quiet)
    assert result.lists == [[CATALOGUE.sid(history[-1])] for history in ROWS.histories]


def test_settings_offer_every_baseline():
    for name, row in BASELINES.items():
        config = default_config()
        config.tasks.distilled_sid.teacher = name
        config.study.baselines = (name,)
        if row.tables:
            config.fusion.parts = (name,)
        assert settings_of(config).study.baselines == (name,)
