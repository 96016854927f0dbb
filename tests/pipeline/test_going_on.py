"""A run that goes on from a finished one on a folder that has grown, and what it refuses to go on from."""

import contextlib
import dataclasses
import json
import shutil
import types

import numpy as np
import pytest

from tests.pipeline.small import SMALL
from tests.serving.test_peft_folder import assert_the_adapter_is_the_export
from tsrec_jax.data.catalogue import Catalogue, Item
from tsrec_jax.data.dataset import read_dataset, write_dataset
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.errors import UserError
from tsrec_jax.evaluation.predictions import read_predictions
from tsrec_jax.main import main
from tsrec_jax.pipeline import before
from tsrec_jax.pipeline.earlier import Earlier, going_on, open_earlier
from tsrec_jax.pipeline.study_cell import wanted_cells
from tsrec_jax.settings import default_config, load_saved, settings_of

OLD, NEW, JOINED = 6, 8, 3  # rows of test that were there, that are new, and that have a new item
NEWCOMERS = [f"n{n}" for n in range(NEW - 1)]


def joined(rows, users, histories, targets):
    targets = np.concatenate([rows.targets, np.array(targets, np.int32)])
    return Interactions((*rows.users, *users), (*rows.histories, *histories), targets)


@pytest.fixture(scope="module")
def grown(quickstart_run, tmp_path_factory):
    """The folder of the run with three more items and some more rows, without SIDs and words."""
    before, folder = read_dataset(quickstart_run / "dataset"), tmp_path_factory.mktemp("grown") / "shop"
    items, sids = before.catalogue.items, before.catalogue.sids
    more = tuple(Item(f"N{n}", f"{items[n].title}, newer", items[n].description) for n in range(JOINED))
    catalogue = Catalogue((*items, *more), (*sids, *sids[:JOINED]))  # the SIDs of the new ones are thrown away
    old = before.splits["test"].take(range(OLD))
    users, histories = [*NEWCOMERS, old.users[1]], [(n, n + 9) for n in range(NEW)]
    targets = [len(items) + n if n < JOINED else 20 + n for n in range(NEW)]
    targets[-1] = old.targets[1]  # bought again
    # As where an item now has enough interactions, and the oldest one falls out of a full history.
    gained = tuple((*history[1:], len(items)) for history in old.histories)
    splits = {
        "train": joined(before.splits["train"], ["n0"], [(3, 4, len(items))], [len(items) + 1]),
        "valid": before.splits["valid"],
        "test": joined(dataclasses.replace(old, histories=gained), users, histories, targets),
    }
    write_dataset("shop", catalogue, splits, (), folder)
    for name in ("shop.index.json", "shop.info.txt"):
        (folder / name).unlink()
    return folder


@pytest.fixture(scope="module")
def second(quickstart_run, grown, tmp_path_factory):
    """The workdir of the run that went on, with adapters."""
    workdir = tmp_path_factory.mktemp("second")
    given = [f"--config.dataset.path={grown}", f"--config.train.from_run={quickstart_run}"]
    given += ["--config.train.freeze=trunk", "--config.train.adapter.rank=2"]
    assert main(["run", "--config=quickstart", f"--workdir={workdir}", *SMALL, *given]) == 0
    return workdir


def test_known_items_keep_their_sids_and_the_report_compares_on_the_new_rows(quickstart_run, second):
    old, new = (read_dataset(run / "dataset").catalogue for run in (quickstart_run, second))
    assert new.num_items == old.num_items + JOINED and new.sids[: old.num_items] == old.sids
    found = json.loads((second / "results.json").read_text())["before_after"]
    assert found["rows"] == OLD + NEW and found["earlier"] == str(quickstart_run)
    assert [(group["name"], group["rows"]) for group in found["groups"]] == [
        ("new rows", NEW),
        ("of these, with a new item", JOINED),
    ]
    assert [each["metric"] for each in found["groups"][0]["comparisons"]] == ["HR@10", "NDCG@10"]
    again = read_predictions(second / "predictions.json")
    before = read_predictions(second / "predictions_before.json")
    assert before.users == [*NEWCOMERS, again.users[1]] and before.targets[-1] == again.targets[1]
    text = (second / "results.md").read_text()
    assert "## Before and after this training" in text and f"{JOINED} of these, with a new item:" in text


def test_its_folder_for_peft_is_the_model_that_it_trained_and_exported(quickstart_run, second):
    assert_the_adapter_is_the_export(quickstart_run / "export", second)


def test_before_is_the_earlier_model_as_it_was(quickstart_run, second, tmp_path):
    given = [f"--config.dataset.path={second / 'dataset'}", f"--config.model.path={quickstart_run / 'export'}"]
    given += ["--config.model.trained", "--config.index.sids=given", "--config.describe.words=given"]
    assert main(["evaluate", "--config=quickstart", f"--workdir={tmp_path}", *SMALL, *given]) == 0
    lists = read_predictions(tmp_path / "predictions.json").lists
    assert lists[OLD:] == read_predictions(second / "predictions_before.json").lists
    assert lists != read_predictions(second / "predictions.json").lists


