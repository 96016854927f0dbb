"""The stages before training: SIDs and words that are made once, never changed, and refused where they do not fit."""

import dataclasses
import json
import pathlib
import pickle
import re
import shutil

import numpy as np
import pytest

from tsrec_jax.data.dataset import read_dataset, write_dataset
from tsrec_jax.main import main
from tsrec_jax.pipeline.inputs import make_catalogue, make_inputs, source_of
from tsrec_jax.pipeline.study_cell import wanted_cells
from tsrec_jax.settings import default_config, settings_of, update
from tsrec_jax.shop.shop import make_shop
from tsrec_jax.sid.index import load_index

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHOP = make_shop(0, num_items=80, num_users=30)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A full dataset folder."""
    folder = tmp_path_factory.mktemp("data") / "shop"
    write_dataset("shop", SHOP.catalogue, SHOP.splits, SHOP.token_descriptions, folder)
    return folder


@pytest.fixture(scope="module")
def bare(given, tmp_path_factory):
    """The same without SIDs and words."""
    folder = tmp_path_factory.mktemp("bare")
    for name in ("shop.item.json", "train.csv", "valid.csv", "test.csv"):
        (folder / name).write_bytes((given / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory):
    path = tmp_path_factory.mktemp("emb") / "items.npy"
    np.save(path, np.random.default_rng(0).normal(size=(80, 12)).astype(np.float32))
    return path


def command(verb, folder, workdir, *settings):
    sizes = [] if any("index.sizes" in setting for setting in settings) else ["--config.index.sizes=(8,16)"]
    return [
        verb,
        f"--config={ROOT / 'configs' / 'quickstart.py'}",
        f"--workdir={workdir}",
        f"--config.dataset.path={folder}",
        *sizes,
        "--config.index.method=rq_kmeans",
        "--config.index.iterations=3",
        "--config.index.whiten=6",
        *settings,
    ]


def test_what_is_odd_about_a_folder_is_said_by_every_stage_that_reads_it(bare, given, embeddings, tmp_path, capsys):
    for source, verb in ((bare, "index"), (given, "train")):
        folder = shutil.copytree(source, tmp_path / verb)
        rows = (folder / "train.csv").read_text().splitlines(keepends=True)
        (folder / "train.csv").write_text("".join([*rows, rows[1]]))
        (folder / "test.csv").write_text("".join([rows[0], rows[2]]))
        config = default_config()
        index = {"embeddings": str(embeddings), "sizes": (8, 16), "method": "rq_kmeans", "iterations": 3, "whiten": 6}
        update(config, {"dataset": {"path": str(folder)}, "model": {"path": "smollm2"}, "index": index})
        if verb == "train":
            make_inputs(settings_of(config), tmp_path / "inputs")
        else:
            make_catalogue(settings_of(config), tmp_path / "made", source_of(settings_of(config), folder))
        said = capsys.readouterr().out
        assert f"data: {folder / 'train.csv'}: 1 of {len(rows)} rows repeat an earlier one; all are kept\n" in said
        assert f"data: {folder / 'test.csv'}: 1 of 1 rows stand in train.csv too" in said


@pytest.fixture(scope="module")
def indexed(bare, embeddings, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("indexed")
    assert main(command("describe", bare, workdir, f"--config.index.embeddings={embeddings}")) == 0
    return workdir


def test_a_bare_folder_becomes_a_dataset_folder_with_a_report(indexed):
    dataset = read_dataset(indexed / "dataset")
    assert dataset.catalogue.items == SHOP.catalogue.items
    assert dataset.catalogue.num_levels == 2
    assert set(dataset.token_descriptions) == set(dataset.catalogue.tokens)
    for split, rows in SHOP.splits.items():
        assert dataset.splits[split].histories == rows.histories
    report = json.loads((indexed / "index" / "report.json").read_text())
    assert (report["items"], report["levels"][0]["codes"], report["seed"]) == (80, 8, 42)
    assert (indexed / "index" / "plots" / "codes.png").stat().st_size > 0
    assert "collision rate" in (indexed / "index" / "report.md").read_text()


@pytest.fixture(scope="module")
def published(given, tmp_path_factory):
    """The SIDs of the shop in a file of their own, of four levels."""
    sids = json.loads((given / "shop.index.json").read_text())
    path = tmp_path_factory.mktemp("published") / "sids.json"
    path.write_text(json.dumps({item: [*tokens, f"<d_{n % 3}>"] for n, (item, tokens) in enumerate(sids.items())}))
    return path


def test_a_file_gives_the_sids_of_a_folder_whatever_it_holds_itself(bare, given, published, tmp_path, capsys):
    """Neither the SIDs nor the words of the folder itself are used."""
    settings = [f"--config.index.given_sids={published}", "--config.index.sids=given"]
    for name, folder in (("bare", bare), ("given", given)):
        assert main(command("describe", folder, tmp_path / name, *settings)) == 0
        dataset = read_dataset(tmp_path / name / "dataset")
        assert {item.id: list(sid) for item, sid in zip(dataset.catalogue.items, dataset.catalogue.sids, strict=True)
                } == json.loads(published.read_text())  # fmt: skip
        assert set(dataset.token_descriptions) == set(dataset.catalogue.tokens)
        assert dataset.splits == read_dataset(given).splits
        assert not (tmp_path / name / "index").exists()
    capsys.readouterr()
    for verb, setting, words in (
        (
            "index",
            "--config.seed=1",
            "given_sids names SIDs; leave it empty and set config.index.sids=make",
        ),
        (
            "describe",
            "--config.index.sids=make",
            "names SIDs and config.index.sids=make makes others",
        ),
        ("describe", "--config.describe.words=given", "its keywords are for other SIDs than those of this run"),
    ):
        assert main(command(verb, given, tmp_path / "refused", *settings, setting)) == 2
        assert words in capsys.readouterr().err


def test_given_sids_that_miss_an_item_are_refused_by_its_id(bare, published, tmp_path, capsys):
    sids = json.loads(published.read_text())
    sids["other"] = sids.pop("S007")
    (tmp_path / "sids.json").write_text(json.dumps(sids))
    for path, words in (("sids.json", "item 'S007': has no SID, but stands in"), ("none.json", "file is missing")):
        settings = [f"--config.index.given_sids={tmp_path / path}", "--config.index.sids=given"]
        assert main(command("describe", bare, tmp_path / "run", *settings)) == 2
        said = capsys.readouterr().err
        assert words in said and str(tmp_path / path) in said


def test_a_study_knows_given_sids_by_what_their_file_holds(bare, published, tmp_path):
    def digest(path):
        config = default_config()
        update(
            config, {"dataset": {"path": str(bare)}, "index": {"given_sids": str(path)}, "study": {"arms": {"a": {}}}}
        )
        return wanted_cells(settings_of(config), tmp_path)[0].data

    moved = shutil.copy(published, tmp_path / "moved.json")
    assert digest(moved) == digest(published) != digest("")
    moved.write_text(moved.read_text().replace("<d_2>", "<d_1>"))
    assert digest(moved) != digest(published)


def test_a_second_run_makes_nothing_again(indexed, bare, embeddings, capsys):
    before = {path: path.read_bytes() for path in indexed.glob("*/*.*")}
    assert main(command("describe", bare, indexed, f"--config.index.embeddings={embeddings}")) == 0
    printed = capsys.readouterr().out
    assert "index: finished before, skipped" in printed
    assert "describe: finished before, skipped" in printed
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("--config.index.sizes=(8,15)", "index.sizes was [8, 16] and is now [8, 15]"),
        ("--config.seed=7", "seed was 42 and is now 7"),
        ("--config.describe.num_keywords=3", "describe.num_keywords was 20 and is now 3"),
    ],
)
def test_other_settings_are_refused_with_the_difference(indexed, bare, embeddings, capsys, setting, words):
    sids = load_index(indexed / "index" / "sid_index.npz").sids()
    assert main(command("describe", bare, indexed, f"--config.index.embeddings={embeddings}", setting)) == 2
    assert words in capsys.readouterr().err
    assert load_index(indexed / "index" / "sid_index.npz").sids() == sids


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((79, 4), np.float32), "needs floats of shape (80, features)"),
        (np.zeros((80, 4), np.int32), "holds int32"),
        (np.full((80, 4), np.nan, np.float32), "row 0 (of 80) is not finite"),
        (np.ones((80, 4), np.float32), "all 80 items have the same embedding"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(bare, tmp_path, capsys, array, words):
    np.save(tmp_path / "x.npy", array)
    settings = [f"--config.index.embeddings={tmp_path / 'x.npy'}"]
    assert main(command("index", bare, tmp_path / "run", *settings)) == 2
    assert words in capsys.readouterr().err


def test_sizes_left_open_fit_the_catalogue_and_its_extension_has_the_same(bare, grown, embeddings, tmp_path):
    settings = [f"--config.index.embeddings={embeddings}", "--config.index.sizes=()"]
    assert main(command("index", bare, tmp_path / "old", *settings)) == 0
    old = load_index(tmp_path / "old" / "index" / "sid_index.npz")
    assert old.quantiser.sizes == (8, 8, 8)
    assert json.loads((tmp_path / "old" / "index" / "identity.json").read_text())["index.sizes"] == [8, 8, 8]
    assert main(command("index", bare, tmp_path / "odd", *settings[:1], "--config.index.sizes=(8,16)")) == 0
    np.save(tmp_path / "x.npy", np.concatenate([np.load(embeddings)[:1] + 0.01, np.load(embeddings)]))
    settings = [f"--config.index.embeddings={tmp_path / 'x.npy'}", "--config.index.sizes=()"]
    settings.append(f"--config.index.extend={tmp_path / 'odd' / 'index' / 'sid_index.npz'}")
    assert main(command("index", grown, tmp_path / "new", *settings)) == 0
    assert load_index(tmp_path / "new" / "index" / "sid_index.npz").quantiser.sizes == (8, 16)


def test_too_few_sids_are_refused_before_any_text_is_embedded(bare, tmp_path, capsys, monkeypatch):
    from tsrec_jax.pipeline import vectors

    monkeypatch.setattr(vectors, "_llm_embeddings", lambda *arguments: pytest.fail("texts were embedded"))
    settings = ["--config.model.path=anything", "--config.index.sizes=(4,4,4)"]
    assert main(command("index", bare, tmp_path / "run", *settings)) == 2
    assert "makes 4x4x4 = 64 SIDs for 80 items" in capsys.readouterr().err


def test_a_run_that_is_killed_between_levels_goes_on_at_the_next_one(bare, embeddings, tmp_path, capsys, monkeypatch):
    from tsrec_jax.sid import fit_levels

    settings = [f"--config.index.embeddings={embeddings}", "--config.index.sizes=(8,4,4)"]
    assert main(command("index", bare, tmp_path / "whole", *settings)) == 0
    calls, whole_level = [], fit_levels._free_level

    def level(*arguments):
        calls.append(arguments[1])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole_level(*arguments)

    monkeypatch.setattr(fit_levels, "_free_level", level)
    assert main(command("index", bare, tmp_path / "run", *settings)) == 1
    assert (tmp_path / "run" / "index" / "levels.npz").exists()
    capsys.readouterr()
    assert main(command("index", bare, tmp_path / "run", *settings)) == 0
    assert "1 of 3 levels are kept" in capsys.readouterr().out
    assert calls == [8, 4, 4, 4]
    assert not (tmp_path / "run" / "index" / "levels.npz").exists()
    whole, resumed = (load_index(tmp_path / name / "index" / "sid_index.npz") for name in ("whole", "run"))
    assert np.array_equal(whole.codes_IC, resumed.codes_IC)
    assert all(map(np.array_equal, whole.quantiser.codebooks, resumed.quantiser.codebooks))


@pytest.mark.parametrize("key", ["embeddings", "extend"])
@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: np.savez(path, x=np.ones((80, 4))), "an .npz or zip archive|it has no 'facts"),
        (lambda path: np.save(path, np.ones((80, 4), np.float32)), "same embedding|is an .npy file and not an index"),
        (lambda path: path.write_text('{"A": [1, 2]}'), "is a text file"),
        (lambda path: path.write_bytes(b""), "is an empty file"),
        (lambda path: path.write_bytes(pickle.dumps([1.0])), "is a pickle"),
    ],
)
def test_another_kind_of_file_is_named_in_one_line(bare, tmp_path, capsys, key, write, words):
    path = tmp_path / "file.npy"
    write(path)
    for archive in tmp_path.glob("*.npz"):
        archive.rename(path)
    assert main(command("index", bare, tmp_path / "run", f"--config.index.{key}={path}")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(words, line) and str(path) in line


def test_a_gate_fails_the_run_and_says_what_to_change(bare, embeddings, tmp_path, capsys):
    settings = [f"--config.index.embeddings={embeddings}", "--config.index.collisions=none"]
    assert main(command("index", bare, tmp_path / "run", *settings, "--config.index.max_collision_rate=0.1")) == 2
    assert "is above index.max_collision_rate=0.1" in capsys.readouterr().err
    assert main(command("index", bare, tmp_path / "run", *settings)) == 0, "a gate shapes no SID"


def test_what_did_not_finish_may_be_started_again_with_other_settings(bare, embeddings, tmp_path, monkeypatch):
    from tsrec_jax.pipeline import describe, index, vectors

    calls = []

    def embed(settings, words, model, mesh):
        calls.append(settings.index.max_tokens)
        return np.load(embeddings)

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(vectors, "_llm_embeddings", embed)
    settings = ["--config.model.path=anything", "--config.index.max_tokens=32"]
    with monkeypatch.context() as patch:
        patch.setattr(index, "_coded", killed)
        assert main(command("index", bare, tmp_path / "run", *settings)) == 1
    with monkeypatch.context() as patch:
        patch.setattr(describe, "describe", killed)
        assert main(command("describe", bare, tmp_path / "run", *settings, "--config.index.sizes=(8,10)")) == 1
    assert calls == [32], "the embeddings were made again"
    settings += ["--config.index.sizes=(8,10)", "--config.describe.num_keywords=5"]
    assert main(command("describe", bare, tmp_path / "run", *settings)) == 0
    assert max(len(c.keywords) for c in read_dataset(tmp_path / "run" / "dataset").token_descriptions.values()) == 5
    assert main(command("index", bare, tmp_path / "two", *settings[:1], "--config.index.max_tokens=16")) == 0
    assert calls == [32, 16]


@pytest.fixture(scope="module")
def grown(bare, tmp_path_factory):
    """The bare folder with one item more."""
    folder = tmp_path_factory.mktemp("grown")
    items = json.loads((bare / "shop.item.json").read_text())
    for name in ("train.csv", "valid.csv"):
        (folder / name).write_bytes((bare / name).read_bytes())
    (folder / "shop.item.json").write_text(json.dumps({"NEW": {"title": "bamboo clamp"}, **items}))
    return folder


def test_items_that_join_later_change_no_sid(bare, grown, embeddings, indexed, tmp_path):
    x_ID = np.load(embeddings)
    np.save(tmp_path / "x.npy", np.concatenate([x_ID[:1] + 0.01, x_ID]))
    settings = [f"--config.index.embeddings={tmp_path / 'x.npy'}"]
    settings += [f"--config.index.extend={indexed / 'index' / 'sid_index.npz'}"]
    assert main(command("index", grown, tmp_path / "run", *settings)) == 0
    old, new = (load_index(folder / "index" / "sid_index.npz") for folder in (indexed, tmp_path / "run"))
    assert new.item_ids[0] == "NEW"
    assert new.sids()[1:] == old.sids()


def test_an_index_that_recorded_more_settings_than_shape_it_is_extended(bare, grown, embeddings, indexed, tmp_path):
    old = load_index(indexed / "index" / "sid_index.npz")
    more = {"index.batch_size": 256, "index.epochs": 100, "index.hidden": [512, 256, 128]}  # those of other methods
    dataclasses.replace(old, made_with={**old.made_with, **more}).save(tmp_path / "old.npz")
    x_ID = np.load(embeddings)
    np.save(tmp_path / "x.npy", np.concatenate([x_ID[:1] + 0.01, x_ID]))
    settings = [f"--config.index.embeddings={tmp_path / 'x.npy'}", f"--config.index.extend={tmp_path / 'old.npz'}"]
    assert main(command("index", grown, tmp_path / "run", *settings)) == 0
    assert load_index(tmp_path / "run" / "index" / "sid_index.npz").sids()[1:] == old.sids()


def test_a_quantiser_that_is_one_row_more_runs_through_the_whole_stage(bare, grown, embeddings, tmp_path, monkeypatch):
    from tsrec_jax.sid.quantisers import QUANTISERS, Method

    monkeypatch.setitem(QUANTISERS, "halves", Method("tests.sid.test_index:Halves"))
    made = ["--config.index.method=halves", "--config.index.sizes=(2,2,2)", "--config.index.collisions=extra_level"]
    assert main(command("index", bare, tmp_path / "old", *made, f"--config.index.embeddings={embeddings}")) == 0
    old = tmp_path / "old" / "index" / "sid_index.npz"
    assert "halves" in (old.parent / "report.md").read_text()
    x_ID = np.load(embeddings)
    np.save(tmp_path / "x.npy", np.concatenate([x_ID[:1] + 0.01, x_ID]))
    longer = [f"--config.index.embeddings={tmp_path / 'x.npy'}", f"--config.index.extend={old}"]
    assert main(command("index", grown, tmp_path / "new", *made, *longer)) == 0
    assert load_index(tmp_path / "new" / "index" / "sid_index.npz").sids()[1:] == load_index(old).sids()


@pytest.fixture
def stubbed(monkeypatch):
    """Embeddings of chance in place of the language model's, and a pretrained model that is never made."""
    from tsrec_jax.pipeline import pretrain, vectors

    def embed(settings, words, model, mesh):
        return np.random.default_rng(0).normal(size=(len(words), 12)).astype(np.float32)

    def made(settings, workdir, texts):
        (workdir / "pretrained").mkdir(parents=True)
        facts = pretrain.pretraining_identity(settings, texts)
        (workdir / "pretrained" / pretrain.IDENTITY).write_text(json.dumps(facts))
        return workdir / "pretrained"

    monkeypatch.setattr(vectors, "_llm_embeddings", embed)
    monkeypatch.setattr(pretrain, "pretrain", made)


