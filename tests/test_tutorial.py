"""docs/tutorial.ipynb runs from its first cell to its last, on a tiny run of the same experiment."""

import json
import shutil

from tests.pipeline.small import SMALL

TUTORIAL = "docs/tutorial.ipynb"


def test_every_cell_of_the_tutorial_runs(request, quickstart_run, tmp_path, monkeypatch):
    shutil.copytree(quickstart_run, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    cells = json.loads((request.config.rootpath / TUTORIAL).read_text("utf-8"))["cells"]
    names = {}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{TUTORIAL}, cell {number}", "exec"), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            names |= {"workdir": "run", "settings": SMALL}
    assert len(names["recommended"]) == 10
    assert names["hr10"] == names["report"]["systems"]["TS-Rec"]["sid"]["HR@10"]
    assert names["new"] and names["coding"].sid == names["recommender"].catalogue.item("NEW").sid
    assert names["best"].item_id not in {found.item_id for found in names["after"]}
