"""Which cells a study requests, whether each is finished, and which of them share a training."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from tsrec_jax.baselines.names import BASELINES
from tsrec_jax.data.dataset import DESCRIPTIONS_FILE
from tsrec_jax.data.faults import Faults
from tsrec_jax.data.folder_files import find_name, hash_of, read_files
from tsrec_jax.data.folder_rows import SPLITS
from tsrec_jax.errors import UserError
from tsrec_jax.evaluation.study_cells import CELL_FILE, Cell, DamagedCells, read_cells
from tsrec_jax.files import read_facts, write_json
from tsrec_jax.fusion.fusion import versions
from tsrec_jax.pipeline import describe, index, prepare
from tsrec_jax.pipeline.job import ONLY_LOGISTICS
from tsrec_jax.pipeline.provenance import fingerprint, input_facts
from tsrec_jax.pipeline.settings import cells_folder
from tsrec_jax.pipeline.workdir import FINISHED
from tsrec_jax.progress import report
from tsrec_jax.section import Section
from tsrec_jax.settings import Settings, flat
from tsrec_jax.training.checkpoints import differences

CELLS = "cells"  # in a study's workdir: the folders of its cells
BEGUN = "begun.json"  # in an unfinished cell: what was requested
# Settings that do not change what a cell holds, or that the digest of its data already covers.
_ANY_VALUE = {
    *ONLY_LOGISTICS,
    *(f"index.{key}" for key in index.LOGISTICS if key != "sids"),
    *(f"describe.{key}" for key in describe.LOGISTICS if key != "words"),
    *(
        "index.embeddings",
        "index.extend",
        "describe.path",
        "dense.embeddings",
        "dataset.path",
        "dataset.overlaps",
        "prepare.raw",
        "prepare.base_url",
        "prepare.interactions_file",
        "prepare.items_file",
    ),
    *(f"prepare.{key}" for key in prepare.LIMITS),
    *("eval.batch_size", "eval.bootstrap"),
}
_ANY_SECTION = ("study", "run", "export", "mesh")
_SHAPES_UPSTREAM = ("seed", "dataset", "prepare", "shop", "pretrain", "index", "describe", "model.path", "model.dtype")
_SHAPES_BASELINES = (*_SHAPES_UPSTREAM, "train.held_out", "eval.split", "eval.beams", "eval.max_rows")
_SHAPES_TABLES = (*_SHAPES_BASELINES, "fusion", "data")  # an arm without a model


@dataclasses.dataclass(frozen=True)
class WantedCell:
    """A cell that a study requests.

    Attributes:
      name, seed, kind, seeded: as in `Cell`.
      settings: the arm's settings; their `seed` is used for the work before training.
      data: digest of the source data.
      folder: where the cell is made.
    """

    name: str
    seed: int
    kind: str
    seeded: bool
    settings: Settings
    data: str
    folder: pathlib.Path

    @property
    def file(self) -> pathlib.Path:
        """The file that holds the finished cell."""
        return self.folder / CELL_FILE

    @property
    def label(self) -> str:
        """The cell's name in messages."""
        return f"{self.name}, seed {self.seed}"


def wanted_cells(settings: Settings, workdir: pathlib.Path) -> list[WantedCell]:
    """All cells of a study, in the order in which they are worked on: baselines first, then all arms seed by seed.

    Raises:
      UserError: a baseline is unknown, an arm continues from a run or is evaluated on the rows that training selects
        by, or a data folder or file is missing.
    """
    unknown = [name for name in settings.study.baselines if name not in BASELINES]
    if unknown:
        raise UserError(f"config.study.baselines: {unknown[0]!r} is not one of {', '.join(BASELINES)}")
    seeds = settings.study.seeds
    systems = [
        *((name, "baseline", BASELINES[name].seeded, settings) for name in settings.study.baselines),
        *((name, "arm", True, settings.arm(name)) for name in settings.study.arms),
    ]
    for name, kind, _, own in systems:
        if own.train.from_run:
            raise UserError(
                f"config.train.from_run={own.train.from_run!r} is for the verb `run`; in a study an arm names the "
                f"export as config.model.path, and config.index.extend where SIDs are made (in {name!r})"
            )
        if kind == "arm" and own.eval.split == "valid" and not own.train.held_out:
            raise UserError(
                "config.eval.split='valid' is what training selects by; set config.train.held_out, say to 0.1 "
                f"(in the arm {name!r})"
            )
    found: list[WantedCell] = []
    digests: dict[tuple[Any, ...], str] = {}
    for name, kind, seeded, own in systems:
        source = own.dataset, own.prepare, own.index, own.describe, own.dense
        data = digests[source] = digests.get(source) or _data_digest(own)
        for seed in seeds if seeded else seeds[:1]:
            found.append(WantedCell(name, seed, kind, seeded, own, data, cell_folder(workdir, name, seed)))
    return sorted(found, key=lambda wanted: (wanted.kind != "baseline", seeds.index(wanted.seed)))


def cell_folder(workdir: pathlib.Path, name: str, seed: int) -> pathlib.Path:
    """Where a cell is made."""
    return workdir / CELLS / cells_folder(name) / f"seed-{seed}"