def test_an_index_is_extended_with_its_own_settings_and_encoder_alone(bare, grown, stubbed, tmp_path, capsys):
    assert main(command("describe", bare, tmp_path / "old", "--config.index.collisions=extra_level")) == 0
    made = read_dataset(tmp_path / "old" / "dataset")
    assert made.token_descriptions["<c_0>"].keywords == ("1st item",)
    old = tmp_path / "old" / "index" / "sid_index.npz"
    settings = [f"--config.index.extend={old}", "--config.index.collisions=extra_level"]
    model = f"--config.index.model={tmp_path / 'old' / 'pretrained'}"
    for change, words in (
        ("--config.index.collisions=sinkhorn", "index.collisions was 'extra_level' and is now 'sinkhorn'"),
        ("--config.index.sizes=(8,15)", "index.sizes was [8, 16] and is now [8, 15]"),
        ("--config.index.max_tokens=7", "index.max_tokens was 128 and is now 7"),
        ("--config.model.dtype=bfloat16", "model.dtype was 'float32' and is now 'bfloat16'"),
        ("--config.index.model=", "encoder's model was 'pretrained ("),
    ):
        assert main(command("index", grown, tmp_path / "new", *settings, model, change)) == 2
        assert f"{old} was made with other settings ({words}" in capsys.readouterr().err
        assert not (tmp_path / "new" / "index").exists(), "texts were embedded before"
    assert main(command("index", grown, tmp_path / "new", *settings, model)) == 0
    assert load_index(tmp_path / "new" / "index" / "sid_index.npz").sids()[1:] == load_index(old).sids()


