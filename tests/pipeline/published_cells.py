"""Gives the published cells a setting that is newer than they are, with the value that says what was done then.

    python -m tests.pipeline.published_cells index.given_sids='""' describe.unit='"token"'

Values are JSON. Do this where a new setting is added whose value at that time is known; cells that it no longer holds
for are to be run again.
"""

import copy
import dataclasses
import json
import pathlib
import sys

from tsrec_jax.evaluation.study_cells import read_cells, write_cells

RESULTS = pathlib.Path(__file__).resolve().parents[2] / "docs" / "results"
STUDIES = ("ablation", "office")


def cells_file(study: str) -> pathlib.Path:
    """The published cells of a study."""
    return RESULTS / study / "cells.npz"


def main(settings: list[str]) -> None:
    """Writes each `KEY=VALUE` into every published cell that does not record the key."""
    for study in STUDIES:
        cells = []
        for cell in read_cells(cells_file(study)):
            config = copy.deepcopy(dict(cell.config))
            for key, _, value in (setting.partition("=") for setting in settings):
                *sections, name = key.split(".")
                section = config
                for part in sections:
                    section = section.setdefault(part, {})
                section.setdefault(name, json.loads(value))
            cells.append(dataclasses.replace(cell, config=config))
        write_cells(cells_file(study), cells)


if __name__ == "__main__":
    main(sys.argv[1:])
