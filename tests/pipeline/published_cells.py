"""Keeps the published cells in today's settings: a newer one is written into them, one that has left is taken out.

    python -m tests.pipeline.published_cells index.given_sids='""' describe.unit='"token"' -eval.prior='""'

`KEY=VALUE` is written into every cell that does not record the key: it says what was done before the setting was there.
`-KEY=VALUE` takes the key out of every cell in which it has this value, the one that did nothing. Values are JSON.
A cell that no longer holds is to be run again instead.
"""

import copy
import dataclasses
import json
import pathlib
import sys

from tsrec_jax.evaluation.study_cells import read_cells, write_cells

RESULTS = pathlib.Path(__file__).resolve().parents[2] / "docs" / "results"
REAL = {"dataset.path": "data"}  # the folder need not be here
STUDIES = {  # by the folder of a report: the file in configs/studies/, and what its command sets
    "ablation": ("ablation", REAL),
    "office": ("office", REAL),
    "main_industrial": ("main", REAL),
    "main_beauty": ("main_beauty", REAL),
    "rl_shop": ("rl", {"pretrain.max_steps": 250}),
    "rl_industrial": ("rl", REAL),
}


def cells_file(study: str) -> pathlib.Path:
    """The published cells of a study."""
    return RESULTS / study / "cells.npz"


def change(config: dict, setting: str) -> None:
    """Applies one argument of the command to the config of a cell."""
    key, _, text = setting.removeprefix("-").partition("=")
    *sections, name = key.split(".")
    section, value = config, json.loads(text)
    for part in sections:
        section = section.setdefault(part, {})
    if not setting.startswith("-"):
        section.setdefault(name, value)
    elif name in section and section[name] == value:
        del section[name]


def main(settings: list[str]) -> None:
    """Applies the arguments to every published cell."""
    for study in STUDIES:
        cells = []
        for cell in read_cells(cells_file(study)):
            config = copy.deepcopy(dict(cell.config))
            for setting in settings:
                change(config, setting)
            cells.append(dataclasses.replace(cell, config=config))
        write_cells(cells_file(study), cells)


if __name__ == "__main__":
    main(sys.argv[1:])
