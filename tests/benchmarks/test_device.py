"""The accelerator's benchmark without a device: what is measured when, what is kept, and the arithmetic beside it."""

import dataclasses
import json
import runpy
import tarfile

import numpy as np
import pytest

from benchmarks import accelerator
from benchmarks.decoding.problem import Lists, Problem
from benchmarks.device import cells, decode, mix, runner, store, study, train
from benchmarks.device.shapes import SHAPES, TINY
from benchmarks.device.store import Store
from tsrec_jax.data.tasks.task import Example
from tsrec_jax.errors import UserError
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.planning.accounting import parameter_count, step_memory

ABOUT = {"command": "python benchmarks/accelerator.py", "commit": "abc", "tiny": True}
FACTS = {"product_rates": {"bfloat16": 1e12, "float32": 1e11}, "copy_bandwidth": 1e9}


def test_the_cells_are_all_that_was_promised_each_once_and_the_most_wanted_first():
    found = cells.all_cells(tiny=False)
    keys = [(cell.part, cell.key) for cell in found]
    assert len(set(keys)) == len(keys)
    assert found[0].part == "facts"
    assert sum(cell.part == "decode" for cell in found) == 4 * 2 * 2 * 3 * 3
    assert sum(cell.part == "train" for cell in found) == 4 * 3
    studied = [cell.request for cell in found if cell.part == "study"]
    config = study.study_config("", tiny=False)
    wanted = [(arm, seed) for seed in config.study.seeds for arm in config.study.arms]
    assert sorted((each["arm"], each["seed"]) for each in studied) == sorted(wanted)
    assert [each["seed"] for each in studied] == sorted(each["seed"] for each in studied)
    assert {cell.part for cell in cells.all_cells(tiny=True)} == set(cells.PARTS)


def test_the_tiny_study_is_the_real_one_with_less_to_do(request):
    path = request.config.rootpath / "configs" / "studies" / "main.py"
    real, tiny = runpy.run_path(str(path))["get_config"](), study.study_config("", tiny=True)
    assert list(real.study.arms) == list(tiny.study.arms)
    assert tiny.train.max_steps < 10


def test_an_estimate_is_what_cells_like_it_took_or_all_of_the_part_or_the_guess():
    cell = next(each for each in cells.all_cells(tiny=False) if each.part == "decode")
    assert cells.estimate(cell, []) == cell.guess
    other = "another shape, bfloat16, 150 tokens"
    assert cells.estimate(cell, [(other, 4.0), (f"{other}, more", 8.0)]) == 6.0
    shape, dtype = cell.request["shape"], cell.request["dtype"]
    alike = [(f"{shape}, {dtype}, 1 token", 30.0), (f"{shape}, {dtype}, 2 tokens", 20.0)]
    assert cells.estimate(cell, [(other, 4.0), *alike]) == 30.0


