"""The main job from nothing to an export, on the embedded default, on eight emulated devices."""

import csv
import itertools
import json
import pathlib
import shutil
import signal

import numpy as np
import pytest

from tests.pipeline.small import SMALL
from tsrec_jax.data.catalogue import Item
from tsrec_jax.data.dataset import read_dataset
from tsrec_jax.data.prepared import tied_targets
from tsrec_jax.main import main
from tsrec_jax.pipeline import workdir as workdir_module
from tsrec_jax.pipeline.remote import Remote
from tsrec_jax.serving.recommender import Recommender
from tsrec_jax.shop.shop import make_shop
from tsrec_jax.sid.index import load_index
from tsrec_jax.training import loop as loop_module
from tsrec_jax.training.metrics_log import read_metrics

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMAND = [f"--config={ROOT / 'configs' / 'quickstart.py'}", *SMALL]


@pytest.fixture
def workdir(quickstart_run):
    """A finished run of COMMAND; tests that change it copy it first."""
    return quickstart_run


def test_a_run_leaves_every_artifact(workdir):
    for name in ("config.json", "metrics.jsonl", "predictions.json", "results.json", "results.md", "trec/qrels.trec",
                 "trec/TS-Rec.trec", "trec/repeat_last.trec"):  # fmt: skip
        assert (workdir / name).stat().st_size > 0, name
    for name in ("plots/training.png", "plots/metrics.png", "export/model.safetensors", "export/sid_catalogue.json"):
        assert (workdir / name).stat().st_size > 0, name
    assert list((workdir / "tensorboard").glob("events*"))
    logged = {name for row in read_metrics(workdir) for name in row}
    assert {"drift/cosine_0", "drift/norm_2", "grad_norm/new_rows", "update_norm/pretrained_rows"} <= logged
    assert {"input_wait_share", "examples_per_second", "padding_share", "loss/next_sid"} <= logged
    assert not list(workdir.rglob("*.tmp")), "a temporary file was left behind"
    assert not list(workdir.glob("*.writing"))


def test_sids_and_words_are_made_of_the_texts(workdir):
    made, given = read_dataset(workdir / "dataset"), read_dataset(workdir / "shop")
    assert made.catalogue.items == given.catalogue.items
    assert made.catalogue.sids != given.catalogue.sids
    assert set(made.token_descriptions) == set(made.catalogue.tokens)
    for name in ("index/report.md", "index/plots/codes.png", "index/sid_index.npz", "describe/teacher.json"):
        assert (workdir / name).stat().st_size > 0, name


def test_results_hold_the_recommender_and_the_baselines(workdir):
    results = json.loads((workdir / "results.json").read_text())
    assert list(results["systems"]) == ["TS-Rec", "popularity", "repeat last"]
    assert results["metrics"]["sid"] == results["systems"]["TS-Rec"]["sid"]
    assert results["rows"] == 16
    assert results["beams"] == 20
    assert results["invalid"] == 0
    for system in results["systems"].values():
        assert 0 < system["beyond"]["coverage@10"] <= 1
        assert 0 < system["beyond"]["diversity@10"] <= 1
    assert 0 < results["upper_bound"]["HR@10"] <= 1
    recorded = json.loads((workdir / "config.json").read_text())
    assert recorded["config"]["train"]["max_steps"] == 4
    assert len(recorded["data_hash"]) == 64
    assert "jax" in recorded["versions"]


def test_predictions_are_in_test_order_and_inside_the_catalogue(workdir):
    dataset = read_dataset(workdir / "dataset")
    rows = json.loads((workdir / "predictions.json").read_text())
    expected = [dataset.catalogue.sid(int(item)) for item in dataset.splits["test"].spread(16).targets]
    assert [row["output"] for row in rows] == expected
    for row in rows:
        assert len(row["predict"]) == len(set(row["predict"])) == 20
        assert set(row["predict"]) <= set(dataset.catalogue.items_of_sid)


def test_the_export_says_what_tokens_mean_and_codes_an_item_from_its_texts(workdir):
    recommender = Recommender.load(workdir / "export")
    (texts,) = (json.loads(path.read_text()) for path in (workdir / "dataset").glob("*.item.json"))
    old, facts = next(iter(texts.items()))
    (best,) = recommender.recommend([[old]], k=1)[0]
    assert all(step.keywords and step.description for step in best.path)
    others = {item.sid for item in recommender.catalogue.items()}
    new, coding = recommender.put(Item("NEW", **facts))
    assert new and (coding.sid not in others or coding.shared_with)
    index = load_index(workdir / "index" / "sid_index.npz")
    vectors = np.load(workdir / "index" / "embeddings.npy")
    again = index.extended([*index.item_ids, "NEW"], np.concatenate([vectors, vectors[:1]]))
    assert coding.sid[0] == again.sids()[-1][0], "as `index.extend` codes an item of these texts"
    assert (workdir / "export" / "encoder" / "model.safetensors").is_file()


