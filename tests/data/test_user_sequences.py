"""Sequences of users: every row once, none joined that does not continue another, and the histories that are added."""

import collections

import numpy as np

from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.tasks.augmented_sid import AugmentedSid
from tsrec_jax.data.tasks.distilled_sid import DistilledSid
from tsrec_jax.data.user_sequences import user_sequences


def interactions(*rows):
    users, histories, targets = zip(*rows, strict=True)
    return Interactions(users, histories, np.array(targets, np.int32))


ROWS = interactions(
    ("u", (1,), 2),
    ("v", (1,), 2),
    ("u", (1, 2), 3),
    ("u", (1, 2, 3), 4),
    ("v", (1, 2, 9), 4),  # the row with the target 9 is not there
    ("w", (2, 3), 4),  # a history that was cut at its oldest end
    ("w", (3, 4), 5),
)


def test_rows_that_continue_each_other_are_one_sequence():
    found = {(sequence.items, sequence.first, sequence.rows) for sequence in user_sequences(ROWS)}
    assert found == {
        ((1, 2, 3, 4), 1, (0, 2, 3)),
        ((1, 2), 1, (1,)),
        ((1, 2, 9, 4), 3, (4,)),
        ((2, 3, 4), 2, (5,)),
        ((3, 4, 5), 2, (6,)),
    }


def test_every_row_is_learned_exactly_once_after_its_own_history():
    rng = np.random.default_rng(0)
    rows = []
    for user in range(30):
        items = rng.integers(0, 6, 15).tolist()
        kept = [k for k in range(1, 15) if rng.random() < 0.8]
        rows += [(f"u{user}", tuple(items[max(0, k - 10) : k]), items[k]) for k in kept]
    rng.shuffle(rows)
    rows = interactions(*{(user, history): (user, history, target) for user, history, target in rows}.values())
    learned = collections.Counter()
    for sequence in user_sequences(rows):
        for place, row in enumerate(sequence.rows, sequence.first):
            assert sequence.items[:place] == rows.histories[row]
            assert sequence.items[place] == rows.targets[row]
            learned[row] += 1
    assert learned == dict.fromkeys(range(len(rows)), 1)


def test_a_history_longer_than_the_context_keeps_its_newest_items():
    rows = interactions(("u", (1,), 2), ("u", (1, 2), 3), ("u", (1, 2, 3), 4), ("u", (1, 2, 3, 4), 5))
    found = {(sequence.items, sequence.first, sequence.rows) for sequence in user_sequences(rows, context=2)}
    assert found == {((1, 2, 3), 1, (0, 1)), ((2, 3, 4), 2, (2,)), ((3, 4, 5), 2, (3,))}


def test_equal_rows_are_each_learned_once_and_continued_once():
    """A user who buys one thing 25 times, with histories of ten items at most: 15 rows are equal to the tenth."""
    bought = [7] * 26
    rows = interactions(*(("u", tuple(bought[max(0, k - 10) : k]), bought[k]) for k in range(1, 26)))
    found = user_sequences(rows)
    assert collections.Counter(row for sequence in found for row in sequence.rows) == dict.fromkeys(range(25), 1)
    for sequence in found:
        for place, row in enumerate(sequence.rows, sequence.first):
            assert sequence.items[:place] == rows.histories[row] and sequence.items[place] == rows.targets[row]
    # Rows 1 to 9 and one of the 16 with ten items are one sequence.
    assert sorted(len(sequence.rows) for sequence in found) == [1] * 15 + [10]


def test_of_equal_rows_each_may_be_continued():
    rows = interactions(("u", (1,), 2), ("u", (1,), 2), ("u", (1,), 2), ("u", (1, 2), 3), ("u", (1, 2), 4))
    assert sorted(sequence.rows for sequence in user_sequences(rows)) == [(0, 3), (1, 4), (2,)]


def test_two_branches_share_no_row():
    found = user_sequences(interactions(("u", (1,), 2), ("u", (1, 2), 3), ("u", (1, 2), 4)))
    assert sorted(row for sequence in found for row in sequence.rows) == [0, 1, 2]


def test_variants_are_parts_of_the_sequences_in_both_directions():
    rows = interactions(*(("u", tuple(range(k)), k) for k in range(1, 9)))
    found = AugmentedSid(copies=40).variants(rows, seed=3)
    assert len(found) == 40
    directions = set()
    for sequence in found:
        steps = np.sign(np.diff(sequence.items))
        assert len(set(steps)) == 1 and sequence.first == 1
        directions.add(int(steps[0]))
    assert directions == {-1, 1}
    assert 4 < np.mean([len(sequence.items) for sequence in found]) < 8  # of 9
    assert AugmentedSid(copies=40).variants(rows, seed=3) == found != AugmentedSid(copies=40).variants(rows, seed=4)


