"""The documents: their figures are those of the committed reports, and what they link to is there."""

import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_the_readme_gives_the_figures_of_the_committed_reports():
    results = (ROOT / "README.md").read_text().split("## Results")[1].split("## What works")[0]
    compared = 0
    for part in results.split("[report](")[1:]:
        level = "item" if "item level" in part.partition("|")[0] else "sid"
        report = json.loads((ROOT / part.partition(")")[0]).with_suffix(".json").read_text())
        systems = report["systems"]
        if isinstance(systems, list):  # of a study
            systems = {system["name"]: system["means"] for system in systems}
        lines = [line for line in part.splitlines() if line.startswith("|")]
        header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        for name, *cells in rows:
            measured = report["upper_bound"] if name == "upper bound" else systems[name][level]
            expected = [f"{measured[metric]:.4f}".removeprefix("0") for metric in header[1:]]
            assert cells == expected, name
            compared += 1
    assert compared == 54


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_that_are_there(document):
    links = re.findall(r"\]\(([^)#]+)\)", document.read_text())
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert not missing