def test_the_exported_recommender_gives_the_evaluated_lists(workdir):
    dataset = read_dataset(workdir / "dataset")
    rows = json.loads((workdir / "predictions.json").read_text())[:4]
    histories = dataset.splits["test"].spread(16).histories[:4]
    ids = [[dataset.catalogue.items[item].id for item in history] for history in histories]
    found = Recommender.load(workdir / "export").recommend(ids, k=20)
    for row, items in zip(rows, found, strict=True):
        assert list(dict.fromkeys(entry.sid for entry in items))[:10] == row["predict"][:10]


@pytest.mark.parametrize("name", ["sid_catalogue.json", "sid_trie.npz"])
def test_the_way_out_of_a_damaged_export_works(workdir, tmp_path, capsys, name):
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    damaged = copy / "export" / name
    damaged.write_bytes(damaged.read_bytes()[:100])
    recommend = ["recommend", f"--workdir={copy}", f"--item={read_dataset(copy / 'dataset').catalogue.items[0].id}"]
    assert main(recommend) == 2
    assert f"{damaged}: not as it was exported" in (said := capsys.readouterr().err)
    assert "delete the export's folder and run the verb `export`" in said
    shutil.rmtree(copy / "export")
    assert main(["export", f"--workdir={copy}"]) == 0
    assert main(recommend) == 0


