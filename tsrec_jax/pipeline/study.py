"""The verb `study`: one or more processes make each cell (arm x seed) once; one report covers the finished cells."""

from __future__ import annotations

import contextlib
import pathlib
import sys
import traceback
from collections.abc import Iterator, Sequence

from tsrec_jax.errors import Stopped, UserError, no_space, not_allowed
from tsrec_jax.evaluation.study_cells import CELL_FILE, Cell, DamagedCells, read_cells, systems_of, write_cells
from tsrec_jax.evaluation.study_report import build_report, to_json
from tsrec_jax.evaluation.study_tables import to_csv, to_latex, to_markdown
from tsrec_jax.files import new_folder, write_json, write_text
from tsrec_jax.pipeline.lock import InUse, alone_in, alone_when_free
from tsrec_jax.pipeline.provenance import command
from tsrec_jax.pipeline.study_cell import (
    CELLS,
    WantedCell,
    begin,
    borrow_training,
    cell_folder,
    close,
    every_cell,
    finished_cell,
    sound_cell,
    wanted_cells,
)
from tsrec_jax.pipeline.study_measure import run_arm, run_one_baseline, with_inputs
from tsrec_jax.progress import report
from tsrec_jax.settings import Settings

CELLS_FILE = "cells.npz"  # all cells, including those of arms no longer in the study
_OLD_CELLS = "cells/*/*/cell.json"


def study(settings: Settings, workdir: pathlib.Path, names: Sequence[str] = (), seeds: Sequence[str] = ()) -> int:
    """Works on the study's unfinished cells that no other process holds, and writes the report.

    Args:
      settings: the section `study` names arms, seeds, baselines and comparisons.
      workdir: receives `cells/`, `upstream/`, `cells.npz`, `study.md`, `study.csv`, `study.tex`, `study.json` and
        `plots/`. If it holds only `cells.npz`, the study continues from that.
      names, seeds: work only on these arms and baselines, with these seeds; empty: all. The report covers everything
        that is finished.

    Returns:
      The exit code: 1 if a cell failed or is damaged; the other cells are still made and reported.

    Raises:
      UserError: there are no arms, the study does not have a given name or seed, or the workdir has an older layout.
      Stopped: a signal ended a training; the same command continues it.
    """
    if not settings.study.arms:
        raise UserError("config.study.arms is empty: a study needs arms, as in configs/studies/smoke.py")
    cells = wanted_cells(settings, workdir)
    _bring_cells(workdir)
    held: list[WantedCell] = []
    failed: list[WantedCell] = []
    trouble, reported = _Trouble(workdir), False
    for wanted in _chosen(cells, names, seeds):
        made, reported = None, False
        try:
            with trouble.told(wanted.label):
                made = _work_on(wanted, cells, workdir)
        except InUse as refusal:
            report(f"study: {wanted.label}: skipped, since {refusal}")
            held.append(wanted)
            continue
        if made is None:
            failed.append(wanted)
        elif made:
            _report_or_tell(settings, workdir, cells, trouble)
            reported = True
    if not reported:
        _report_or_tell(settings, workdir, cells, trouble)
    missing = [wanted for wanted in cells if sound_cell(wanted) is None]
    held = [wanted for wanted in held if wanted in missing]  # the rest have since been finished
    for words, listed in (("held by another process", held), ("failed", failed), ("not finished", missing)):
        if listed:
            report(f"study: {words}: {_listed([(wanted.name, wanted.seed) for wanted in listed])}")
    report(f"study: {len(cells) - len(missing)} of {len(cells)} cells are finished; see {workdir / 'study.md'}")
    return 1 if trouble.lines else 0


