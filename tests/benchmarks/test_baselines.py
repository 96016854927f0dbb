"""The benchmark of the baselines goes on with what it has measured, and says of each row which code measured it."""

import dataclasses
import sys

import numpy as np
import pytest

from benchmarks import baselines
from tsrec_jax.baselines.names import BASELINES
from tsrec_jax.data.dataset import write_dataset
from tsrec_jax.shop.shop import make_shop


@pytest.fixture
def report(tmp_path, monkeypatch):
    """Runs the benchmark by code of some commit; returns {baseline: commit}."""
    shop = make_shop(0, num_items=70, num_users=30)
    write_dataset("shop", shop.catalogue, shop.splits, shop.token_descriptions, tmp_path / "shop")

    def run(commit, *flags):
        monkeypatch.setenv("TSREC_COMMIT", commit)
        places = [f"--dataset={tmp_path / 'shop'}", f"--workdir={tmp_path / 'kept'}", f"--out={tmp_path / 'report.md'}"]
        monkeypatch.setattr(sys, "argv", ["baselines.py", *places, *flags])
        baselines.main()
        rows = [
            line.strip("| ").split("|") for line in (tmp_path / "report.md").read_text().splitlines() if "|" in line
        ]
        return {row[0].strip(): row[-1].strip() for row in rows[2:]}

    return run


def test_each_row_names_the_commit_that_measured_it(report):
    assert report("1111111aaa", "--baselines=popularity") == {"popularity": "1111111"}
    both = report("2222222bbb", "--baselines=popularity;repeat last")
    assert both == {"popularity": "1111111", "repeat last": "2222222"}


def test_what_an_earlier_version_of_a_baseline_gave_is_measured_again(report, monkeypatch):
    report("1111111aaa", "--baselines=popularity")
    monkeypatch.setitem(BASELINES, "popularity", dataclasses.replace(BASELINES["popularity"], version=99))
    assert report("2222222bbb", "--baselines=popularity") == {"popularity": "2222222"}


def test_vectors_count_by_what_their_file_holds(report, tmp_path):
    vectors_ID = np.random.default_rng(0).normal(size=(70, 4)).astype(np.float32)
    for commit, name, array, by in (("1111111", "a", vectors_ID, "1111111"), ("2222222", "b", vectors_ID, "1111111"),
                                    ("3333333", "b", -vectors_ID[::-1], "3333333")):  # fmt: skip
        np.save(tmp_path / f"{name}.npy", array)
        assert report(commit, "--baselines=knn", f"--vectors={tmp_path / name}.npy") == {"knn": by}
