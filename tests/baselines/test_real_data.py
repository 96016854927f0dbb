"""The baselines that take seconds, on Industrial, beside figures that others measured on the same files."""

import pytest

from tsrec_jax.baselines.choosing import CUT
from tsrec_jax.baselines.run import run_baseline
from tsrec_jax.data.dataset import read_dataset
from tsrec_jax.data.target_ranks import find_targets

# HR@10 and NDCG@10 at SID level on test.
BARS = {
    "popularity": (0.0611, 0.0512),
    "transitions": (0.1068, 0.0865),
    "tfidf": (0.1529, 0.0902),
    "hybrid": (0.1650, 0.1092),
}


@pytest.fixture(scope="module")
def dataset(shared_data):
    return read_dataset(shared_data / "Industrial_and_Scientific")


@pytest.mark.parametrize("name", BARS)
def test_the_figures_are_reached(name, dataset):
    train, valid, test = (dataset.splits[split] for split in ("train", "valid", "test"))
    some = valid.take(range(0, len(valid), 12))  # enough to choose weights on
    result = run_baseline(name, dataset, train, some, test, CUT, 0, print)
    found = find_targets(result.lists, test.targets, dataset.catalogue)
    hit_rate, ndcg = BARS[name]
    assert found.mean("sid", "HR@10") > hit_rate - 0.01
    assert found.mean("sid", "NDCG@10") > ndcg - 0.01