class _Trouble:
    """What goes wrong with a cell or the report: it is printed, and the study goes on.

    Attributes:
      lines: what was printed.
    """

    def __init__(self, workdir: pathlib.Path) -> None:
        self.lines: list[str] = []
        self._workdir = workdir

    @contextlib.contextmanager
    def told(self, what: str) -> Iterator[None]:
        """Prints the error that ends the block, if any; a signal to stop and a folder in use are none."""
        try:
            yield
        except (Stopped, InUse):
            raise
        except DamagedCells as error:
            self.tell_damaged(error)
        except UserError as error:
            self._tell(f"{what}: {error}")
        except Exception as error:
            mistake = no_space(error, self._workdir) or not_allowed(error)
            if mistake is None:
                traceback.print_exc()
            self._tell(f"{what}: {mistake or 'failed, see above'}")

    def tell_damaged(self, error: DamagedCells) -> None:
        """Prints which file is damaged, once: every report meets it again."""
        if str(error) not in self.lines:
            self._tell(str(error))

    def _tell(self, line: str) -> None:
        print(f"tsrec: {line}", file=sys.stderr, flush=True)
        self.lines.append(line)


def _report_or_tell(settings: Settings, workdir: pathlib.Path, cells: Sequence[WantedCell], trouble: _Trouble) -> None:
    with trouble.told("the report"):
        for error in _write_report(settings, workdir, cells):
            trouble.tell_damaged(error)


def _bring_cells(workdir: pathlib.Path) -> None:
    """Unpacks the cells of a study from CELLS_FILE, all or none, if the workdir holds no folder of cells."""
    if old := next(workdir.glob(_OLD_CELLS), None):
        raise UserError(
            f"{workdir}: its cells, as {old.relative_to(workdir)}, have a layout that is no longer read; "
            "give another --workdir"
        )
    with alone_when_free(workdir / "report.lock", "report"):
        if (workdir / CELLS_FILE).exists() and not (workdir / CELLS).exists():
            with new_folder(workdir / CELLS) as unpacked:
                for cell in _packed_cells(workdir):
                    place = cell_folder(workdir, cell.name, cell.seed).relative_to(workdir / CELLS)
                    write_cells(unpacked / place / CELL_FILE, [cell])


def _packed_cells(workdir: pathlib.Path) -> list[Cell]:
    """The cells in CELLS_FILE; none if it is not there."""
    file = workdir / CELLS_FILE
    way_out = f"put a whole copy there, or delete it: only the cells in {CELLS}/ then count, and the rest are run again"
    return read_cells(file, way_out) if file.exists() else []


def _pack_cells(workdir: pathlib.Path, every: Sequence[Cell]) -> list[Cell]:
    """Rewrites CELLS_FILE from the cells in the folders and returns those that it alone holds, which stay in it.

    A cell leaves the file once another is made in its folder, not because the folder is gone or its own file damaged.
    """
    folders = {cell_folder(workdir, cell.name, cell.seed) for cell in every}
    alone = [cell for cell in _packed_cells(workdir) if cell_folder(workdir, cell.name, cell.seed) not in folders]
    write_cells(workdir / CELLS_FILE, sorted([*every, *alone], key=lambda cell: (cell.name, cell.seed)))
    return alone


def _chosen(cells: Sequence[WantedCell], names: Sequence[str], seeds: Sequence[str]) -> list[WantedCell]:
    """The cells requested on the command line; a system that does not depend on the seed matches every seed."""
    for flag, given, known in (
        ("arms", names, dict.fromkeys(wanted.name for wanted in cells)),
        ("seeds", seeds, dict.fromkeys(str(wanted.seed) for wanted in cells)),
    ):
        unknown = [each for each in given if each not in known]
        if unknown:
            raise UserError(f"--{flag}: {unknown[0]!r} is not in the study, which has {', '.join(known)}")
    return [
        wanted
        for wanted in cells
        if (not names or wanted.name in names) and (not seeds or str(wanted.seed) in seeds or not wanted.seeded)
    ]


