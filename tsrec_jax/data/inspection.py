"""What a dataset folder holds, and everything that is wrong with it: the verb `check`."""

from __future__ import annotations

import pathlib
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from tsrec_jax.data.catalogue import TokenDescription
from tsrec_jax.data.dataset import DESCRIPTIONS_FILE, Contents, parse_folder
from tsrec_jax.data.faults import DatasetError, Faults
from tsrec_jax.data.folder_files import AS_IT_IS, Reading, find_name
from tsrec_jax.data.folder_rows import FolderRows
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.prepared import SUMMARY, tied_targets
from tsrec_jax.data.row_facts import out_of_time
from tsrec_jax.text_table import aligned

SPLIT_COLUMNS = (
    *("split", "rows", "users", "targets", "cold targets", "had before", "equal rows"),
    *("history: least", "median", "most"),
)


def inspect_folder(folder: pathlib.Path, name: str = "", reading: Reading = AS_IT_IS) -> int:
    """Prints what a folder holds, what is odd about it, and every fault, each with its file and row.

    A folder with an index or a list of SIDs is read as a complete one, any other as texts and interactions. The figures
    leave out whatever has a fault.

    Args:
      folder: the folder.
      name: NAME in its file names; empty: the only NAME in the folder.
      reading: how to read it, where more than one way makes sense.

    Returns:
      The number of faults.

    Raises:
      DatasetError: no such folder, or it holds no NAME.item.json or several.
    """
    name = find_name(folder, name)
    complete = any((folder / f"{name}{end}").exists() for end in (".index.json", ".info.txt"))
    kind = "texts, interactions and SIDs" if complete else "texts and interactions, no SIDs"
    print(f"{folder}: {name}: {kind}")
    faults = Faults()
    try:
        for line in _facts(folder, parse_folder(folder, name, complete, reading, faults)):
            print(line)
    except DatasetError:  # no item can be read; the faults say why
        pass
    for note in faults.notes:
        print(f"note: {note}")
    for line in faults.lines:
        print(f"fault: {line}")
    print(f"{len(faults.lines)} fault{'s' * (len(faults.lines) != 1)}")
    return len(faults.lines)


def _facts(folder: pathlib.Path, contents: Contents) -> list[str]:
    splits, items = contents.rows.splits, contents.items
    lines = [_items_line(_items_had(splits.values(), len(items)), contents)]
    train = _items_had([splits["train"]] if "train" in splits else [], len(items))
    rows = [SPLIT_COLUMNS, *(_split_row(split, contents.rows, train) for split in splits)]
    lines += aligned(rows)
    if contents.sids.read:
        lines += _sid_lines(contents.sids.read)
        lines.append(_words_line(contents.token_descriptions))
    lines += _order_lines(contents.rows)
    return [*lines, *_tie_lines(folder)]


def _words_line(descriptions: Mapping[str, TokenDescription]) -> str:
    paths = sum(bool(words.prefix) for words in descriptions.values())
    counts = ((len(descriptions) - paths, "tokens"), (paths, "paths"))
    listed = " and ".join(f"{count:,} {unit}" for count, unit in counts if count)
    return f"words: {listed} ({DESCRIPTIONS_FILE[1:]})" if listed else "words: none"


def _items_had(splits: Iterable[Interactions], num_items: int) -> np.ndarray:
    """bool (items): whether an item occurs in a row, as history or target."""
    had_I = np.zeros(num_items, bool)
    for rows in splits:
        had_I[rows.targets] = True
        had_I[[item for history in rows.histories for item in history]] = True
    return had_I


def _items_line(had_I: np.ndarray, contents: Contents) -> str:
    texts = {
        field: sum(bool(getattr(item, field)) for item in contents.items)
        for field in ("description", "brand", "categories")
    }
    said = ", ".join(f"{count:,} with {field}" for field, count in texts.items())
    return f"items: {len(had_I):,}, {np.sum(~had_I):,} of them in no row; {said}"


def _split_row(split: str, found: FolderRows, train_I: np.ndarray) -> tuple[str, ...]:
    """SPLIT_COLUMNS of a split; a target is cold if train lacks it, and had before if its own history has it."""
    rows = found.splits[split]
    lengths = [len(history) for history in rows.histories] or [0]
    cold = "" if split == "train" else f"{np.sum(~train_I[rows.targets]):,}"
    counts = (len(rows), len(set(rows.users)), len(np.unique(rows.targets)))
    had = sum(target in history for target, history in zip(rows.targets.tolist(), rows.histories, strict=True))
    figures = (had, found.repeats[split], min(lengths), int(np.median(lengths)), max(lengths))
    return (split, *(f"{count:,}" for count in counts), cold, *(f"{figure:,}" for figure in figures))


def _sid_lines(sids: Mapping[str, tuple[str, ...]]) -> list[str]:
    levels = [len(set(tokens)) for tokens in zip(*sids.values(), strict=True)]
    counts = Counter(sids.values())
    sharing = sum(count for count in counts.values() if count > 1)
    return [
        f"levels: {len(levels)}, with {', '.join(f'{count:,}' for count in levels)} codes",
        f"SIDs: {len(counts):,} of {len(sids):,} items; {sharing:,} items share one, {max(counts.values()):,} at most",
    ]


def _order_lines(rows: FolderRows) -> list[str]:
    found, splits = rows.direction, rows.splits
    if found.backwards:
        histories = "newest first"
    else:
        histories = "oldest first" if found.newest > found.oldest else "unknown, since no row continues another one"
    lines = [
        f"histories: {histories} ({found.newest:,} of {found.rows:,} rows of users with several continue another one "
        f"at the end, {found.oldest:,} at the beginning)"
    ]
    if "train" in splits:
        reason = out_of_time(splits["train"])
        why = f"not in the order of time ({reason}): recent popularity is plain popularity"
        lines.append(f"rows of train: {why if reason else 'nothing speaks against the order of time'}")
    return lines


def _tie_lines(folder: pathlib.Path) -> list[str]:
    """How many interactions with the same user and second `prepare` counted; empty if it reports none."""
    try:
        tied = tied_targets(folder)
        if tied is None:
            return []
        shares = [f"{share:.1%} of {split}" for split, share in tied.items() if split != "order"]
    except (OSError, KeyError, TypeError, ValueError):  # a file of that name, but not written by `prepare`
        return []
    return [f"ties ({SUMMARY}): {', '.join(shares)} have a target that shares its second with another item"]
