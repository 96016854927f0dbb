"""Records on disk: equal after reading, reused when equal, refused when not, whole or absent."""

import os
import shutil

import numpy as np
import pytest

from tsrec_jax.data import records
from tsrec_jax.data.records import fingerprint, open_records, write_records
from tsrec_jax.data.tasks.task import Example
from tsrec_jax.errors import UserError


@pytest.fixture
def examples():
    rng = np.random.default_rng(1)
    return {
        task: [
            Example(
                task,
                rng.integers(0, 2**31 - 1, 3 + row, np.int32),
                1 + row % 2,
                f"{task}/{row} é",
                rng.integers(0, 50, 2 * (row % 3), np.int32),
            )
            for row in range(12)
        ]
        for task in ("next_sid", "ts_align")
    }


def by_key(rows):
    return {row.key: (row.task, row.tokens.tolist(), row.prompt_length, row.ranked.tolist()) for row in rows}


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_records_read_back_equal(tmp_path, examples):
    write_records(examples, tmp_path / "records")
    found = open_records(tmp_path / "records")
    assert list(found) == list(examples)
    for task, rows in examples.items():
        read = [found[task][index] for index in range(len(found[task]))]
        assert len(read) == len(rows)
        assert by_key(read) == by_key(rows)
        assert {part.dtype for row in read for part in (row.tokens, row.ranked)} == {np.dtype(np.int32)}
    assert [path.name for path in tmp_path.iterdir()] == ["records"]


def test_the_order_on_disk_depends_on_the_examples_alone(tmp_path, examples):
    write_records(examples, tmp_path / "one")
    write_records(examples, tmp_path / "two")
    one, two = open_records(tmp_path / "one")["next_sid"], open_records(tmp_path / "two")["next_sid"]
    assert [one[index].key for index in range(12)] == [two[index].key for index in range(12)]


def test_equal_records_are_reused_untouched(tmp_path, examples):
    write_records(examples, tmp_path / "records")
    before = stamps(tmp_path / "records")
    write_records(examples, tmp_path / "records")
    assert stamps(tmp_path / "records") == before


def test_records_of_other_inputs_are_refused_and_kept(tmp_path, examples):
    write_records(examples, tmp_path / "records")
    before = stamps(tmp_path / "records")
    examples["ts_align"][3].tokens[0] += 1
    with pytest.raises(UserError, match=r"records: holds other records .* use another --workdir"):
        write_records(examples, tmp_path / "records")
    assert stamps(tmp_path / "records") == before


def test_a_folder_of_something_else_is_refused_and_kept(tmp_path, examples):
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="holds other records"):
        write_records(examples, tmp_path / "records")
    assert (tmp_path / "records" / "letter.txt").read_text() == "dear"
    with pytest.raises(UserError, match="holds no records"):
        open_records(tmp_path / "records")


@pytest.mark.parametrize("change", ["task", "tokens", "prompt_length", "key", "ranked", "order", "name"])
def test_the_fingerprint_sees_every_part_of_an_example(examples, change):
    before = fingerprint(examples)
    row = examples["next_sid"][0]
    changed = {
        "task": Example("other", row.tokens, row.prompt_length, row.key),
        "tokens": Example(row.task, row.tokens[::-1], row.prompt_length, row.key),
        "prompt_length": Example(row.task, row.tokens, row.prompt_length + 1, row.key),
        "key": Example(row.task, row.tokens, row.prompt_length, "other"),
        "ranked": Example(row.task, row.tokens, row.prompt_length, row.key, np.array([3, 4], np.int32)),
    }
    if change == "order":
        examples["next_sid"].reverse()
    elif change == "name":
        examples["next_title"] = examples.pop("next_sid")
    else:
        examples["next_sid"][0] = changed[change]
    assert fingerprint(examples) != before


def test_writing_that_fails_leaves_no_records(tmp_path, examples, monkeypatch):
    def fails(_self, _dl_manager):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(records.TokenisedTasks, "_split_generators", fails)
        with pytest.raises(OSError, match="disk full"):
            write_records(examples, tmp_path / "records")
    assert not (tmp_path / "records").exists()
    write_records(examples, tmp_path / "records")
    assert len(open_records(tmp_path / "records")["ts_align"]) == 12


def test_a_process_that_comes_second_uses_the_records_of_the_first(tmp_path, examples, monkeypatch):
    folder = tmp_path / "records"
    replace = os.replace

    def after_another_process(source, target):
        if target == folder:
            shutil.copytree(source, folder)
        replace(source, target)

    monkeypatch.setattr(os, "replace", after_another_process)
    write_records(examples, folder)
    assert by_key(open_records(folder)["next_sid"]) == by_key(examples["next_sid"])
    assert [path.name for path in tmp_path.iterdir()] == ["records"]