def every_cell(workdir: pathlib.Path) -> tuple[list[Cell], list[DamagedCells]]:
    """All cells in the workdir, by name and seed, including those that do not match what the study requests.

    A cell that lies in the folder of another, where a user has copied it, is not counted.

    Returns:
      The cells, and the faults of the files that are damaged.
    """
    cells, damaged = [], []
    for path in (workdir / CELLS).glob(f"*/seed-*/{CELL_FILE}"):
        if path.parent.suffix:  # set aside
            continue
        try:
            cells += [cell for cell in read_cells(path) if path.parent == cell_folder(workdir, cell.name, cell.seed)]
        except DamagedCells as fault:
            damaged.append(fault)
    return sorted(cells, key=lambda cell: (cell.name, cell.seed)), damaged


def _data_digest(settings: Settings) -> str:
    """A digest of the source data and of the files that settings name, known before anything is made from them."""
    upstream = _upstream_digest(settings)
    return _with_files(upstream, [(settings.dense, "embeddings")])


def _upstream_digest(settings: Settings) -> str:
    """A digest of the data and files that shape what a cell begins with."""
    index = [(settings.index, key) for key in ("given_sids", "embeddings", "extend")]
    return _with_files(_source_digest(settings), [*index, (settings.describe, "path")])


def _with_files(digest: str, named: Sequence[tuple[Section, str]]) -> str:
    """The digest extended by the contents of the files that these settings name, if any; their paths do not count."""
    found = [input_facts(section, (key,))[f"SHA-256 of {section.key}.{key}"]
             for section, key in named if getattr(section, key)]  # fmt: skip
    return fingerprint([digest, *found]) if found else digest


def _source_digest(settings: Settings) -> str:
    """A digest of texts and interactions; empty if the settings say all, as for the embedded shop."""
    if settings.dataset.path:
        folder = pathlib.Path(settings.dataset.path)
        name = find_name(folder, settings.dataset.name)
        files = [f"{name}.item.json", f"{name}.index.json", f"{name}.info.txt", f"{name}{DESCRIPTIONS_FILE}"]
        faults = Faults()
        digest = hash_of(read_files(folder, (), [*files, *(f"{split}.csv" for split in SPLITS)], faults))
        faults.stop_if_any()
        return digest
    if settings.prepare.source == "tables":
        return fingerprint(input_facts(settings.prepare, ("interactions_file", "items_file")))
    return ""


def finished_cell(wanted: WantedCell) -> tuple[Cell | None, str]:
    """The cell if it exists and is still what is requested; otherwise None and, if there is a cell, how it differs.

    Raises:
      DamagedCells: the cell's file is damaged.
    """
    if not wanted.file.exists():
        return None, ""
    (cell,) = read_cells(wanted.file)
    changed = _other_system(wanted, vars(cell)) or "; ".join(
        filter(None, (_changed(wanted, cell.config, cell.data), _other_versions(wanted, cell)))
    )
    return (None, changed) if changed else (cell, "")


def sound_cell(wanted: WantedCell) -> Cell | None:
    """The cell if it is finished; None if it is not, and also if its file is damaged."""
    try:
        return finished_cell(wanted)[0]
    except DamagedCells:
        return None


def _other_system(wanted: WantedCell, found: Mapping[str, Any]) -> str:
    """How a cell with these facts differs from the requested one in what it is called; empty if it does not.

    Another cell is here if its system had a name for the same folder, or if a user moved or copied the folder. Cells
    that earlier code began do not say what they are called.
    """
    here = {key: getattr(wanted, key) for key in ("name", "kind", "seed")}
    return differences({key: found.get(key, value) for key, value in here.items()}, here)


def _changed(wanted: WantedCell, config: Mapping[str, Any], data: str) -> str:
    """How a cell with this config and data differs from the requested one; empty if it does not."""
    here = _shaping(wanted.settings.resolved(), wanted.kind, wanted.data)
    there = _shaping(config, wanted.kind, data)
    if wanted.kind == "arm" and not wanted.settings.fusion.model and not config.get("fusion", {}).get("model", True):
        here, there = (
            {key: value for key, value in facts.items() if _within(key, _SHAPES_TABLES)} for facts in (here, there)
        )
    return differences(there, here)


def _other_versions(wanted: WantedCell, cell: Cell) -> str:
    """How the code of a baseline, or of a fusion and its parts, differs from the code that measured a cell."""
    measured: Mapping[str, Any]
    if wanted.kind == "baseline":
        here = {wanted.name: BASELINES[wanted.name].version}
        measured = {wanted.name: cell.facts.get("baseline", {}).get("version", 1)}  # older cells have none
    else:
        here = versions(wanted.settings.fusion.parts)
        measured = cell.facts.get("fusion", {}).get("versions", dict.fromkeys(here, "not recorded"))
    there, here = ({f"version of {name}": of[name] for name in here} for of in (measured, here))
    return differences(there, here)


