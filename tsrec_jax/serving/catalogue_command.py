"""The verb `catalogue`: an export's items and their changes, without a server or alongside one."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import getpass
import json
import os
import pathlib
import re
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO

from tsrec_jax.data.catalogue import SHOWN_FACTS, is_address
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.errors import UserError
from tsrec_jax.files import replacing
from tsrec_jax.serving.catalogue_changes import Change, Changes, changes_file, now
from tsrec_jax.serving.catalogue_items import MAX_ID, MAX_TITLE, LiveItem, is_new_id, is_plain, without_sid
from tsrec_jax.serving.catalogue_search import holds_all
from tsrec_jax.serving.export_files import read_catalogue
from tsrec_jax.serving.live_catalogue import LiveCatalogue

_COLUMNS = ("id", "title", "sid", "blocked", *SHOWN_FACTS)
_BLOCKED = {"": None, "0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}
_TOKEN = re.compile(r"<[^<>\s]+>")
_PAGE = 10_000  # rows of the journal that are read together


@dataclasses.dataclass(frozen=True)
class Command:
    """What the command line says in addition to the action.

    Attributes:
      folder: the export.
      file: the file of the changes; None: the one beside the export.
      words: what follows the action: ids, words to look for, or a file.
      title, sid: those of an item to add; empty: not given.
      who: the name for the journal; empty: this user of this machine.
      after: the change after which the journal is shown.
    """

    folder: pathlib.Path
    file: pathlib.Path | None
    words: Sequence[str]
    title: str = ""
    sid: str = ""
    who: str = ""
    after: int = 0

    @functools.cached_property
    def changes(self) -> Changes:
        """The journal."""
        return Changes(self.file or changes_file(self.folder))

    @property
    def by(self) -> str:
        """Who makes the changes."""
        return self.who or f"{getpass.getuser()}@{socket.gethostname()}"

    @property
    def ids(self) -> Sequence[str]:
        """The ids given.

        Raises:
          UserError: there are none.
        """
        if not self.words:
            raise UserError("name at least one item id, as in `tsrec catalogue block ID ID --workdir=DIR`")
        return self.words

    def catalogue(self) -> LiveCatalogue:
        """The items as they are now."""
        exported = read_catalogue(self.folder)
        return LiveCatalogue(exported, Trie.of_catalogue(exported, 0), self.changes)


def run(action: str, command: Command) -> int:
    """Does one action of the verb and returns the exit code.

    Raises:
      UserError: no such action, no export, or something that the action refuses; then nothing is changed.
    """
    if action not in ACTIONS:
        raise UserError(f"catalogue: {action!r} is none of its actions, which are {', '.join(ACTIONS)}")
    if not command.folder.is_dir():
        raise UserError(f"{command.folder}: not there; run the verb `export` (or `run`) first, or give --export=FOLDER")
    with contextlib.closing(command.changes):
        if action in _OF_THE_FILE and command.changes.absent:
            print(f"nothing was changed yet: {command.changes.path} is not there")
            return 0
        return ACTIONS[action](command) or 0


def _list(command: Command) -> None:
    """Items as CSV that `import` reads: all of them, or those that contain every word."""
    catalogue = command.catalogue()
    text = " ".join(command.words)
    writer = csv.DictWriter(sys.stdout, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for item in catalogue.items():
        if holds_all(text, item):
            writer.writerow({**vars(item), "sid": "".join(item.sid), "blocked": int(item.blocked)})


def _add(command: Command) -> None:
    if len(command.words) != 1 or not command.title or not command.sid:
        raise UserError(
            "add takes one id, --title=TEXT and --sid=TOKENS, as in --sid='<a_1><b_2><c_3>'; `tsrec code` makes SIDs "
            "for a file of items, which `import` adds"
        )
    catalogue = command.catalogue()
    row = {"id": command.words[0], "title": command.title, "sid": command.sid}
    catalogue.check([_item(catalogue, row)])  # before there is a journal
    before = catalogue.num_items
    catalogue.put_chosen(lambda: [_item(catalogue, row)], who=command.by)
    print(f"{'added' if catalogue.num_items > before else 'replaced'} {row['id']}; {catalogue.num_items} items")


def _import(command: Command) -> None:
    if len(command.words) != 1:
        raise UserError("import takes one CSV file with the columns id, title, sid, blocked, or some of them")
    catalogue = command.catalogue()
    with _rows(pathlib.Path(command.words[0])) as reader:
        rows = [(reader.line_num, row) for row in reader]
    new: list[bool] = []

    def changed() -> list[LiveItem]:
        """Starts from the items as they are at the time of writing, so changes made while the file was read stay."""
        items = [item for item in _items(catalogue, rows, command.words[0]) if item != catalogue.get(item.id)]
        new[:] = [catalogue.get(item.id) is None for item in items]
        return items

    items = changed()
    catalogue.check(items)  # before there is a journal
    if items:
        items = catalogue.put_chosen(changed, who=command.by)
    print(f"{sum(new)} added, {len(new) - sum(new)} changed, {len(rows) - len(new)} as they were")
    added = [item for item, is_new in zip(items, new, strict=True) if is_new]
    if shared := sum(len(catalogue.sids.ids(catalogue.sids.codes(item.sid))) > 1 for item in added):
        print(f"{shared} of those added share their SID with another item; `tsrec code` makes SIDs of their own")


def _block(command: Command) -> None:
    command.catalogue().block(command.ids, who=command.by)
    print(f"blocked {len(command.ids)}")


def _unblock(command: Command) -> None:
    command.catalogue().block(command.ids, blocked=False, who=command.by)
    print(f"unblocked {len(command.ids)}")


def _remove(command: Command) -> None:
    command.catalogue().remove_all(command.ids, who=command.by)
    print(f"removed {len(command.ids)}")


def _restore(command: Command) -> None:
    command.catalogue().restore(command.ids, who=command.by)
    print(f"as exported again: {len(command.ids)}")


def _journal(command: Command) -> None:
    changes, seen = command.changes, command.after
    while page := changes.after(seen, _PAGE):
        for change in page:
            print(_line(change), end="")
        seen = page[-1].number


def _verify(command: Command) -> int:
    changes = command.changes
    faults = changes.faults()
    for fault in faults:
        print(f"{changes.path}: {fault}")
    if faults:
        return 2
    catalogue = command.catalogue()
    items = list(catalogue.items())
    exported = {item.id for item in read_catalogue(command.folder).items}
    there = {item.id for item in items}
    added, gone, blocked = len(there - exported), len(exported - there), sum(item.blocked for item in items)
    print(f"{len(items)} items: {len(exported)} exported, {added} added, {gone} removed; {blocked} are blocked")
    print(f"last change: {catalogue.last_change}")
    return 0


def _compact(command: Command) -> None:
    if len(command.words) != 1:
        raise UserError("compact takes one new file, which receives the dropped changes as JSON lines")
    file = pathlib.Path(command.words[0])
    if file.exists():
        raise UserError(f"{file}: exists already; give another name")

    def keep(dropped: Sequence[Change]) -> None:
        if dropped:
            with replacing(file) as temporary, temporary.open("w", encoding="utf-8") as lines:
                lines.writelines(map(_line, dropped))
                lines.flush()
                os.fsync(lines.fileno())
            folder = os.open(file.parent, os.O_RDONLY)
            os.fsync(folder)  # the name too is on the disk before the changes leave the journal
            os.close(folder)

    dropped = command.changes.compact(keep)
    if dropped:
        print(f"{dropped} changes that later ones of the same item had overtaken are in {file} now")
    else:
        print(f"no change was overtaken by a later one of the same item, so {file} is not made")


def _adopt(command: Command) -> None:
    """Removes the SIDs of a former export from the changes and ties them to this one; the rest of them stays."""
    exported = read_catalogue(command.folder)
    ids = {item.id for item in exported.items}
    changes = command.changes
    with changes.writing():
        last = {change.id: change.state for change in changes.after(0)}
        coded = {item_id: state for item_id, state in last.items() if state is not None and "sid" in state}
        states = [(item_id, without_sid(state) if item_id in ids else None) for item_id, state in coded.items()]
        at = now()
        changes.append([Change(0, at, command.by, "adopt", item_id, state) for item_id, state in states])
        changes.set_exported({})
    kept = sum(state is not None for _, state in states)
    print(f"{len(states) - kept} items taken out that had SIDs of another export, {kept} now with the SIDs of this one")


_OF_THE_FILE = ("verify", "compact", "adopt")  # these need the journal, and do not create one
ACTIONS: dict[str, Callable[[Command], int | None]] = {
    "list": _list,
    "add": _add,
    "block": _block,
    "unblock": _unblock,
    "remove": _remove,
    "restore": _restore,
    "import": _import,
    "journal": _journal,
    "verify": _verify,
    "compact": _compact,
    "adopt": _adopt,
}


def _line(change: Change) -> str:
    return json.dumps(dataclasses.asdict(change), ensure_ascii=False) + "\n"


@contextlib.contextmanager
def _rows(path: pathlib.Path) -> Iterator[csv.DictReader[str]]:
    """The rows of a CSV file.

    Raises:
      UserError: it cannot be read, or its columns are not those of an item.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield _reader(path, file)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start})") from None
    except csv.Error as error:
        raise UserError(f"{path}: not CSV ({error})") from None