class Clock:
    """A time that passes when a worker works."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def world(monkeypatch, tmp_path):
    """A function that runs these cells with workers that answer as told, and the names of the workers it started."""
    clock, started = Clock(), []
    monkeypatch.setattr(runner, "time", clock)

    class Worker:
        def __init__(self, name, work, log):
            self.name = name
            started.append(name)

        def start(self, seconds):
            clock.now += 5
            return 5.0

        def measure(self, cell, seconds):
            taken, answer = answers[cell["request"]["name"]]
            clock.now += min(taken, seconds)
            if taken > seconds:
                raise TimeoutError
            if isinstance(answer, BaseException):
                raise answer
            return answer

        def close(self, at_once):
            started.append(f"end of {self.name}")

    monkeypatch.setattr(runner, "Worker", Worker)
    answers = {}

    def go(wanted, minutes, again=False, parts=cells.PARTS, **given):
        answers.clear()
        answers.update(given)
        del started[:]
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        options = runner.Options(minutes, out, tmp_path / "work", parts, tiny=True, again=again)
        kept = Store(out, ABOUT)
        monkeypatch.setattr(store, "page", lambda parts: "page")
        left = runner.run(options, wanted, kept)
        files = [json.loads(path.read_text())["cells"] for path in sorted(out.glob("*.json"))]
        return left, {key: cell["status"] for found in files for key, cell in found.items()}, list(started)

    return go


def cell(name, process="p", guess=10.0, part="decode"):
    return cells.Cell(part, name, process, guess, {"name": name})


DONE = {"facts": {"x": 1}}


def test_no_cell_is_begun_that_would_not_end_in_time_and_the_next_run_goes_on(world):
    wanted = [cell("a"), cell("b, long", part="train", guess=100.0), cell("c")]
    left, found, started = world(wanted, 1.0, a=(20, DONE), c=(20, DONE))
    assert (left, found) == (1, {"a": "done", "c": "done"})
    assert started == ["p", "end of p"]
    left, found, started = world(wanted, 3.0, **{"b, long": (100, DONE)})
    assert (left, found) == (0, {"a": "done", "b, long": "done", "c": "done"})


def test_a_cell_that_fails_is_kept_and_the_next_one_has_a_new_process(world):
    wanted = [cell("a"), cell("b"), cell("c", "q")]
    answers = {"a": (1, {"error": "RESOURCE_EXHAUSTED: 80 GiB"}), "b": (1, DONE), "c": (1, DONE)}
    left, found, started = world(wanted, 5.0, **answers)
    assert (left, found) == (0, {"a": "failed", "b": "done", "c": "done"})
    assert started == ["p", "end of p", "p", "end of p", "q", "end of q"]
    assert world(wanted, 5.0)[2] == []  # neither what is done nor what failed is tried again
    assert world(wanted, 5.0, again=True, a=(1, DONE))[1]["a"] == "done"


def test_decoding_alone_brings_the_rates_of_its_floor_along(world):
    wanted = [cell("f", part="facts"), cell("d"), cell("t", part="train")]
    assert world(wanted, 5.0, parts=("decode",), f=(1, DONE), d=(1, DONE))[1] == {"f": "done", "d": "done"}


def test_a_cell_that_outlives_the_minutes_is_cut_off_and_tried_by_the_next_run(world):
    wanted = [cell("a"), cell("b")]
    left, found, _ = world(wanted, 1.0, a=(1000, DONE))
    assert (left, found) == (2, {"a": "cut off"})
    assert world(wanted, 1.0, a=(1, DONE), b=(1, DONE))[:2] == (0, {"a": "done", "b": "done"})


def test_a_run_that_is_stopped_keeps_what_it_has(world, tmp_path):
    wanted = [cell("a"), cell("b")]
    with pytest.raises(KeyboardInterrupt):
        world(wanted, 1.0, a=(1, DONE), b=(1, KeyboardInterrupt()))
    left, found, _ = world(wanted, 1.0, b=(1, DONE))
    assert (left, found) == (0, {"a": "done", "b": "done"})


def test_a_process_that_dies_is_a_cell_that_failed(tmp_path):
    with (tmp_path / "log").open("w") as log:
        worker = runner.Worker("p", tmp_path, log)
        assert worker.start(120) > 0
        found = worker.measure({"part": "nothing", "request": {}}, 120)
        assert found["error"].startswith("ModuleNotFoundError")
        assert "the process ended with 1" in worker.measure({"part": "facts", "request": {}}, 120)["error"]
        worker.close()


def test_figures_of_tiny_shapes_and_of_real_ones_do_not_mix(tmp_path):
    Store(tmp_path, ABOUT).add("study", "sa, seed 1", {"status": "failed", "error": "no disk"})
    assert "study, sa, seed 1: failed: no disk" in (tmp_path / "tables.md").read_text()
    with pytest.raises(UserError, match="of a run with --tiny; give another --out"):
        Store(tmp_path, {**ABOUT, "tiny": False})
    (tmp_path / "study.json").write_text("[")
    with pytest.raises(UserError, match="not what this program wrote"):
        Store(tmp_path, ABOUT)


def test_the_study_waits_for_its_data_and_weights(tmp_path, monkeypatch):
    options = accelerator.parse([f"--out={tmp_path}"])
    assert options.missing == {"study": "no dataset folder (--data)"}
    monkeypatch.setattr(study, "weights_missing", lambda: "no weights")
    assert accelerator.parse([f"--out={tmp_path}", f"--data={tmp_path}"]).missing == {"study": "no weights"}
    monkeypatch.setattr(study, "weights_missing", lambda: "")
    assert accelerator.parse([f"--out={tmp_path}", f"--data={tmp_path}"]).missing == {}


def test_the_floor_is_the_larger_of_operations_and_bytes():
    words, config = SHAPES[TINY]
    codes_NC = np.stack(np.unravel_index(np.arange(90), (8, 8, 8)), axis=1)
    weights = {name: np.zeros(0, np.float32) for name in ("embedding", "final_norm")}
    model = Decoder(config, weights=weights, num_tokens=words + 24)
    problem = Problem(TINY, model, codes_NC, (8, 8, 8), words, [[1] * 12] * 2)
    floor = decode.floor_seconds(problem, 4, "float32", FACTS)
    assert floor["bytes_seconds"] == pytest.approx(
        (3 * 4 * parameter_count(config) + 2 * 12 * 2 * 2 * 2 * 8 * 4 * 3) / 1e9  # written once, read in two steps
    )
    assert floor["seconds"] == floor["bytes_seconds"] > floor["operations_seconds"]
    slow = {**FACTS, "product_rates": {"float32": 1e6}}
    slowly = decode.floor_seconds(problem, 4, "float32", slow)
    assert slowly["seconds"] == slowly["operations_seconds"] == pytest.approx(1e5 * floor["operations_seconds"])
    assert decode.floor_seconds(problem, 4, "float32", None) is None
    assert decode.cache_bytes(problem, 4, "bfloat16") == 2 * 12 * 4 * 2 * 2 * 2 * 8 * 2


def test_overlap_counts_live_sids_in_any_order():
    codes_BWC = np.arange(12, dtype=np.int32).reshape(1, 4, 3)
    scores_BW = np.array([[-1.0, -2.0, -3.0, -np.inf]], np.float32)
    other = Lists(codes_BWC[:, [1, 0, 3, 2]], scores_BW)
    found = decode.agreement(Lists(codes_BWC, scores_BW), other)
    assert found["overlap"] == pytest.approx(2 / 3)
    assert found["agreeing"] == 0
    assert decode.agreement(other, other)["overlap"] == 1.0


def test_a_step_is_as_large_as_was_asked_for_and_recomputes_only_where_it_must():
    _, config = SHAPES["Qwen2.5-1.5B"]
    rows = [Example(0, np.ones(100, np.int32), 50, str(number)) for number in range(10)]

    def choose(wanted, gib):
        return train.choose_step(config, train.Sizes(), 512, {"a": rows}, wanted, gib * 2**30)

    asked = choose(64, 79)
    assert (asked.rows, asked.remat) == (12, False)
    assert choose(64, 45).remat
    largest = choose(0, 140)
    assert (largest.rows > asked.rows, largest.remat) == (True, False)
    assert choose(0, 40).remat
    assert step_memory(config, largest).total <= train.ROOM * 140 * 2**30
    larger = dataclasses.replace(largest, rows=2 * largest.rows)
    assert step_memory(config, larger).total > train.ROOM * 140 * 2**30


def test_real_rows_are_kept_for_the_processes_that_come_later(tmp_path):
    rng = np.random.default_rng(0)
    rows = {
        task: [Example(task, rng.integers(1, 9, 5 + n).astype(np.int32), 2 + n, "") for n in range(3)]
        for task in mix.MIX
    }
    mix.keep_rows(rows, tmp_path / "mix.npz")
    found = mix.kept_rows(tmp_path / "mix.npz")
    assert list(found) == list(mix.MIX)
    for task, part in rows.items():
        for mine, theirs in zip(part, found[task], strict=True):
            assert (mine.task, mine.prompt_length) == (theirs.task, theirs.prompt_length)
            np.testing.assert_array_equal(mine.tokens, theirs.tokens)


def test_finished_cells_come_along_to_another_machine_and_overwrite_nothing(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for name in ("cells/sa/seed-1/cell.npz", "cells/sa/seed-1/metrics.jsonl", "study.md"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text("here")
    study.pack_cells(here, tmp_path / "cells.tar.gz")
    (there / "cells/sa/seed-1").mkdir(parents=True)
    (there / "study.md").write_text("there")
    study.unpack_cells(tmp_path / "cells.tar.gz", there)
    assert (there / "cells/sa/seed-1/cell.npz").read_text() == "here"
    assert (there / "study.md").read_text() == "there"
    assert not (there / "cells/sa/seed-1/metrics.jsonl").exists()
    study.unpack_cells(tmp_path / "none.tar.gz", there)


def test_cells_whose_unpacking_is_cut_off_are_brought_by_the_next_one(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "cells/sa/seed-1").mkdir(parents=True)
    (here / "cells/sa/seed-1/cell.npz").write_text("whole")
    study.pack_cells(here, tmp_path / "cells.tar.gz")

    def cut_off(_source, target, *_, **__):
        target.write(b"wh")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "copyfileobj", cut_off)
        with pytest.raises(KeyboardInterrupt):
            study.unpack_cells(tmp_path / "cells.tar.gz", there)
    study.unpack_cells(tmp_path / "cells.tar.gz", there)
    assert (there / "cells/sa/seed-1/cell.npz").read_text() == "whole"
    assert [each.name for each in there.iterdir()] == ["cells"]
