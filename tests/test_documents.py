"""The documents: their figures are those of the committed reports, and what they link to is there."""

import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize(("document", "figures"), [("README.md", 14), ("docs/results.md", 395)])
def test_tables_of_figures_are_those_of_the_committed_reports(document, figures):
    """After a link to a report (`[report](...)`) stands a table whose first column names systems of the report."""
    path = ROOT / document
    compared = 0
    for part in re.split(r"\[report\]\(", path.read_text(), flags=re.IGNORECASE)[1:]:
        level = "item" if "item level" in part.partition("|")[0] else "sid"
        report = json.loads((path.parent / part.partition(")")[0]).with_suffix(".json").read_text())
        systems = report["systems"]
        if isinstance(systems, list):  # of a study
            systems = {system["name"]: system["means"] for system in systems}
        table = re.search(r"(?:^\|.*\n)+", part, re.M)
        header, _, *lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].splitlines()]
        for name, *cells in lines:
            measured = report["upper_bound"] if name == "upper bound" else systems[name][level]
            for metric, cell in zip(header[1:], cells, strict=True):
                if "@" in metric:
                    assert cell == f"{measured[metric]:.4f}".removeprefix("0"), (name, metric)
                    compared += 1
    assert compared == figures


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 130
    assert len(text.split()) <= 900


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_that_are_there(document):
    links = re.findall(r"\]\(([^)#]+)\)", document.read_text())
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize(
    "document",
    [path for path in DOCUMENTS if "results" not in path.parts],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_modules_that_are_named_are_there(document):
    """`room/file.py` in backticks is a path in the package or in the checkout."""
    named = re.findall(r"`([\w/]+/[\w/]*\w+\.py)`", document.read_text())
    missing = [name for name in named if not any((folder / name).exists() for folder in (ROOT / "tsrec_jax", ROOT))]
    assert not missing