def test_other_contents_of_a_file_are_refused_and_another_place_is_not(bare, embeddings, indexed, tmp_path, capsys):
    moved = tmp_path / "x.npy"
    shutil.copy(embeddings, moved)
    settings = [f"--config.index.embeddings={moved}"]
    assert main(command("index", bare, indexed, *settings)) == 0
    np.save(moved, -np.load(embeddings))
    assert main(command("index", bare, indexed, *settings)) == 2
    assert "SHA-256 of index.embeddings was" in capsys.readouterr().err
    moved.unlink()
    assert main(command("index", bare, indexed, *settings)) == 2
    assert f"config.index.embeddings='{moved}': no such file" in capsys.readouterr().err


def test_a_dataset_folder_is_not_used_again_with_other_rows_or_words(given, tmp_path, capsys):
    folder, workdir = tmp_path / "shop", tmp_path / "run"
    shutil.copytree(given, folder)
    words = folder / "shop.description_keywords.json"
    settings = ["--config.index.sids=given", "--config.describe.words=make", "--config.describe.backend=file"]
    settings.append(f"--config.describe.path={words}")
    assert main(command("describe", folder, workdir, *settings)) == 0
    rows = (folder / "train.csv").read_text().splitlines(keepends=True)
    (folder / "train.csv").write_text("".join(rows[: len(rows) // 2]))
    assert main(command("describe", folder, workdir, *settings)) == 2
    assert "was made of other train.csv than those of" in capsys.readouterr().err
    words.write_text(words.read_text().replace('"description": "', '"description": "All of it: '))
    assert main(command("describe", folder, workdir, *settings)) == 2
    assert "SHA-256 of describe.path was" in capsys.readouterr().err


def test_tables_with_other_contents_are_not_prepared_already(tmp_path, capsys):
    log = "".join(f"u{user},i{item},{6 * item + user}\n" for user in range(6) for item in range(6))
    (tmp_path / "log.csv").write_text(f"user,item,timestamp\n{log}")
    (tmp_path / "items.csv").write_text("item,title\n" + "".join(f"i{item},Tool {item}\n" for item in range(6)))
    arguments = command("prepare", "", tmp_path / "run", "--config.prepare.source=tables")
    arguments.append(f"--config.prepare.interactions_file={tmp_path / 'log.csv'}")
    arguments.append(f"--config.prepare.items_file={tmp_path / 'items.csv'}")
    assert main(arguments) == 0
    assert main(arguments) == 0
    with (tmp_path / "log.csv").open("a") as file:
        file.write("u7,i1,9\n")
    assert main(arguments) == 2
    assert "SHA-256 of prepare.interactions_file was" in capsys.readouterr().err


def prepare_tables(workdir, log, items, *settings):
    """The verb `prepare` on two CSV files that are written beside the workdir."""
    workdir.parent.mkdir(exist_ok=True)
    arguments = command("prepare", "", workdir, "--config.prepare.source=tables", *settings)
    for name, text in (("interactions", log), ("items", items)):
        (workdir.parent / f"{name}.csv").write_text(text)
        arguments.append(f"--config.prepare.{name}_file={workdir.parent / f'{name}.csv'}")
    return main(arguments)


def test_tables_with_other_column_names_and_limits_that_are_set(tmp_path, capsys):
    log = "userId;movieId;timestamp\n" + "".join(
        f"u{user};m{n};{9 * n + user}\n" for user in range(6) for n in range(6)
    )
    items = "movieId,title\n" + "".join(f"m{n},Tool {n}\n" for n in range(5))
    columns = "--config.prepare.columns=user=userId,item=movieId"
    assert prepare_tables(tmp_path / "run", log, items, columns, "--config.prepare.max_unmatched=.1") == 2
    assert "6 of 36 interactions have no item with a usable title" in capsys.readouterr().err
    assert prepare_tables(tmp_path / "run", log, items, columns) == 0
    # A limit shapes nothing of what is there.
    assert prepare_tables(tmp_path / "run", log, items, columns, "--config.prepare.max_unmatched=.1") == 0
    assert prepare_tables(tmp_path / "run", log, items) == 2
    assert "prepare.columns was 'user=userId,item=movieId'" in capsys.readouterr().err


def test_a_folder_that_was_prepared_with_other_settings_is_refused_with_the_difference(tmp_path, capsys):
    log = "user,item,timestamp\n" + "".join(f"u{user},i{n},{9 * n + user}\n" for user in range(6) for n in range(6))
    items = "item,title\n" + "".join(f"i{n},Tool {n}\n" for n in range(6))
    assert prepare_tables(tmp_path / "run", log, items, "--config.prepare.ties=item") == 0
    assert prepare_tables(tmp_path / "run", log, items, "--config.prepare.ties=item") == 0
    assert prepare_tables(tmp_path / "run", log, items) == 2
    assert "prepare.ties was 'item' and is now 'auto'" in capsys.readouterr().err


def test_words_can_be_made_for_given_sids_and_a_dry_run_makes_none(given, tmp_path, capsys):
    settings = ["--config.index.sids=given", "--config.describe.words=make"]
    assert main([*command("describe", given, tmp_path / "run", *settings), "--dry_run"]) == 0
    assert "asks no model and costs nothing" in capsys.readouterr().out
    assert not (tmp_path / "run" / "describe").exists()
    assert main(command("describe", given, tmp_path / "run", *settings)) == 0
    dataset = read_dataset(tmp_path / "run" / "dataset")
    assert dataset.catalogue.sids == SHOP.catalogue.sids
    assert tuple(dataset.token_descriptions.values()) != tuple(SHOP.token_descriptions)


def test_words_of_paths_are_made_read_and_never_taken_for_words_of_tokens(given, tmp_path, capsys):
    given_sids = "--config.index.sids=given"
    paths = [given_sids, "--config.describe.unit=path"]
    assert main(command("describe", given, tmp_path / "refused", *paths)) == 2
    assert "describes tokens, and config.describe.unit=path; set it to token" in capsys.readouterr().err
    for _ in range(2):
        assert main(command("describe", given, tmp_path / "run", *paths, "--config.describe.words=make")) == 0
    made = read_dataset(tmp_path / "run" / "dataset")
    sids = SHOP.catalogue.sids
    assert set(made.token_descriptions) == {"".join(sid[:length]) for sid in sids for length in (1, 2, 3)}
    made_folder = [given_sids, f"--config.dataset.path={made.path}", "--config.describe.words=given"]
    assert main(command("describe", given, tmp_path / "again", *made_folder)) == 2
    assert "describes paths, and config.describe.unit=token; set it to path" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("--config.index.sids=given",), "shop.index.json is not there"),
        (("--config.describe.words=given",), "it holds no keyword file"),
        (("--config.index.method=kmeans",), "did you mean 'rq_kmeans'"),
        (("--config.index.sizes=(8,0)",), "config.index.sizes[1]=0 must be above 0"),
        (("--config.index.sizes=(4,4)",), "config.index.sizes=(4, 4) makes 4x4 = 16 SIDs for 80 items"),
        (("--config.index.min_perplexity=2.0",), "config.index.min_perplexity=2.0 must lie between 0 and 1"),
        (("--config.describe.max_cost=5.0",), "config.describe.max_cost=5.0 needs the prices"),
        (("--config.index.text_fields=('name',)",), "config.index.text_fields"),
        (("--config.index.max_collision_rate=nan",), "config.index.max_collision_rate=nan: must be a finite number"),
        (("--config.index.min_code_use=95.0",), "config.index.min_code_use=95.0 must lie between 0 and 1"),
        (("--config.train.learning_rate=nan",), "config.train.learning_rate=nan: must be a finite number"),
        (("--config.index.encoder=sentence_transformers",), "needs config.index.model"),
        (("--config.describe.backend=oofline",), "did you mean 'offline'"),
        (("--config.prepare.source=tables", "--config.prepare.split=date"), "prepare.split='date'"),
        (("--config.prepare.source=tables", "--config.prepare.columns=user"), "is not of the form user=NAME"),
        (("--config.prepare.source=tables", "--config.prepare.encoding=ansi-8"), "encoding='ansi-8' is not known"),
        (
            ("--config.prepare.source=amazon2023", "--config.prepare.encoding=cp1252"),
            "are for config.prepare",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(bare, tmp_path, capsys, settings, words):
    assert main(command("describe", bare, tmp_path / "run", *settings)) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run" / "index").exists()


def test_a_dry_run_is_for_the_verb_that_costs_money(bare, tmp_path, capsys):
    assert main([*command("index", bare, tmp_path / "run"), "--dry_run"]) == 2
    assert "--dry_run is for the verb describe" in capsys.readouterr().err
