"""Lines and bars on the way of a run."""

import io
import logging

import pytest

from tests.said import said
from tsrec_jax import progress
from tsrec_jax.progress import Progress, report, stage


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_line_every_ten_seconds_says_how_far_it_is_and_how_long_it_will_take():
    seconds, lines = [0.0], []
    counted = Progress(6, lines.append, lambda: seconds[0], io.StringIO())
    for _ in range(6):
        seconds[0] += 6.0
        counted.tick("level 1 of 2")
    assert lines == [
        "level 1 of 2: 2 of 6 steps, about 24 s left",
        "level 1 of 2: 4 of 6 steps, about 12 s left",
        "level 1 of 2: 6 of 6 steps",
    ]


def test_several_steps_at_a_time_are_counted_in_their_unit_with_what_else_is_known():
    seconds, lines = [0.0], []
    counted = Progress(100, lines.append, lambda: seconds[0], io.StringIO(), unit="texts")
    for note in ("", "2 failed"):
        seconds[0] += 12.0
        counted.tick("embedding", 40, note)
    assert lines == [
        "embedding: 40 of 100 texts, about 18 s left",
        "embedding: 80 of 100 texts; 2 failed, about 6 s left",
    ]


def test_on_a_terminal_a_bar_is_drawn_and_taken_away_and_no_line_is_printed():
    terminal, lines, seconds = Terminal(), [], [0.0]
    counted = Progress(2, lines.append, lambda: seconds[0], terminal)
    for _ in range(2):
        seconds[0] += 60.0
        counted.tick("level 1 of 2")
    assert not lines
    assert "0/2" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r")


@pytest.mark.parametrize("is_first", [True, False])
def test_the_first_process_prints_each_line_once_and_the_others_none(capsys, monkeypatch, is_first):
    monkeypatch.setattr(progress, "first", lambda: is_first)
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler()])  # as absl leaves it
    report("index: 100 % of 3 texts")
    terminal = Terminal()
    Progress(1, print, terminal=terminal).tick("level 1 of 1")
    printed = capsys.readouterr()
    assert printed.out == ("index: 100 % of 3 texts\n" if is_first else "")
    assert not printed.err
    assert bool(terminal.getvalue()) == is_first


def test_lines_begin_with_the_stage_that_says_them():
    with said() as lines:
        report("before")
        with stage("index"):
            report("level 1 of 3")
        report("after")
    assert lines == ["before", "index: level 1 of 3", "after"]
