"""Packed batches: nothing lost, every target one token on in its own segment, exact resume, mixing and slicing."""

import collections
import itertools

import numpy as np
import pytest

from tsrec_jax.data.input import choose_loss_slots, packed_batches, train_batches
from tsrec_jax.data.records import open_records, write_records
from tsrec_jax.data.sid_paths import SidPaths
from tsrec_jax.data.tasks.task import Example
from tsrec_jax.errors import UserError

T, B, P = 48, 4, 24


def make_examples(count, task="a", seed=0, first=1):
    """Examples of 6 to 30 tokens that differ in their first token, which is `first` and on."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        length = int(rng.integers(6, 31))
        tokens = rng.integers(0, 50, length).astype(np.int32)
        tokens[0] = first + number
        rows.append(Example(task, tokens, length - int(rng.integers(1, min(length - 1, 20))), f"{task}/{number}"))
    return rows


def batches_of(sources, *, rates=None, seed=3, accumulation=2, rows=B, group=1, part=slice(None)):
    return train_batches(
        sources,
        rates=rates or dict.fromkeys(sources, 1.0),
        sequence_length=T,
        rows=rows,
        loss_slots=P,
        accumulation=accumulation,
        seed=seed,
        group=group,
        part=part,
    )


def take(batches, count, start=0):
    """The batches of `count` steps behind step `start`, through the iterator that training reads."""
    iterator = batches.from_step(start)
    found = list(itertools.islice(iterator, count))
    iterator.close()
    return found


def rows_of(batch):
    """Each row of a batch, whatever its leading axes, as {key: vector}."""
    flat = {key: value.reshape(-1, value.shape[-1]) for key, value in batch.items()}
    return [{key: value[row] for key, value in flat.items()} for row in range(len(flat["tokens_BT"]))]


def unpack(row):
    """(task, tokens, prompt length) of each example in a row, after checks on its layout."""
    segments, used = row["segment_ids_BT"], row["loss_task_GP"] >= 0
    filled = np.count_nonzero(segments)
    assert (segments[:filled] > 0).all() and (np.diff(segments[:filled]) >= 0).all()
    assert not row["tokens_BT"][filled:].any() and not row["positions_BT"][filled:].any()
    assert not row["loss_target_GP"][~used].any() and not row["loss_index_GP"][~used].any()
    index, target, task = (row[f"loss_{name}_GP"][used] for name in ("index", "target", "task"))
    np.testing.assert_array_equal(row["tokens_BT"][index + 1], target)
    np.testing.assert_array_equal(segments[index + 1], segments[index])
    assert (segments[index] > 0).all()
    assert len(set(index.tolist())) == len(index)
    found = []
    for segment in range(1, segments.max(initial=0) + 1):
        places = np.flatnonzero(segments == segment)
        np.testing.assert_array_equal(row["positions_BT"][places], np.arange(len(places)))
        mine = segments[index] == segment
        # The loss of an example runs from its first completion token to its last without a gap.
        np.testing.assert_array_equal(np.sort(index[mine]), np.arange(index[mine].min(), places[-1]))
        (one_task,) = set(task[mine].tolist())
        found.append(("abc"[one_task], tuple(row["tokens_BT"][places].tolist()), len(places) - int(mine.sum())))
    return found


def plain(examples):
    return [(row.task, tuple(row.tokens.tolist()), row.prompt_length) for row in examples]


def assert_equal(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for key in batch:
            np.testing.assert_array_equal(batch[key], other[key], err_msg=key)


def test_one_pass_holds_every_example_once_with_its_targets_in_its_own_segment():
    examples = [*make_examples(70), *make_examples(31, task="b", seed=1, first=100)]
    batches = list(packed_batches(examples, T, B, P))
    found = [example for batch in batches for row in rows_of(batch) for example in unpack(row)]
    assert collections.Counter(found) == collections.Counter(plain(examples))
    rows = sum(row["segment_ids_BT"].any() for batch in batches for row in rows_of(batch))
    assert rows < len(examples) * 0.75, "examples are not packed"


def test_batches_have_static_shapes_and_int32_and_the_last_is_filled_with_empty_rows():
    examples = make_examples(7)
    batches = list(packed_batches(examples, 32, B, P))
    assert len(batches) > 1
    for batch in batches:
        assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
            **{f"{key}_BT": ((B, 32), np.dtype(np.int32)) for key in ("tokens", "segment_ids", "positions")},
            **{f"loss_{key}_GP": ((B, P), np.dtype(np.int32)) for key in ("index", "target", "task")},
        }
    empty = [row for row in rows_of(batches[-1]) if not row["segment_ids_BT"].any()]
    assert empty
    for row in empty:
        assert unpack(row) == []
        assert (row["loss_task_GP"] == -1).all()


def test_a_row_closes_when_its_loss_slots_are_full():
    examples = [Example("a", np.arange(1, 11, dtype=np.int32), 2, str(number)) for number in range(6)]
    batches = list(packed_batches(examples, 60, 1, 16))
    assert [len(unpack(row)) for batch in batches for row in rows_of(batch)] == [2, 2, 2]


def test_the_first_token_of_an_example_is_never_a_target():
    examples = [Example("b", np.array([7, 8, 9], np.int32), 1, "a"), Example("b", np.array([5, 6], np.int32), 1, "b")]
    (batch,) = packed_batches(examples, 8, 1, 8)
    assert batch["tokens_BT"].tolist() == [[7, 8, 9, 5, 6, 0, 0, 0]]
    assert batch["segment_ids_BT"].tolist() == [[1, 1, 1, 2, 2, 0, 0, 0]]
    assert batch["positions_BT"].tolist() == [[0, 1, 2, 0, 1, 0, 0, 0]]
    assert batch["loss_index_GP"].tolist() == [[0, 1, 3, 0, 0, 0, 0, 0]]
    assert batch["loss_target_GP"].tolist() == [[8, 9, 6, 0, 0, 0, 0, 0]]
    assert batch["loss_task_GP"].tolist() == [[0, 0, 0, -1, -1, -1, -1, -1]]


def test_loss_slots_fit_the_longest_answer_and_the_usual_share():
    one = [Example("a", np.ones(10, np.int32), 5, "a")]
    assert choose_loss_slots({"a": one}, {"a": 1.0}, 64) == 40  # a half of 64 with 4 % to spare, in multiples of 8
    long = [*one * 50, Example("a", np.ones(64, np.int32), 1, "b")]
    assert choose_loss_slots({"a": long}, {"a": 1.0}, 64) == 64
    few = [Example("a", np.ones(64, np.int32), 62, "a")]
    assert choose_loss_slots({"a": few}, {"a": 1.0}, 64) == 8
    both = {"a": one, "b": [Example("b", np.ones(10, np.int32), 9, "b")]}
    assert choose_loss_slots(both, {"a": 1.0, "b": 1.0}, 64, group=10) == 200  # 0.3 of 640, and 4 %
    assert choose_loss_slots(both, {"a": 1.0, "b": 3.0}, 64, group=10) == 136  # 0.2 of 640, and 4 %


def test_examples_that_cannot_fit_are_refused():
    with pytest.raises(UserError, match=r"long/1: 65 tokens do not fit in a row of 64 \(train.sequence_length\)"):
        choose_loss_slots({"a": [Example("a", np.ones(65, np.int32), 5, "long/1")]}, {"a": 1.0}, 64)
    with pytest.raises(UserError, match="no training rows"):
        choose_loss_slots({"a": []}, {"a": 1.0}, 64)


def test_training_batches_have_an_accumulation_axis_and_the_same_layout():
    (batch,) = take(batches_of({"a": make_examples(40)}, accumulation=3), 1)
    assert batch["tokens_BT"].shape == (3, B, T)
    assert batch["loss_target_GP"].shape == (3, B, P)
    known = set(plain(make_examples(40)))
    assert all(example in known for row in rows_of(batch) for example in unpack(row))


def test_the_same_seed_gives_the_same_batches_and_another_seed_others():
    sources = {"a": make_examples(40), "b": make_examples(20, task="b", first=60)}
    batches, again, other = (take(batches_of(sources, seed=seed), 6) for seed in (3, 3, 4))
    assert_equal(batches, again)
    assert any((a["tokens_BT"] != b["tokens_BT"]).any() for a, b in zip(batches, other, strict=True))


def test_a_run_continues_at_any_step_from_records_on_disk(tmp_path):
    examples = {"a": make_examples(40), "b": make_examples(20, task="b", first=60)}
    write_records(examples, tmp_path / "records")
    batches = take(batches_of(open_records(tmp_path / "records")), 12)
    for start in (0, 1, 5, 11):
        again = batches_of(open_records(tmp_path / "records"))
        assert_equal(take(again, 12 - start, start), batches[start:])


def test_the_keys_of_a_step_name_its_examples():
    examples = make_examples(40)
    tokens = {row.key: tuple(row.tokens.tolist()) for row in examples}
    batches = batches_of({"a": examples})
    for step, batch in enumerate(take(batches, 5), 1):
        found = [tokens for row in rows_of(batch) for _, tokens, _ in unpack(row)]
        assert [tokens[key] for key in batches.keys(step)] == found


def test_rows_of_a_group_share_their_slots_and_fewer_are_empty():
    tokens = [np.full(16, number, np.int32) for number in range(120)]
    examples = [Example("a", row, 2 if number % 2 else 15, str(number)) for number, row in enumerate(tokens)]
    used = {}
    for group in (1, 4):
        slots = choose_loss_slots({"a": examples}, {"a": 1.0}, T, group)
        batches = list(packed_batches(examples, T, B, slots, group))
        assert batches[0]["loss_index_GP"].shape == (B // group, slots)
        tokens = np.concatenate([batch["tokens_BT"].reshape(-1, T * group) for batch in batches])
        index, target, task = (
            np.concatenate([batch[f"loss_{name}_GP"] for batch in batches]) for name in ("index", "target", "task")
        )
        follow = np.take_along_axis(tokens, np.where(task >= 0, index + 1, 0), axis=1)
        np.testing.assert_array_equal(follow[task >= 0], target[task >= 0])
        assert (task >= 0).sum() == sum(len(row.tokens) - row.prompt_length for row in examples)
        used[group] = (task >= 0).mean()
    assert used[4] > used[1] + 0.05
    assert used[4] > 0.9
    with pytest.raises(UserError, match=r"4 rows of a micro-batch do not make groups of 3 \(train.rows_per_group\)"):
        batches_of({"a": examples}, group=3)


def first_tokens(batch):
    return [tokens[0] for row in rows_of(batch) for _, tokens, _ in unpack(row)]


def stream_of(batches, steps):
    """The first tokens of the examples of the first `steps` steps, in their order."""
    return [token for batch in take(batches, steps) for token in first_tokens(batch)]


def test_every_epoch_shows_each_example_once_in_a_new_order():
    examples = make_examples(60)
    stream = stream_of(batches_of({"a": examples}, accumulation=1, rows=1), 160)
    epochs = np.array(stream[:240]).reshape(4, 60)
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(1, 61))
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 4


def test_a_quarter_of_a_task_an_epoch_shows_all_of_it_in_four():
    sources = {"a": make_examples(30), "b": make_examples(20, task="b", first=100), "c": make_examples(9, task="c")}
    rates = {"a": 1.0, "b": 0.25}
    stream = stream_of(batches_of(sources, rates=rates, accumulation=1, rows=1), 120)
    counts = collections.Counter(stream[: 4 * 35])
    assert counts == collections.Counter({**dict.fromkeys(range(1, 31), 4), **dict.fromkeys(range(100, 120), 1)})
    for epoch in range(4):
        assert sum(token >= 100 for token in stream[epoch * 35 : epoch * 35 + 35]) == 5


def test_the_parts_of_the_processes_make_up_the_same_batches():
    sources = {"a": make_examples(40), "b": make_examples(20, task="b", first=60)}
    whole = take(batches_of(sources), 4)
    parts = [take(batches_of(sources, part=slice(start, start + 2)), 4) for start in (0, 2)]
    joined = [{key: np.concatenate([a[key], b[key]], axis=1) for key in a} for a, b in zip(*parts, strict=True)]
    assert_equal(joined, whole)
    assert batches_of(sources, part=slice(0, 2)).keys(3) == batches_of(sources).keys(3)


def test_epochs_are_counted_in_steps_of_full_rows():
    examples = make_examples(60)
    batches = batches_of({"a": examples}, accumulation=1, rows=2)
    steps = batches.steps(1.0)
    shown = stream_of(batches, steps)
    assert set(shown[:60]) == set(range(1, 61))
    assert len(stream_of(batches, steps - 1)) < 60
    assert batches.steps(2.5) == -(-5 * len(pack_of(examples)) // 4)


def pack_of(examples):
    """The rows of the first epoch of one task, through the batches of one row."""
    batches, seen, rows = batches_of({"a": examples}, accumulation=1, rows=1), 0, []
    for batch in take(batches, len(examples)):
        rows.append(batch)
        seen += len(first_tokens(batch))
        if seen >= len(examples):
            return rows
    raise AssertionError("an epoch has no end")


def test_rates_that_leave_an_epoch_empty_are_refused():
    with pytest.raises(UserError, match="an epoch holds no row"):
        batches_of({"a": make_examples(4)}, rates={"a": 0.01})


def test_tokens_of_sids_are_learned_at_their_own_positions_and_need_no_slot(catalogue):
    paths = SidPaths.of_catalogue(catalogue, 100)
    known = {token: 100 + number for number, token in enumerate(catalogue.tokens)}
    sid = [known[token] for token in catalogue.sids[0]]
    rows = [
        Example("c", np.array([5, *sid, *sid, 7], np.int32), 4, "sid and word"),
        Example("b", np.array([5, 6, 7, 8], np.int32), 2, "words"),
        Example("a", np.array([5, sid[1], sid[0]], np.int32), 1, "a token off the paths, and the root's child"),
    ]
    slots = choose_loss_slots({"a": rows}, {"a": 1.0}, T, 2, paths)
    (batch,) = packed_batches(rows, T, 2, slots, 2, paths=paths)
    used = batch["loss_task_GP"] >= 0
    assert sorted(batch["loss_target_GP"][used]) == sorted([7, 7, 8, sid[1]])
    flat = batch["tokens_BT"].reshape(-1)
    assert (flat[batch["loss_index_GP"][used] + 1] == batch["loss_target_GP"][used]).all()
    row, place = np.nonzero(batch["sid_task_BT"] >= 0)
    assert len(row) == 4
    assert (batch["tokens_BT"][row, place + 1] == 100 + batch["sid_target_BTK"][row, place, 0]).all()
    assert paths.allowed_Nn[batch["sid_node_BT"][row, place], batch["sid_target_BTK"][row, place, 0]].all()
    assert sorted(batch["sid_task_BT"][row, place]) == [0, 0, 0, 2]
    assert sorted(batch["sid_node_BT"][row, place])[:2] == [0, 0]


def test_ranked_sids_share_the_places_of_those_drawn_from_them_when_they_begin_alike(catalogue):
    paths = SidPaths.of_catalogue(catalogue, 100)
    tokens = catalogue.tokens_IC
    order = [4, 0, 1, 2, 3]
    drawn = (1, 3)
    row = [5, *(100 + tokens[0]), *(100 + tokens[drawn, :].reshape(-1))]
    rankings = (order, order[::-1])
    hard, soft = (
        Example("a", np.array(row, np.int32), 4, "a", ranked)
        for ranked in (np.zeros(0, np.int32), tokens[np.array(rankings)].reshape(-1))
    )
    (batch,) = packed_batches([hard, soft], T, 1, 8, paths=paths, top_k=len(order))
    target_TK, share_TK = batch["sid_target_BTK"][0], batch["sid_target_probs_BTK"][0]
    levels = catalogue.num_levels
    learned = np.flatnonzero(batch["sid_task_BT"][0] >= 0)
    assert len(learned) == 4 * levels
    np.testing.assert_allclose(share_TK[learned].sum(axis=1), 1.0, rtol=1e-6)
    assert not share_TK[np.setdiff1d(np.arange(T), learned)].any()
    certain, shared = learned[: 2 * levels], learned[2 * levels :]
    assert (share_TK[certain, 0] == 1).all()
    assert (target_TK[certain, 0] == batch["tokens_BT"][0, certain + 1] - 100).all()
    for number, place in enumerate(shared):
        which, level = divmod(number, levels)
        weights = {}
        for rank, item in enumerate(rankings[which], 1):
            if (tokens[item, :level] == tokens[drawn[which], :level]).all():
                weights[tokens[item, level]] = weights.get(tokens[item, level], 0.0) + 1 / rank
        wanted = np.zeros(len(catalogue.tokens))
        wanted[list(weights)] = np.array(list(weights.values())) / sum(weights.values())
        found = np.bincount(target_TK[place], share_TK[place], len(catalogue.tokens))
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_token_under_which_nothing_is_ranked_is_not_learned(catalogue):
    paths = SidPaths.of_catalogue(catalogue, 100)
    tokens = catalogue.tokens_IC
    given = 0
    others = [item for item in range(len(tokens)) if tokens[item, 0] != tokens[given, 0]]
    row = np.array([5, *(100 + tokens[given]), 6], np.int32)
    example = Example("a", row, 1, "a", tokens[others].reshape(-1))
    (batch,) = packed_batches([example], T, 1, 8, paths=paths, top_k=len(others))
    first, *deeper = range(catalogue.num_levels)
    assert batch["sid_task_BT"][0, first] == 0
    np.testing.assert_allclose(batch["sid_target_probs_BTK"][0, first].sum(), 1.0, rtol=1e-6)
    assert tokens[given, 0] not in batch["sid_target_BTK"][0, first]
    assert (batch["sid_task_BT"][0, deeper] == -1).all() and not batch["sid_target_probs_BTK"][0, deeper].any()