def _reader(path: pathlib.Path, file: IO[str]) -> csv.DictReader[str]:
    reader = csv.DictReader(file, strict=True)
    columns = reader.fieldnames or []
    if "id" not in columns or len(columns) < 2 or set(columns) - set(_COLUMNS):
        raise UserError(f"{path}: its first line must name columns, id and some of {', '.join(_COLUMNS[1:])}")
    return reader


def _items(catalogue: LiveCatalogue, rows: Iterable[tuple[int, dict[str, str]]], path: str) -> Iterator[LiveItem]:
    """The items of rows, which come with their line numbers."""
    lines: dict[str, int] = {}
    for number, row in rows:
        place = f"{path}, line {number}"
        if None in row or None in row.values():
            raise UserError(f"{place}: not as many cells as columns")
        first = lines.setdefault(row["id"], number)
        if first != number:
            raise UserError(f"{place}: item {row['id']!r} stands in line {first} already")
        try:
            yield _item(catalogue, row)
        except UserError as error:
            raise UserError(f"{place}: {error}") from None


def _item(catalogue: LiveCatalogue, row: Mapping[str, str]) -> LiveItem:
    """The item of a row; an empty or absent cell keeps what the item has.

    Raises:
      UserError: an impossible value in a cell, or a new item without a title or SID.
    """
    item_id = row["id"]
    item = catalogue.get(item_id)
    if item is None:
        if not is_new_id(item_id):
            raise UserError(f"id {item_id[:MAX_ID]!r}: 1 to {MAX_ID} characters, none of them a control character")
        if not row.get("title") or not row.get("sid"):
            raise UserError(f"item {item_id!r} is new, so it needs a title and a sid (which `tsrec code` makes)")
        item = LiveItem(item_id, "", ())
    # What the item already has is not checked: an export may hold longer texts, and more kinds of characters.
    names = ("title", *SHOWN_FACTS)
    given = {name: row[name] for name in names if row.get(name) and row[name] != getattr(item, name)}
    for name, text in given.items():
        if len(text) > MAX_TITLE or not is_plain(text):
            raise UserError(f"item {item_id!r}: {name} must be one line of at most {MAX_TITLE} characters")
    if "image" in given and not is_address(given["image"]):
        raise UserError(f"item {item_id!r}: image must be an address that begins with https:// or http://")
    blocked = row.get("blocked", "").strip().lower()
    if blocked not in _BLOCKED:
        raise UserError(f"item {item_id!r}: blocked={blocked!r} must be 1 or 0")
    sid = row.get("sid", "")
    tokens = tuple(_TOKEN.findall(sid))
    if "".join(tokens) != sid:
        raise UserError(f"item {item_id!r}: sid={sid!r} must be tokens such as <a_1><b_2><c_3>")
    wanted = _BLOCKED[blocked]
    return dataclasses.replace(
        item, sid=tokens or item.sid, blocked=item.blocked if wanted is None else wanted, **given
    )