def test_recommend_prints_items_with_titles_and_scores(workdir, capsys):
    items = json.loads((workdir / "export" / "sid_catalogue.json").read_text())["items"]
    history = ",".join(item["id"] for item in items[:2])
    assert main(["recommend", f"--workdir={workdir}", f"--history={history}", "--k=5"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 6
    titles = {item["title"] for item in items}
    assert all(any(line.endswith(title) for title in titles) for line in lines[1:])
    assert main(["recommend", f"--workdir={workdir}", "--history=S00x"]) == 2
    assert "'S00x'" in capsys.readouterr().err


def test_a_second_run_skips_what_is_finished(workdir, capsys):
    before = (workdir / "predictions.json").stat().st_mtime_ns
    assert main(["run", f"--workdir={workdir}"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("finished before, skipped") == 5
    assert (workdir / "predictions.json").stat().st_mtime_ns == before


def test_other_evaluation_settings_evaluate_again_without_training(workdir, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    assert main(["evaluate", *COMMAND, "--config.eval.max_rows=8", f"--workdir={copy}"]) == 0
    assert json.loads((copy / "results.json").read_text())["rows"] == 8
    assert "step 1/4" not in capsys.readouterr().out


def test_lost_predictions_are_made_again_and_the_report_names_every_commit(workdir, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    first = json.loads((copy / "config.json").read_text())["commit"]
    (copy / "predictions.json").unlink()
    monkeypatch.setattr(workdir_module, "commit", lambda: "f" * 40)
    for _ in range(2):
        assert main(["evaluate", f"--workdir={copy}"]) == 0
    assert (copy / "predictions.json").read_bytes() == (workdir / "predictions.json").read_bytes()
    recorded = json.loads((copy / "config.json").read_text())
    assert (recorded["commit"], recorded["earlier_commits"]) == ("f" * 40, [first])
    assert json.loads((copy / "results.json").read_text())["commit"] == f"{'f' * 40}, after {first}"


def test_a_run_told_to_stop_ends_well_before_the_next_stage_and_lost_weights_are_trained_again(
    workdir, tmp_path, monkeypatch, capsys
):
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    shutil.rmtree(copy / "checkpoints" / "best")
    (copy / "predictions.json").unlink()
    put_batch, calls = loop_module.put_batch, itertools.count(1)

    def told(*arguments):
        if next(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return put_batch(*arguments)

    monkeypatch.setattr(loop_module, "put_batch", told)
    assert main(["run", f"--workdir={copy}"]) == 0
    printed = capsys.readouterr()
    assert f"train: finished before, but its weights, {copy / 'checkpoints' / 'best' / '4'}, are gone" in printed.out
    assert "stopped by SIGTERM after step 2 of 4, which is saved" in printed.err
    stages = json.loads((copy / "stages.json").read_text())
    assert "train" not in stages
    assert not (copy / "predictions.json").exists(), "the run went on to evaluate"
    assert main(["run", f"--workdir={copy}"]) == 0
    assert "train: resuming after step 2 of 4" in capsys.readouterr().out
    assert (copy / "predictions.json").read_bytes() == (workdir / "predictions.json").read_bytes()


def test_other_training_settings_are_refused_with_the_difference(workdir, capsys):
    before = (workdir / "config.json").read_bytes()
    assert main(["train", *COMMAND, "--config.train.learning_rate=0.5", f"--workdir={workdir}"]) == 2
    assert "train.learning_rate was 0.002 and is now 0.5" in capsys.readouterr().err
    assert (workdir / "config.json").read_bytes() == before


def test_a_run_at_an_address_goes_on_on_a_new_machine(workdir, tmp_path, monkeypatch, capsys):
    """The first machine is lost before the second checkpoint, the next one before the export."""
    address = tmp_path / "bucket" / "run"
    command = [part for part in COMMAND if "shop" not in part]
    command += [f"--config.dataset.path={workdir / 'dataset'}", "--config.index.sids=given"]
    command += [f"--config.model.path={workdir / 'pretrained'}", "--config.train.checkpoint_every=2"]
    command += [f"--workdir=file://{address}"]

    def on_machine(name, verb):
        monkeypatch.setenv("TSREC_LOCAL", str(tmp_path / name))
        code = main([verb, *command])
        return code, capsys.readouterr().out

    push = Remote.push

    def lost(remote):
        if any(row["step"] == 4 for row in read_metrics(remote.local)):
            raise RuntimeError("the machine is lost")
        push(remote)

    monkeypatch.setattr(Remote, "push", lost)
    assert on_machine("first", "train")[0] == 1
    monkeypatch.setattr(Remote, "push", push)
    code, printed = on_machine("second", "train")
    assert code == 0
    assert "resuming after step 2 of 4" in printed
    assert [row["step"] for row in read_metrics(address) if "loss" in row] == [1, 2, 3, 4]
    code, printed = on_machine("third", "export")
    assert code == 0
    assert "step" not in printed
    assert (address / "export" / "model.safetensors").stat().st_size > 0
    assert list((address / "checkpoints" / "latest").iterdir())
    assert not list(tmp_path.glob("*/runs/**/checkpoints"))


def test_tables_become_a_recommender_with_five_levels(workdir, tmp_path, capsys):
    """Raw tables through every stage, with four levels of codes and one for collisions, and a model that is there."""
    items = make_shop(3, num_items=70, num_users=10).catalogue.items
    with (tmp_path / "items.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("item", "title", "description"))
        writer.writerows((item.id, item.title, item.description) for item in items)
    rng = np.random.default_rng(0)
    with (tmp_path / "interactions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("user", "item", "timestamp"))
        for user in range(40):
            bought = rng.choice(70, 6, replace=False)
            writer.writerows((f"U{user}", items[item].id, 1000 * user + 300 * n) for n, item in enumerate(bought))
    raw = [f"--config.prepare.{key}_file={tmp_path / f'{key}.csv'}" for key in ("interactions", "items")]
    settings = [part for part in COMMAND if "shop" not in part]
    settings += [*raw, "--config.prepare.source=tables", "--config.prepare.name=mine", "--config.prepare.k_core=1"]
    settings += ["--config.index.sizes=(3,4,2,3)", "--config.index.collisions=extra_level"]
    settings += ["--config.index.method=rq_kmeans", "--config.train.max_steps=2", "--config.train.validations=1"]
    settings += [f"--config.model.path={workdir / 'pretrained'}", "--config.train.valid_beam_rows=0"]
    settings += [f"--workdir={tmp_path / 'run'}"]
    assert main(["run", *settings]) == 0
    dataset = read_dataset(tmp_path / "run" / "dataset")
    assert (dataset.name, dataset.catalogue.num_levels) == ("mine", 5)
    assert tied_targets(dataset.path) == {"order": "file", "train": 0.0, "valid": 0.0, "test": 0.0}
    assert len(dataset.catalogue.items_of_sid) == dataset.catalogue.num_items
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (results["invalid"], results["upper_bound"]) == (0, None)
    rows = json.loads((tmp_path / "run" / "predictions.json").read_text())
    assert set(rows[0]["predict"]) <= set(dataset.catalogue.items_of_sid)
    capsys.readouterr()
    history = f"--history={dataset.catalogue.items[0].id}"
    assert main(["recommend", f"--workdir={tmp_path / 'run'}", history, "--k=3"]) == 0
    assert len(capsys.readouterr().out.strip().splitlines()) == 4