def test_beside_a_fusion_the_model_alone_is_compared(monkeypatch, tmp_path):
    catalogue = Catalogue(tuple(Item(f"i{n}", f"Title {n}", "") for n in range(3)), (("a",), ("b",), ("c",)))
    rows = Interactions(("u", "v"), ((0,), (0,)), np.array([1, 2], np.int32))
    settings = settings_of(default_config()).changed({"fusion": {"parts": ("popularity",)}})
    earlier = Earlier("first", frozenset({"i0"}), {"test": np.ones(2, bool)}, knows_rows=True)
    places = types.SimpleNamespace(path=tmp_path)
    dataset = types.SimpleNamespace(catalogue=catalogue, splits={"test": rows})
    job = types.SimpleNamespace(dataset=dataset, settings=settings, earlier=earlier, workdir=places)

    def finds(*sids):
        def search(rows, fused=None):
            assert fused is None
            return [[(sid, 0.0)] for sid in sids]

        return types.SimpleNamespace(search=search)

    monkeypatch.setattr(before, "starting_parts", lambda _: types.SimpleNamespace(model=None))
    monkeypatch.setattr(before, "on_own_devices", contextlib.nullcontext)
    monkeypatch.setattr(before.ModelSearch, "of", lambda *_: finds("a", "c"))
    assert not before.is_predicted(job, rows)
    before.predict_before(job, rows)
    before.predict_alone(job, rows, finds("b", "c"))
    assert before.is_predicted(job, rows)
    for name in ("predictions_before.json", "predictions_alone.json"):
        written = (tmp_path / name).read_text()
        (tmp_path / name).write_text(written.replace('"v"', '"w"'))  # as where another row counted as new
        assert not before.is_predicted(job, rows)
        (tmp_path / name).write_text(written)
    found = before.before_and_after(job, rows, [["a"], ["a"]])  # what the fusion found
    told = found.groups[0].comparisons[0]
    assert (told.metric, told.first_mean, told.second_mean) == ("HR@10", 1.0, 0.5)


def test_the_same_run_again_finds_all_its_stages_finished(quickstart_run, second, capsys):
    assert main(["run", f"--workdir={second}"]) == 0
    said = capsys.readouterr().out
    assert all(f"{stage}: finished before, skipped" in said for stage in ("train", "evaluate", "export"))
    assert f"run: new to {quickstart_run}: {JOINED} of 73 items, 1 of " in said
    assert f"{NEW} of {OLD + NEW} rows of test" in said


@pytest.fixture
def settings(second):
    return going_on(load_saved(second))


def test_of_an_export_alone_all_rows_count_as_new(quickstart_run, second, settings, capsys):
    settings = settings.changed({"train": {"from_run": str(quickstart_run / "export")}})
    dataset = read_dataset(second / "dataset")
    earlier = open_earlier(settings, dataset)
    assert earlier.new["test"].sum() == OLD + NEW
    assert "3 of 73 items; of an export the rows are not known" in capsys.readouterr().out


def test_other_sids_and_other_prompts_are_refused(second, settings):
    dataset = read_dataset(second / "dataset")
    sids = dataset.catalogue.sids
    moved = dataclasses.replace(dataset.catalogue, sids=(sids[1], sids[0], *sids[2:]))
    with pytest.raises(UserError, match=r"other SIDs of 2 of 70 items, .* set config.index.sids=make, which keeps"):
        open_earlier(settings, dataclasses.replace(dataset, catalogue=moved))
    wording = {"templates": {"next_sid": {"prompt": "What follows {history}"}}}
    with pytest.raises(UserError, match=r"other prompts \(templates.next_sid.prompt was .*; set config.templates as"):
        open_earlier(settings.changed(wording), dataset)
    strangers = tuple(dataclasses.replace(item, id=f"other {item.id}") for item in dataset.catalogue.items)
    with pytest.raises(UserError, match="knows none of these items"):
        open_earlier(settings, dataclasses.replace(dataset, catalogue=Catalogue(strangers, sids)))


def test_an_earlier_folder_that_has_changed_is_refused(quickstart_run, second, settings, tmp_path):
    place = tmp_path / "first"
    shutil.copytree(quickstart_run, place, ignore=shutil.ignore_patterns("checkpoints", "records", "pretrained"))
    with (place / "dataset" / "test.csv").open("a") as file:
        file.write((place / "dataset" / "train.csv").read_text().splitlines()[1] + "\n")
    settings, grown = settings.changed({"train": {"from_run": str(place)}}), read_dataset(second / "dataset")
    with pytest.raises(UserError, match=r"is not what .*first learned from.* set config.train.from_run=.*export"):
        open_earlier(settings, grown)
    shutil.rmtree(place / "dataset")
    shutil.rmtree(place / "shop")
    with pytest.raises(UserError, match=r"shop is gone, from which .*first learned"):
        open_earlier(settings, grown)
    assert not (place / "shop").exists(), "nothing is made in the workdir of another run"


def test_another_index_or_encoder_than_that_of_the_earlier_run_is_refused(settings):
    for key in ("extend", "model"):
        with pytest.raises(UserError, match=rf"config.index.{key}='mine', but new items are coded as .*; leave it out"):
            going_on(settings.changed({"index": {key: "mine"}}))


def test_a_place_that_has_no_model_to_go_on_from_is_refused(settings, tmp_path):
    def on(place):
        return going_on(settings.changed({"train": {"from_run": str(place)}}))

    with pytest.raises(UserError, match=r"gs://bucket/run: an address; copy that run here"):
        on("gs://bucket/run")
    with pytest.raises(UserError, match="neither the workdir of a finished run nor an export"):
        on(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="that run has no export; run the verb `export` in it first"):
        on(tmp_path)
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "sid_catalogue.json").write_text("{}")
    with pytest.raises(UserError, match="holds no language model that could learn more"):
        on(tmp_path)
    with pytest.raises(UserError, match=r"leave out config.model.trained, "):
        settings.changed({"model": {"trained": True}, "train": {"adapter": {"rank": 0}}})


def test_a_study_names_the_model_instead(settings, tmp_path):
    with pytest.raises(UserError, match="in a study an arm names the export"):
        wanted_cells(settings.changed({"study": {"arms": {"on": {}}, "baselines": (), "comparisons": ()}}), tmp_path)