def _shaping(config: Mapping[str, Any], kind: str, data: str) -> dict[str, Any]:
    """The settings that shape a cell, flat."""
    settings = flat({key: value for key, value in config.items() if key not in _ANY_SECTION})
    settings = {key: value for key, value in settings.items() if key not in _ANY_VALUE}
    prepared, folder = config["prepare"]["source"], config["dataset"]["path"]
    used = {"prepare": prepared, "shop": not (prepared or folder), "pretrain": not config["model"]["path"],
            "rl": config.get("rl", {}).get("steps", 0)}  # fmt: skip
    settings = {key: value for key, value in settings.items() if used.get(key.partition(".")[0], True)}
    if kind == "baseline":
        settings = {key: value for key, value in settings.items() if _within(key, _SHAPES_BASELINES)}
    return {**settings, "data": data}


def _within(key: str, names: Sequence[str]) -> bool:
    """Whether a flat key is one of the names, or in a section that is."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def begin(wanted: WantedCell) -> None:
    """Prepares a cell's folder: what another config left there is set aside and never used.

    If only the code of a fusion differs, and the weights that it builds on are still there, only the cell is set aside:
    the fusion is fitted again, and nothing is trained.
    """
    folder = wanted.folder
    _, changed = finished_cell(wanted)
    begun = folder / BEGUN
    if not changed and begun.exists():
        way_out = f"delete it to go on with what is in its folder, or delete {folder} to begin the cell again"
        before = read_facts(begun, way_out, ("config", "data"))
        changed = _other_system(wanted, before) or _changed(wanted, before["config"], before["data"])
    if changed:
        aside = next(each for n in range(1, 10**6) if not (each := folder.with_name(f"{folder.name}.old-{n}")).exists())
        aside.mkdir()
        entries = [each for each in folder.iterdir() if each.name != "run.lock"]
        for entry in [wanted.file] if _keeps_training(wanted) else entries:
            entry.rename(aside / entry.name)
        _drop_weights(aside)
        report(f"{wanted.label}: settings or code have changed ({changed}); what is used no longer is now in {aside}")
    called = {"name": wanted.name, "kind": wanted.kind, "seed": wanted.seed}
    write_json(begun, {**called, "config": wanted.settings.resolved(), "data": wanted.data})


def _keeps_training(wanted: WantedCell) -> bool:
    """Whether a cell's weights are the requested ones, although other code measured it."""
    if not wanted.file.exists() or not (wanted.folder / "checkpoints").exists():
        return False
    (cell,) = read_cells(wanted.file)
    return not (_other_system(wanted, vars(cell)) or _changed(wanted, cell.config, cell.data))


def borrow_training(wanted: WantedCell, cells: Sequence[WantedCell]) -> None:
    """Copies the training of a finished arm to one that differs from it only in what comes after training."""
    if wanted.kind != "arm" or (wanted.folder / FINISHED).exists():
        return
    for other in _twins(wanted, cells):
        if sound_cell(other) is None or not (other.folder / "checkpoints").exists():
            continue
        _drop_weights(wanted.folder)
        shutil.copytree(other.folder / "checkpoints", wanted.folder / "checkpoints")
        for name in ("config.json", "metrics.jsonl", FINISHED):  # FINISHED, which marks it as trained, comes last
            shutil.copy(other.folder / name, wanted.folder / name)
        report(f"study: {wanted.label}: has the training of {other.label}")
        return


def close(wanted: WantedCell, cells: Sequence[WantedCell]) -> None:
    """Removes what only an unfinished cell needs, be it this one or another with the same training."""
    (wanted.folder / BEGUN).unlink(missing_ok=True)
    twins = _twins(wanted, cells)
    if not wanted.settings.study.keep_weights and all(sound_cell(other) is not None for other in twins):
        for each in (wanted, *twins):
            _drop_weights(each.folder)


def _twins(wanted: WantedCell, cells: Sequence[WantedCell]) -> list[WantedCell]:
    """The other cells with the same training, which differ only in what comes after it."""
    if wanted.kind != "arm" or not wanted.settings.fusion.model:
        return []
    return [
        other
        for other in cells
        if (other.kind, other.seed) == ("arm", wanted.seed)
        and other.settings.fusion.model
        and other.folder != wanted.folder
        and not differences(_trained_by(other), _trained_by(wanted))
    ]


def _trained_by(wanted: WantedCell) -> dict[str, Any]:
    settings = _shaping(wanted.settings.resolved(), "arm", wanted.data)
    return {key: value for key, value in settings.items() if not key.startswith(("fusion.", "rl.", "eval.weights"))}


def _drop_weights(folder: pathlib.Path) -> None:
    for name in ("checkpoints", "records", "rl/checkpoints"):
        shutil.rmtree(folder / name, ignore_errors=True)


def upstream_facts(wanted: WantedCell) -> dict[str, Any]:
    """The settings and the data that shape what a cell begins with: its dataset folder and its pretrained model."""
    settings = _shaping(wanted.settings.resolved(), "arm", wanted.data)
    facts = {key: value for key, value in settings.items() if _within(key, _SHAPES_UPSTREAM)}
    facts["data"] = _upstream_digest(wanted.settings)
    if not wanted.settings.model.path:
        facts["wording"] = wanted.settings.templates.wording()
    return facts
