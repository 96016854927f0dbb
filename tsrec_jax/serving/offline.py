"""Recommendations for a file of histories: read as a stream, written part by part, resumed where it stopped."""

from __future__ import annotations

import ast
import contextlib
import csv
import dataclasses
import io
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from tsrec_jax.errors import UserError
from tsrec_jax.files import read_facts, replacing, write_json
from tsrec_jax.serving.answers import Answer, Request
from tsrec_jax.serving.catalogue_changes import Changes

if TYPE_CHECKING:
    from tsrec_jax.serving.recommender import Recommender

FORMATS = (".jsonl", ".csv", ".parquet")
_MADE_WITH = "made_with.json"
_PATIENCE = 0.2  # seconds after which a lock counts as held
PART = 1024  # histories that are answered and written together
_COLUMNS = {"id": str, "rank": int, "item": str, "title": str, "score": float, "sid": str, "exact": bool}


@dataclasses.dataclass(frozen=True)
class Row:
    """A history of the file: its place from 1, its name (or else the place), and item ids, oldest first."""

    number: int
    name: str
    history: tuple[str, ...]


def recommend_file(
    recommender: Recommender,
    histories: pathlib.Path,
    out: pathlib.Path,
    *,
    k: int,
    skip_unknown: bool,
    report: Callable[[str], None],
    part: int = PART,
) -> None:
    """Writes the k best items for every history of a file.

    Finished parts lie in a folder beside `out` until all are there; then `out` appears complete and the folder is
    removed. The same call resumes; one that stops before its first part is finished leaves nothing behind.

    Args:
      recommender: the loaded recommender, with the changes that `changes_for` gives.
      histories: .jsonl with objects of `history` and, if wanted, `id`; .csv or .parquet with these columns.
      out: .jsonl with one object per history; .csv or .parquet with one row per recommended item.
      k: items per history.
      skip_unknown: leave unknown items out of the histories, and list them in .jsonl; a history of unknown items only
        gets no items.
      report: called with the progress.
      part: histories per part, the most that a stop can lose.

    Raises:
      UserError: a file of another kind, a wrong row (it is named), an unknown item, `out` already exists, or there are
        parts that were made with something else.
    """
    for path in (histories, out):
        if path.suffix not in FORMATS:
            raise UserError(f"{path}: must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    _refuse_result(out)
    try:
        found = histories.stat()
    except OSError as error:
        raise UserError(f"{histories}: {error.strerror}") from None
    folder = _parts_of(out)
    made_with = {
        "histories": str(histories),
        "bytes": found.st_size,
        "changed": found.st_mtime_ns,
        "model": recommender.version,
        "catalogue": recommender.catalogue.last_change,
        "journal": recommender.catalogue.changes.count,  # fewer once the journal was compacted
        "beams": recommender.beams,
        "k": k,
        "unknown": "skip" if skip_unknown else "refuse",
        "part": part,
    }
    with _alone_in(folder, out):
        _begin(folder, made_with)
        _make(recommender, histories, out, folder, k=k, skip_unknown=skip_unknown, report=report, part=part)
        shutil.rmtree(folder)


def changes_for(out: pathlib.Path, path: str | os.PathLike[str]) -> Changes:
    """The changes of a catalogue as they were when a file was begun, or as they are now if it was not.

    Args:
      out: the file, as in `recommend_file`.
      path: the file of the changes.
    """
    begun = _made_with(_parts_of(out))
    if begun is not None:
        return Changes(path, until=begun.get("catalogue"))
    with contextlib.closing(Changes(path)) as changes:
        return Changes(path, until=changes.last_number)


def _parts_of(out: pathlib.Path) -> pathlib.Path:
    return out.with_name(f"{out.name}.parts")


def _made_with(folder: pathlib.Path) -> dict[str, Any] | None:
    """What the finished parts of a folder were made with; None if no part is finished."""
    if not _has_parts(folder):
        return None
    return read_facts(folder / _MADE_WITH, f"delete {folder}, and all its parts are made again")


def _has_parts(folder: pathlib.Path) -> bool:
    """Whether a part is finished, and what it was made with is recorded."""
    return (folder / _MADE_WITH).exists() and any(path.suffix in FORMATS for path in folder.iterdir())


def _make(
    recommender: Recommender,
    histories: pathlib.Path,
    out: pathlib.Path,
    folder: pathlib.Path,
    *,
    k: int,
    skip_unknown: bool,
    report: Callable[[str], None],
    part: int,
) -> None:
    """Makes the missing parts, then joins all parts into the file."""
    rows, done = _rows(histories), 0
    parts = []
    for number in itertools.count():
        path = folder / f"{number:06d}{out.suffix}"
        batch = list(itertools.islice(rows, part))
        if not batch:
            break
        if not path.exists():
            answers = _answers(recommender, histories, batch, k, skip_unknown)
            with replacing(path) as temporary:
                _write_part(temporary, out.suffix, batch, answers)
        parts.append(path)
        done += len(batch)
        report(f"{done:,} histories")
    if not parts:
        raise UserError(f"{histories}: holds no history")
    with replacing(out) as temporary:
        _join(parts, out.suffix, temporary)


@contextlib.contextmanager
def _alone_in(folder: pathlib.Path, out: pathlib.Path) -> Iterator[None]:
    """Creates the folder of the parts, and keeps other processes out of it; without a finished part it is removed.

    Raises:
      UserError: another process is making `out`, or has just made it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock", fallback_to_soft=False)
    try:
        lock.acquire(_PATIENCE)
    except (Timeout, FileNotFoundError):  # the process that held it may have just removed the folder
        raise UserError(f"{out}: another process is making it; wait for that one, or give another --out") from None
    try:
        _refuse_result(out)
        yield
    finally:
        if not _has_parts(folder):
            shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _refuse_result(out: pathlib.Path) -> None:
    if out.exists():
        raise UserError(f"{out}: exists already; give another name, or remove it")


def _begin(folder: pathlib.Path, made_with: dict[str, Any]) -> None:
    """Notes what the parts are made with; if some are finished, they must be of the same call."""
    before = _made_with(folder)
    if before is None:
        write_json(folder / _MADE_WITH, made_with)
        return
    changed = [name for name in made_with if before.get(name) != made_with[name]]
    if changed:
        raise UserError(f"{folder}: parts of a run with another {', '.join(changed)}; remove it to begin anew")


def _answers(
    recommender: Recommender, path: pathlib.Path, rows: Sequence[Row], k: int, skip_unknown: bool
) -> list[Answer]:
    requests: list[Request | None] = []
    for row in rows:
        request = Request(row.history, k, skip_unknown=skip_unknown)
        lost = skip_unknown and row.history and not any(map(recommender.catalogue.get, row.history))
        if not lost:
            try:
                recommender.check(request)
            except UserError as error:
                raise UserError(f"{path}, row {row.number}: {error}") from None
        requests.append(None if lost else request)
    found = iter(recommender.answer([request for request in requests if request is not None]))
    return [
        Answer((), True, 0, row.history) if request is None else next(found)
        for row, request in zip(rows, requests, strict=True)
    ]


def _rows(path: pathlib.Path) -> Iterator[Row]:
    read = {".jsonl": _of_jsonl, ".csv": _of_csv, ".parquet": _of_parquet}[path.suffix]
    for number, found in enumerate(read(path), 1):
        history = found.get("history")
        if not isinstance(history, list) or not all(isinstance(item, str) for item in history):
            raise UserError(f"{path}, row {number}: `history` must be a list of item ids, each a text")
        name = found.get("id")
        yield Row(number, str(number if name is None else name), tuple(history))


def _of_jsonl(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate((line for line in lines if line.strip()), 1):
            try:
                found = json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}, row {number}: not JSON ({error})") from None
            if not isinstance(found, dict):
                raise UserError(f"{path}, row {number}: must be an object with `history`")
            yield found


def _of_csv(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        if "history" not in (reader.fieldnames or ()):
            raise UserError(f"{path}: has no column `history`")
        for number, found in enumerate(reader, 1):
            try:
                history = ast.literal_eval(found["history"] or "")  # a list of texts in JSON is also Python
            except (ValueError, SyntaxError):
                text = str(found["history"])
                raise UserError(f'{path}, row {number}: `history` is {text[:80]!r}, no list as ["a", "b"]') from None
            yield {"id": found.get("id"), "history": history}


def _of_parquet(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    import polars as pl

    try:
        table = pl.scan_parquet(path)
        names = table.collect_schema().names()
        if "history" not in names:
            raise UserError(f"{path}: has no column `history`")
        table = table.select([name for name in ("id", "history") if name in names])
        for start in itertools.count(0, PART):
            found = table.slice(start, PART).collect().to_dicts()
            if not found:
                return
            yield from found
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{path}: cannot be read as Parquet: {error}") from None


def _write_part(path: pathlib.Path, kind: str, rows: Sequence[Row], answers: Sequence[Answer]) -> None:
    if kind == ".jsonl":
        lines = [_line(row, answer) for row, answer in zip(rows, answers, strict=True)]
        path.write_text("".join(lines), encoding="utf-8")
        return
    table = [
        (row.name, rank, item.item_id, item.title, item.score, item.sid, answer.exact)
        for row, answer in zip(rows, answers, strict=True)
        for rank, item in enumerate(answer.items, 1)
    ]
    if kind == ".csv":
        written = io.StringIO(newline="")
        csv.writer(written).writerows(table)
        path.write_text(written.getvalue(), encoding="utf-8", newline="")
        return
    import polars as pl

    pl.DataFrame(table, schema=_COLUMNS, orient="row").write_parquet(path)


def _line(row: Row, answer: Answer) -> str:
    items = [{"id": item.item_id, "title": item.title, "score": item.score, "sid": item.sid} for item in answer.items]
    facts = {"id": row.name, "items": items, "exact": answer.exact, "used": answer.used, "skipped": answer.skipped}
    return json.dumps(facts, ensure_ascii=False) + "\n"


def _join(parts: Sequence[pathlib.Path], kind: str, out: pathlib.Path) -> None:
    if kind == ".parquet":
        import polars as pl

        pl.scan_parquet(list(parts)).sink_parquet(out)
        return
    with out.open("wb") as whole:
        if kind == ".csv":
            whole.write(",".join(_COLUMNS).encode() + b"\r\n")
        for part in parts:
            with part.open("rb") as content:
                shutil.copyfileobj(content, whole)