NEAR, SURE = np.array([[10, 11]] * 12), np.array([[0.0, 1.0]] * 12)  # every item is like item 11 alone


def distilled(rows, rank, near=NEAR, chances=SURE, seed=0, **settings):
    usual = {"copies": 1500, "history_length": 3, "targets": 1, "random_items": 0.0, "soft_labels": True}
    return DistilledSid(**{**usual, **settings}).sequences(rows, rank, near, chances, seed)


def rankings(sequence):
    return [tuple(ranked) for ranked in sequence.ranked.tolist()]


def test_what_a_teacher_ranks_high_is_learned_the_more_often_the_higher():
    asked = []

    def rank(histories):
        asked.extend(histories)
        return np.tile(np.array([7, 8, 9], np.int32), (len(histories), 1))

    found = distilled(interactions(("u", (1, 2, 3, 4), 5), ("v", (6,), 6)), rank)
    assert [sequence.items[:-1] for sequence in found] == asked
    assert all(sequence.first == len(sequence.items) - 1 for sequence in found)
    assert all(rankings(sequence) == [(7, 8, 9)] and sequence.ranked.dtype == np.int32 for sequence in found)
    shares = np.bincount([sequence.items[-1] for sequence in found], minlength=10)[7:] / len(found)
    np.testing.assert_allclose(shares, np.array([6, 3, 2]) / 11, atol=0.03)  # as 1, 1/2 and 1/3


def test_histories_of_any_items_cover_the_catalogue():
    def rank(histories):
        return np.tile(np.array([8, 9], np.int32), (len(histories), 1))

    found = distilled(interactions(("u", (1, 2, 3, 4), 5)), rank, chances=np.zeros((12, 2)), random_items=0.5)
    items = collections.Counter(item for sequence in found for item in sequence.items[: sequence.first])
    assert set(items) == set(range(12))
    strange = [items[item] for item in (0, 6, 7, 8, 9, 10, 11)]
    share = 12 / 7 * sum(strange) / sum(items.values())
    assert 0.46 < share < 0.54 and max(strange) < 1.5 * min(strange)


def test_a_teacher_is_asked_again_with_what_it_gave_at_the_end():
    def rank(histories):
        return np.array([(history[-1] + 1, history[-1] + 2) for history in histories], np.int32)

    found = distilled(interactions(("u", (1, 2, 3, 4), 5), ("v", (6,), 6)), rank, copies=50, targets=3)
    assert len(found) == 100
    for sequence in found:
        history, given = sequence.items[: sequence.first], sequence.items[sequence.first :]
        assert len(given) == 3 and 1 <= len(history) <= 3
        before = sequence.items[sequence.first - 1 : -1]
        assert rankings(sequence) == [(item + 1, item + 2) for item in before]
        assert all(item in ranked for item, ranked in zip(given, rankings(sequence), strict=True))
    assert {sequence.items[-1] - sequence.items[-2] for sequence in found} == {1, 2}


def test_a_teacher_whose_items_alone_are_learned_leaves_no_rankings():
    def rank(histories):
        return np.tile(np.array([8, 9], np.int32), (len(histories), 1))

    rows = interactions(("u", (1, 2, 3, 4), 5))
    soft, hard = (distilled(rows, rank, copies=20, targets=2, soft_labels=soft) for soft in (True, False))
    assert [(sequence.items, sequence.first) for sequence in soft] == [
        (sequence.items, sequence.first) for sequence in hard
    ]
    assert {sequence.ranked.shape for sequence in soft} == {(2, 2)} and not any(
        sequence.ranked.size for sequence in hard
    )


def test_a_teacher_is_asked_about_ends_of_rows_with_items_of_like_text_among_them():
    asked = []

    def rank(histories):
        asked.extend(histories)
        return np.tile(np.array([8, 9], np.int32), (len(histories), 1))

    rows = interactions(("u", (1, 2, 3, 4), 5), ("v", (6,), 6))
    found = distilled(rows, rank)
    assert collections.Counter(sequence.rows for sequence in found) == {(0,): 1500, (1,): 1500}
    lengths = collections.Counter(len(sequence.items) - 1 for sequence in found if sequence.rows == (0,))
    assert set(lengths) == {1, 2, 3} and min(lengths.values()) > 400
    for sequence in found:
        whole = (*rows.histories[sequence.rows[0]], int(rows.targets[sequence.rows[0]]))
        history = sequence.items[:-1]
        assert all(item in (own, 11) for item, own in zip(history, whole[-len(history) :], strict=True))
    swapped = np.mean([item == 11 for history in asked for item in history])
    assert 0.27 < swapped < 0.33
    assert distilled(rows, rank) == found != distilled(rows, rank, seed=1)
    alone = distilled(rows, rank, chances=np.zeros((12, 2)))
    assert not any(11 in sequence.items for sequence in alone)  # what is like nothing stays
