"""The teacher of the second stage knows nothing of the rows that it is asked about."""

import dataclasses

import numpy as np
import pytest

from tsrec_jax.data.dataset import Dataset
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.errors import UserError
from tsrec_jax.pipeline.job import Job
from tsrec_jax.pipeline.rl_teacher import fit_teacher
from tsrec_jax.pipeline.workdir import Workdir
from tsrec_jax.settings import default_config, settings_of
from tsrec_jax.shop.shop import make_shop


@pytest.fixture(scope="module")
def dataset():
    shop = make_shop(seed=1, num_items=70, num_users=40)
    return Dataset("shop", "folder", shop.catalogue, shop.splits, {}, "hash")


def taught(dataset, path, **changes):
    settings = settings_of(default_config()).changed({"rl": {"steps": 5, "teacher": "transitions", **changes}})
    return fit_teacher(Job(settings, Workdir(path), dataset, ""))


def with_train(dataset, rows):
    return dataclasses.replace(dataset, splits={**dataset.splits, "train": rows})


def of(rows, user):
    return np.array([name == user for name in rows.users])


@pytest.mark.parametrize("teacher", ["transitions", "fusion"])
def test_what_a_user_had_changes_nothing_of_what_the_user_is_taught(dataset, tmp_path, teacher):
    rows = dataset.splits["train"]
    for user in sorted(set(rows.users))[:2]:
        own = of(rows, user)
        other = Interactions(rows.users, rows.histories, np.where(own, (rows.targets + 7) % 70, rows.targets))
        given = {"teacher": teacher, "teacher_parts": ("transitions", "seen")}
        first, second = (taught(each, tmp_path, **given) for each in (dataset, with_train(dataset, other)))
        asked = rows.take(np.flatnonzero(own))
        np.testing.assert_array_equal(first.rank(asked), second.rank(asked))
        assert (first.rank(rows) != second.rank(rows)).any()


def test_train_is_ranked_no_better_than_selection_and_in_the_order_of_the_rows(dataset, tmp_path):
    teacher, rows = taught(dataset, tmp_path), dataset.splits["train"]
    train, valid = (teacher.has_target(dataset.splits[name], dataset.catalogue) for name in ("train", "valid"))
    assert abs(train - valid) < 0.15
    mixed = np.random.default_rng(0).permutation(len(rows))
    np.testing.assert_array_equal(teacher.rank(rows.take(mixed)), teacher.rank(rows)[mixed])
    assert teacher.rank(rows).shape == (len(rows), 20)


def test_one_user_alone_has_no_others(dataset, tmp_path):
    rows = dataset.splits["train"]
    alone = rows.take(np.flatnonzero(of(rows, rows.users[0])))
    with pytest.raises(UserError, match="train has one user alone"):
        taught(with_train(dataset, alone), tmp_path)
    assert taught(with_train(dataset, alone), tmp_path, teacher="", reward="rule") is None
    assert taught(with_train(dataset, alone), tmp_path, objective="sft", kl=0.0) is None, "its loss asks nobody"
