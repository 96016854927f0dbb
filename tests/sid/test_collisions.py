"""Collisions: what each policy changes, and that old items keep their SIDs when new ones come."""

import numpy as np
import pytest

from tsrec_jax.sid.collisions import code_newcomers, collision_groups, number_collisions, reassign_last_level

CODES = np.array([[0, 1], [0, 2], [0, 1], [1, 1], [0, 1], [1, 3], [1, 1]], np.int32)


def distinct(codes_IC):
    return len(np.unique(codes_IC, axis=0))


def test_groups_name_the_items_of_each_shared_sid():
    assert [group.tolist() for group in collision_groups(CODES)] == [[0, 2, 4], [3, 6]]
    assert collision_groups(CODES[:2]) == []


def test_sinkhorn_gives_the_items_of_a_node_different_last_codes_and_leaves_the_other_levels():
    cost_IE = np.random.default_rng(0).random((7, 5)).astype(np.float32)
    codes_IC = reassign_last_level(CODES, cost_IE)
    assert distinct(codes_IC) == 7
    assert np.array_equal(codes_IC[:, 0], CODES[:, 0])
    assert np.array_equal(CODES[:, 1], [1, 2, 1, 1, 1, 3, 1]), "the input was changed"


def test_sinkhorn_leaves_nodes_without_a_collision_alone():
    codes_IC = np.array([[0, 0], [0, 0], [1, 4], [1, 2]], np.int32)
    cost_IE = np.tile(np.arange(5, dtype=np.float32), (4, 1))  # code 0 would be cheapest for all
    changed_IC = reassign_last_level(codes_IC, cost_IE)
    assert np.array_equal(changed_IC[2:], codes_IC[2:])
    assert distinct(changed_IC[:2]) == 2


def test_sinkhorn_keeps_the_cheap_choices():
    cost_IE = np.array([[0, 9, 9], [0, 1, 9], [0, 9, 1]], np.float32)
    codes_IC = reassign_last_level(np.zeros((3, 2), np.int32), cost_IE)
    assert codes_IC[:, 1].tolist() == [0, 1, 2]


def test_sinkhorn_keeps_the_levels_codes_evenly_used():
    nodes = np.repeat(np.arange(40, dtype=np.int32), 2)
    cost_IE = np.random.default_rng(4).random((80, 8)).astype(np.float32) + np.arange(8, dtype=np.float32)
    codes_IC = reassign_last_level(np.stack([nodes, np.zeros_like(nodes)], axis=1), cost_IE)
    assert distinct(codes_IC) == 80
    assert np.bincount(codes_IC[:, 1], minlength=8).min() >= 5


def test_a_node_with_more_items_than_codes_collides_as_little_as_can_be():
    codes_IC = reassign_last_level(np.zeros((7, 2), np.int32), np.random.default_rng(1).random((7, 3)).astype("f4"))
    assert sorted(np.bincount(codes_IC[:, 1]).tolist()) == [2, 2, 3]


@pytest.mark.parametrize(("num_codes", "sids"), [(5, 7), (1, 2)])
def test_sinkhorn_settles_items_that_no_code_suits_better_than_another(num_codes, sids):
    cost_IE = np.arange(7, dtype=np.float32)[:, None] + np.zeros((1, num_codes), np.float32)
    nodes = np.where(np.arange(7) < 4, 0, 1)
    codes_IC = reassign_last_level(np.stack([nodes, np.zeros_like(nodes)], axis=1), cost_IE)
    assert distinct(codes_IC) == sids


def test_an_extra_level_numbers_the_items_of_a_sid():
    codes_IC = number_collisions(CODES)
    assert codes_IC[:, 2].tolist() == [0, 0, 1, 0, 2, 0, 1]
    assert distinct(codes_IC) == 7
    assert np.array_equal(codes_IC[:, :2], CODES)


@pytest.mark.parametrize("policy", ["sinkhorn", "extra_level"])
def test_newcomers_take_what_is_free(policy):
    cost_IE = np.random.default_rng(2).random((7, 8)).astype(np.float32)
    old_IC = reassign_last_level(CODES, cost_IE) if policy == "sinkhorn" else number_collisions(CODES)
    new_IC = np.array([[0, 1], [0, 1], [1, 1], [2, 0]], np.int32)
    settled_IC = code_newcomers(policy, old_IC, new_IC, np.random.default_rng(3).random((4, 8)).astype(np.float32))
    assert settled_IC.shape == (4, old_IC.shape[1])
    assert distinct(np.concatenate([old_IC, settled_IC])) == 11
    assert np.array_equal(settled_IC[:, 0], new_IC[:, 0])


def test_newcomers_collide_under_the_policy_none_and_where_a_node_is_full():
    new_IC = np.array([[0, 1]], np.int32)
    assert np.array_equal(code_newcomers("none", CODES, new_IC, None), new_IC)
    full_IC = np.array([[0, 0], [0, 1]], np.int32)
    assert code_newcomers("sinkhorn", full_IC, new_IC, np.array([[3.0, 2.0]], np.float32)).tolist() == [[0, 1]]
