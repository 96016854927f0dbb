"""The faults of a dataset folder, collected so that a person can mend them all at once, and oddities that are none."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from tsrec_jax.errors import UserError

SHOWN_FAULTS = 10


class DatasetError(UserError):
    """Faults of a dataset folder, each with its file and row."""


class Faults:
    """What is wrong with a folder, in the order in which it was found.

    Attributes:
      lines: the faults.
      notes: what a person should know about a folder that is read anyway.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.notes: list[str] = []

    def add(self, file: pathlib.Path, row: str | int, fault: str) -> None:
        """Notes a fault; `row` is a row number, another place in the file, or empty."""
        place = f"row {row}" if isinstance(row, int) else row
        self.lines.append(f"{file}{f', {place}' if place else ''}: {fault}")

    def note(self, file: pathlib.Path, words: str) -> None:
        """Notes something that is not a fault."""
        self.notes.append(f"{file}: {words}")

    def stop_if_any(self) -> None:
        """Raises DatasetError with the first ten faults and the number of the others."""
        if not self.lines:
            return
        shown = self.lines[:SHOWN_FAULTS]
        if len(self.lines) > SHOWN_FAULTS:
            shown = [*shown, f"and {len(self.lines) - SHOWN_FAULTS} more; `tsrec check FOLDER` lists all of them"]
        if len(shown) == 1:
            raise DatasetError(f"1 fault in the dataset folder: {shown[0]}")
        raise DatasetError("\n  ".join([f"{len(self.lines)} faults in the dataset folder:", *shown]))


def named(texts: Sequence[str], most: int = 3) -> str:
    """The first few ids in quotation marks, and how many more there are."""
    shown = ", ".join(repr(text) for text in texts[:most])
    return f"{shown} and {len(texts) - most} more" if len(texts) > most else shown