def _work_on(wanted: WantedCell, cells: Sequence[WantedCell], workdir: pathlib.Path) -> bool:
    """Makes a cell; returns False if it is already finished.

    Raises:
      InUse: another process is making it.
    """
    if finished_cell(wanted)[0] is not None:
        report(f"study: {wanted.label}: finished before, skipped")
        return False
    with alone_in(wanted.folder, "study"):
        if finished_cell(wanted)[0] is not None:  # by another process, in the meantime
            return False
        report(f"study: {wanted.label}: begins")
        begin(wanted)
        borrow_training(wanted, cells)
        settings = with_inputs(wanted, workdir)
        make = run_arm if wanted.kind == "arm" else run_one_baseline
        write_cells(wanted.file, [make(wanted, settings)])
        close(wanted, cells)
    return True


def _write_report(settings: Settings, workdir: pathlib.Path, wanted: Sequence[WantedCell]) -> list[DamagedCells]:
    """Writes the report on all finished cells, if there are any, and gives the faults of the files that are damaged."""
    with alone_when_free(workdir / "report.lock", "report"):
        every, damaged = every_cell(workdir)
        found = [(each, sound_cell(each)) for each in wanted]
        cells = [cell for _, cell in found if cell is not None]
        if not cells:
            return damaged
        missing = [each for each, cell in found if cell is None]
        notes = [f"Not finished: {_listed([(each.name, each.seed) for each in missing])}."] if missing else []
        try:
            alone = _pack_cells(workdir, every)
        except DamagedCells as fault:  # it may hold what is nowhere else
            alone = []
            damaged.append(fault)
        shown = {(cell.name, cell.seed) for cell in cells}
        if others := [(cell.name, cell.seed) for cell in every if (cell.name, cell.seed) not in shown]:
            notes.append(f"In {CELLS_FILE}, but of other arms or settings than this study's: {_listed(others)}.")
        if alone:
            listed = _listed([(cell.name, cell.seed) for cell in alone])
            notes.append(f"In {CELLS_FILE} alone, with no sound cell in {CELLS}/: {listed}.")
        order = [*settings.study.arms, *settings.study.baselines]
        built = build_report(
            f"Study on {settings.dataset.name or _name(cells)}",
            systems_of(cells, order),
            settings.study.pairs("comparisons"),
            settings.study.curves,
            notes,
            _facts(cells),
            explored=settings.study.pairs("explored"),
        )
        write_json(workdir / "study.json", to_json(built))
        for suffix, text in (("md", to_markdown(built)), ("csv", to_csv(built)), ("tex", to_latex(built))):
            write_text(workdir / f"study.{suffix}", text)
        from tsrec_jax.evaluation.study_plots import plot_study  # imports matplotlib

        plot_study(built, workdir / "plots")
        return damaged


def _listed(cells: Sequence[tuple[str, int]]) -> str:
    """Cells in words: names and seeds, grouped by system."""
    seeds: dict[str, list[str]] = {}
    for system, seed in cells:
        seeds.setdefault(system, []).append(str(seed))
    return "; ".join(f"{name}, seed{'s' * (len(found) > 1)} {', '.join(found)}" for name, found in seeds.items())


def _name(cells: Sequence[Cell]) -> str:
    """The name of the data, taken from its folder."""
    path = cells[0].config["dataset"]["path"]
    return pathlib.Path(path).name if path else cells[0].config["prepare"]["name"] or "the embedded shop"


def _facts(cells: Sequence[Cell]) -> dict[str, object]:
    """How the cells were made; where they differ, all values are listed."""
    listed = {
        "report by": [command()],
        "cells by": [cell.facts["command"] for cell in cells],
        "commits": [cell.facts["commit"] for cell in cells],
        "machines": [cell.facts["machine"] for cell in cells],
        "data hashes": [cell.facts["data_hash"] for cell in cells],
        "versions": [", ".join(f"{k} {v}" for k, v in cell.facts["versions"].items()) for cell in cells],
    }
    return {key: list(dict.fromkeys(values)) for key, values in listed.items()}
