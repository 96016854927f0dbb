"""A model that has SID tokens already: they are known by their names, whatever their order, and keep their rows."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.pipeline.small import SMALL
from tsrec_jax.data.text_rows import item_texts
from tsrec_jax.errors import UserError
from tsrec_jax.main import main
from tsrec_jax.models.small_lm import train_tokenizer
from tsrec_jax.models.tokenizer import load_tokenizer
from tsrec_jax.pipeline.sid_tokens import add_sid_tokens, base_tokenizer
from tsrec_jax.shop.shop import make_shop

TEXT = "A travel mug of steel, 350 ml; it's <a_1> and 木材"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    shop = make_shop(seed=1, num_items=70, num_users=40)
    train_tokenizer(item_texts(shop.catalogue.items), folder, vocab_size=600)
    return folder


def extended(plain, folder, tokens):
    """A tokenizer folder as a model has it whose vocabulary was extended by these tokens, in this order."""
    tokenizer = load_tokenizer(plain)
    add_sid_tokens(tokenizer, tokens)
    shutil.copytree(plain, folder)
    tokenizer.save_pretrained(folder)
    return len(load_tokenizer(plain))


def test_tokens_are_known_by_name_and_the_tokenizer_is_that_of_before(plain, tmp_path, capsys):
    size = extended(plain, tmp_path / "model", ["<a_6>", "<b_0>", "<a_7>", "<a_1>", "<z_9>"])
    wanted = ["<a_1>", "<a_2>", "<b_0>"]
    found = base_tokenizer(tmp_path / "model", wanted)
    assert found.known == {"<a_1>": size + 3, "<b_0>": size + 1}
    before = load_tokenizer(plain)
    assert len(found.tokenizer) == size and found.tokenizer.eos_token_id == before.eos_token_id
    assert found.tokenizer(TEXT).input_ids == before(TEXT).input_ids
    add_sid_tokens(found.tokenizer, wanted)
    assert found.tokenizer.convert_tokens_to_ids(wanted) == [size, size + 1, size + 2]
    table_VD = np.arange(size + 5, dtype=np.float32)[:, None] * np.ones(2, np.float32)
    kept_nD = found.kept(wanted, -np.ones((3, 2)), table_VD)
    np.testing.assert_array_equal(kept_nD[:, 0], [size + 3, -1, size + 1])
    said = capsys.readouterr().out
    assert "2 of 3 SID tokens are those of" in said and "1 are new (<a_2>)" in said
    assert "3 of its own are left out (<a_6>, <a_7>, <z_9>)" in said


def test_a_model_without_sid_tokens_is_as_it_was(plain):
    found = base_tokenizer(plain, ["<a_1>"])
    assert not found.known and found.tokenizer(TEXT).input_ids == load_tokenizer(plain)(TEXT).input_ids


def test_sid_tokens_that_are_not_the_last_are_refused(plain, tmp_path):
    extended(plain, tmp_path / "model", ["<a_1>", "<|tool|>"])
    with pytest.raises(UserError, match=r"'<\|tool\|>' stands among or behind the SID tokens"):
        base_tokenizer(tmp_path / "model", ["<a_1>"])


def as_it_is(run, dataset, workdir):
    """The exit code of a run that takes the export of another for its model and trains nothing."""
    given = [f"--config.dataset.path={dataset}", f"--config.model.path={run / 'export'}", "--config.model.trained"]
    sids = ["--config.index.sids=given", "--config.describe.words=given"]
    return main(["run", "--config=quickstart", f"--workdir={workdir}", *SMALL, *given, *sids])


def test_an_export_is_evaluated_and_exported_as_it_is(quickstart_run, tmp_path, capsys):
    assert as_it_is(quickstart_run, quickstart_run / "dataset", tmp_path) == 0
    assert "config.model.trained=True, nothing is trained" in capsys.readouterr().out
    assert not (tmp_path / "checkpoints").exists()
    before, after = (json.loads((run / "predictions.json").read_text()) for run in (quickstart_run, tmp_path))
    assert before == after
    weights, again = (load_file(run / "export" / "model.safetensors") for run in (quickstart_run, tmp_path))
    assert weights.keys() == again.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)


def test_a_trained_model_must_know_all_sid_tokens(quickstart_run, tmp_path, capsys):
    shutil.copytree(quickstart_run / "dataset", tmp_path / "dataset")
    token = min(json.loads((tmp_path / "dataset" / "shop.index.json").read_text()).values())[0]
    for file in (tmp_path / "dataset").iterdir():
        file.write_text(file.read_text().replace(token, "<a_900>"))
    assert as_it_is(quickstart_run, tmp_path / "dataset", tmp_path / "run") == 2
    assert "SID tokens and not '<a_900>'; give the SIDs it was trained with" in capsys.readouterr().err
