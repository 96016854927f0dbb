"""What a preparation kept and dropped and why, as values and as tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tsrec_jax.prepare.ties import FILE, ITEM, SHUFFLED, Ties

if TYPE_CHECKING:
    from tsrec_jax.prepare.raw import FileCount  # which imports polars; a summary does without


@dataclasses.dataclass(frozen=True)
class Step:
    """One reason to drop interactions.

    Attributes:
      reason: why they were dropped.
      dropped: how many interactions.
      interactions, users, items: what was left after it.
    """

    reason: str
    dropped: int
    interactions: int
    users: int
    items: int


@dataclasses.dataclass(frozen=True)
class SplitCount:
    """One split.

    Attributes:
      name: train, valid or test.
      rows: number of rows.
      users: users with a row.
      targets: different target items.
      first, last: times of the first and the last target, ISO 8601, UTC.
      unseen: share of the rows whose target occurs nowhere in train, be it history or target; 0 for train.
      tied: share of the rows whose target shares user and second with another interaction, so that its place among
        them is a guess.
    """

    name: str
    rows: int
    users: int
    targets: int
    first: str
    last: str
    unseen: float
    tied: float


@dataclasses.dataclass(frozen=True)
class Summary:
    """A preparation in figures.

    Attributes:
      name: NAME of the data set.
      settings: the settings by name.
      interaction_files, item_files: what was read of each input file.
      steps: what was dropped, in order.
      ties: interactions that share user and second with another, and what was done about them.
      repeated_rows: rows that have the user, history and target of an earlier one; they stay.
      num_items: items in the item file.
      cold_items: items of the input's item files that nobody interacted with; they are left out.
      repeated_entries: entries of the input's item files whose item has an earlier one; the first usable one counts.
      splits: train, valid and test.
    """

    name: str
    settings: Mapping[str, Any]
    interaction_files: tuple[FileCount, ...]
    item_files: tuple[FileCount, ...]
    steps: tuple[Step, ...]
    ties: Ties
    repeated_rows: int
    num_items: int
    cold_items: int
    repeated_entries: int
    splits: tuple[SplitCount, ...]


def summary_tables(summary: Summary) -> str:
    """The summary as Markdown with aligned columns: files, steps, splits; ends with a newline."""
    files = [
        (file.file, f"{file.lines:,}", f"{file.malformed:,}", file.sha256[:12])
        for file in (*summary.interaction_files, *summary.item_files)
    ]
    steps = [(step.reason, *(f"{n:,}" for n in dataclasses.astuple(step)[1:])) for step in summary.steps]
    splits = [
        (
            split.name,
            f"{split.rows:,}",
            f"{split.users:,}",
            f"{split.targets:,}",
            split.first,
            split.last,
            _unseen(split),
            _percent(split.tied),
        )
        for split in summary.splits
    ]
    examples = [
        f"- {file.file}, {example}\n"
        for file in (*summary.interaction_files, *summary.item_files)
        for example in file.examples
    ]
    reasons = [
        (file.file, reason, f"{lines:,}")
        for file in (*summary.interaction_files, *summary.item_files)
        for reason, lines in file.reasons.items()
    ]
    parts = [
        f"# {summary.name}\n",
        "Settings: " + ", ".join(f"{name}={value!r}" for name, value in summary.settings.items()) + "\n",
        _table(("file", "lines", "malformed", "SHA-256"), files, texts=(0, 3)),
        _table(("file", "malformed because", "lines"), reasons, texts=(0, 1)) if reasons else "",
        "".join(["The first malformed lines:\n\n", *examples]) if examples else "",
        _table(("dropped because", "interactions dropped", "interactions left", "users", "items"), steps),
        f"{summary.num_items:,} items are kept. {summary.cold_items:,} items of the item files are left out because "
        f"nobody interacted with them; {summary.repeated_entries:,} entries are of an item that has an earlier one.\n",
        f"{summary.repeated_rows:,} rows have the user, history and target of an earlier one.\n",
        f"Ties: {of_ties(summary.ties)}.\n",
        _table(
            ("split", "rows", "users", "target items", "from", "to", "target unseen in train", "target tied"), splits
        ),
    ]
    return "\n".join(part for part in parts if part)


# Where the order among tied interactions comes from, by `Ties.order`.
ORDERS = {
    FILE: "that of the files",
    SHUFFLED: "shuffled by a hash of user and item",
    ITEM: "that of the item ids, which models learn",
}


def of_ties(ties: Ties) -> str:
    """How many interactions are tied, and what was done, in one sentence."""
    text = f"{ties.interactions:,} interactions ({_percent(ties.share)}) share user and second with another"
    if ties.ascending is None:  # no neighbours are tied
        return text
    order = "that of the files from the last line to the first" if ties.backwards and ties.order == FILE else ""
    return (
        f"{text}; in the files the item ids of {_percent(ties.ascending)} of such neighbours ascend; their order here "
        f"is {order or ORDERS[ties.order]} (prepare.ties)"
    )


def _unseen(split: SplitCount) -> str:
    return "" if split.name == "train" else _percent(split.unseen)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], texts: Sequence[int] = (0,)) -> str:
    """A Markdown table; the columns `texts` stand to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        aligned = (
            cell.ljust(width) if column in texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(aligned)} |\n"

    rule = line([("-" * width) if c in texts else "-" * (width - 1) + ":" for c, width in enumerate(widths)])
    return "".join([line(header), rule, *(line(row) for row in rows)])
