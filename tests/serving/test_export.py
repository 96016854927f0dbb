import ast
import dataclasses
import json
import os
import re
import subprocess

import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open

from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.prompts import Templates
from tsrec_jax.decoding.generate import search_all
from tsrec_jax.errors import UserError
from tsrec_jax.models.config import special_ids
from tsrec_jax.models.inference import InferenceModel
from tsrec_jax.models.tokenizer import load_tokenizer
from tsrec_jax.models.written_tokenizer import WrittenTokenizer
from tsrec_jax.serving.recommender import Recommender

FAMILIES = [("llama", True), ("llama", False), ("qwen2", True), ("qwen3", False)]


def test_the_table_has_a_row_for_each_token_and_no_more(exported, trained):
    rows = len(trained.tokenizer)
    assert trained.model.num_tokens == rows < trained.model.config.vocab_rows
    with safe_open(exported / "model.safetensors", framework="numpy") as file:
        table = file.get_tensor("model.embed_tokens.weight")
    np.testing.assert_array_equal(table, np.asarray(trained.model.embedding[...])[:rows])
    assert json.loads((exported / "config.json").read_text())["vocab_size"] == rows


def test_the_tokenizer_keeps_the_ids_of_sids_and_prompts(exported, trained, tmp_path):
    loaded = load_tokenizer(exported)
    tokens = list(trained.catalogue.tokens)
    first = len(trained.tokenizer) - len(tokens)
    assert loaded.convert_tokens_to_ids(tokens) == list(range(first, first + len(tokens)))
    assert len(loaded) == len(trained.tokenizer)
    assert loaded.eos_token_id == trained.tokenizer.eos_token_id
    text = "Pick 12 things.\nHistory: <a_1><b_2><c_3>,<a_4> Straße:\n"
    wanted = trained.tokenizer([text], add_special_tokens=False)
    assert loaded([text], add_special_tokens=False)["input_ids"] == wanted["input_ids"]
    facts = json.loads((exported / "tokenizer.json").read_text(encoding="utf-8"))
    facts["truncation"] = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    for name in ("<|end|>", {"content": "<|end|>", "special": True}):
        (tmp_path / "tokenizer.json").write_text(json.dumps(facts), encoding="utf-8")
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": name}), encoding="utf-8")
        served = WrittenTokenizer(tmp_path)
        assert served([text], add_special_tokens=False) == {"input_ids": wanted["input_ids"]}
        assert (len(served), served.eos_token_id) == (len(loaded), loaded.eos_token_id)
        assert served.get_vocab() == loaded.get_vocab()


def test_catalogue_and_prompts_come_back_as_they_were(exported, trained):
    catalogue = Catalogue.from_json(json.loads((exported / "sid_catalogue.json").read_text(encoding="utf-8")))
    assert catalogue == trained.catalogue
    prompts = json.loads((exported / "prompts.json").read_text(encoding="utf-8"))
    assert Templates.from_mapping(prompts["templates"]) == trained.templates
    assert prompts["max_length"] == 64


def test_the_generation_config_samples_nothing_and_penalises_nothing(exported, trained):
    facts = json.loads((exported / "generation_config.json").read_text())
    assert facts == {"do_sample": False, "num_beams": 1, "eos_token_id": trained.tokenizer.eos_token_id}


def test_the_card_states_the_facts(exported):
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert "30 items with 29 distinct" in card
    assert "- seed: 3" in card
    assert "normalised over\nall tokens, as" in card


@pytest.mark.parametrize("normaliser", ["level", "constrained"])
def test_the_card_warns_where_transformers_ranks_otherwise(trained, tmp_path, normaliser):
    folder = trained.export(tmp_path / "export", normaliser=normaliser)
    assert "The beam search of `transformers` does so over" in (folder / "README.md").read_text(encoding="utf-8")


def test_files_follow_the_umask(trained, tmp_path):
    before = os.umask(0o027)
    try:
        folder = trained.export(tmp_path / "export")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o640}


END = 280  # of the trained tokenizer


@pytest.mark.parametrize(
    ("base", "stated"),
    [(None, END), (7, END), ([7, 5], [END, 7, 5]), ([7, END], [END, 7]), ([END], [END])],
)
def test_all_files_state_one_end_which_is_that_of_completions(trained, tmp_path, base, stated):
    ids = {"pad_token_id": 3} | ({} if base is None else {"eos_token_id": base})
    graphdef, state = nnx.split(trained.model)
    model = nnx.merge(graphdef, state)
    model.config = dataclasses.replace(trained.model.config, special_ids=special_ids(ids))
    folder = dataclasses.replace(trained, model=model).export(tmp_path / "export")
    config, generation = (json.loads((folder / f"{name}.json").read_text()) for name in ("config", "generation_config"))
    assert config["eos_token_id"] == generation["eos_token_id"] == stated
    assert config["pad_token_id"] == generation["pad_token_id"] == 3, "the base's, where the tokenizer names none"
    assert Recommender.load(folder).finder.builder.end[-1] == trained.builder.end[-1] == END
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"ends with a newline and the token {END}, the tokenizer's `eos_token`" in card
    assert ("texts also end with 7" in card) == (isinstance(stated, list) and 7 in stated)


HISTORIES = [["B000", "B005", "B009"], ["B003"], [f"B{number:03d}" for number in range(25)]]


def card_block(folder):
    """The block of the card that recommends by transformers alone, for several histories."""
    block = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    shown = json.dumps(HISTORIES[0])
    assert f"histories, beams = [{shown}], 20" in block
    return block.replace(f"[{shown}], 20", f"{HISTORIES!r}, 20")


def check_lists(folder, printed):
    """What the block printed is what the recommender answers; the third history is longer than a prompt."""
    with pytest.warns(UserWarning, match="1 of 3 histories, number 3 first"):
        wanted = Recommender.load(folder).recommend(HISTORIES, k=10)
    for found, row in zip(ast.literal_eval(printed), wanted, strict=True):
        scores = [one.score for one in row]
        assert min(-np.diff(scores)) > 1e-4 or len(set(scores)) < 10, "the test needs distinct scores"
        assert [item for item, _ in found] == [one.item_id for one in row]
        np.testing.assert_allclose([score for _, score in found], scores, atol=1e-4)


@pytest.fixture(scope="module")
def carded(make_trained, tmp_path_factory):
    """Exports of each kind of card."""
    folder = tmp_path_factory.mktemp("cards")
    return {
        (family, normaliser): make_trained(family).export(folder / family, normaliser=normaliser, history=HISTORIES[0])
        for family, normaliser in CARDS
    }


CARDS = [("llama", "vocabulary"), ("qwen2", "constrained")]


@pytest.mark.parametrize("card", CARDS)
def test_the_block_of_the_card_gives_the_recommenders_lists(carded, card, monkeypatch, capsys):
    pytest.importorskip("torch", reason="the card's block needs torch, a test-only extra")
    folder = carded[card]
    monkeypatch.chdir(folder)
    exec(compile(card_block(folder), "README.md", "exec"), {})
    check_lists(folder, capsys.readouterr().out.strip().splitlines()[-1])


@pytest.mark.parametrize("card", CARDS)
def test_the_block_of_the_card_does_so_in_the_older_transformers(carded, card):
    python = os.environ.get("TSREC_TRANSFORMERS_4")
    if not python:
        pytest.skip("needs TSREC_TRANSFORMERS_4, a Python with transformers 4.57 and torch")
    folder = carded[card]
    script = "import transformers\nassert transformers.__version__.startswith('4.57')\n" + card_block(folder)
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([python, "-c", script], cwd=folder, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    check_lists(folder, done.stdout.strip().splitlines()[-1])


def test_the_card_shows_the_prompt_of_a_history(trained, carded):
    card = (carded[CARDS[0]] / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"```text\n(.*?)\n```", card, re.DOTALL).group(1)
    sids = [trained.catalogue.sid(trained.catalogue.item_index(item)) for item in HISTORIES[0]]
    (prompt,) = trained.builder.prompts_next_sid([sids], 3)
    assert trained.tokenizer(shown, add_special_tokens=False)["input_ids"] == prompt
    assert "tsrec serve --export" in card


def test_an_older_export_is_replaced_whole(trained, tmp_path):
    folder = trained.export(tmp_path / "export")
    (folder / "stale.txt").write_text("old")
    trained.export(folder, card_facts={"seed": 4})
    assert not (folder / "stale.txt").exists()
    assert "- seed: 4" in (folder / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_a_folder_of_other_things_is_refused_and_left_alone(trained, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not an export"):
        trained.export(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_failed_export_leaves_the_older_one(trained, tmp_path):
    folder = trained.export(tmp_path / "export")
    with pytest.raises(TypeError):
        trained.export(folder, dtype="no such type")
    assert (folder / "model.safetensors").is_file()
    assert load_tokenizer(folder).eos_token == "<|end|>"


@pytest.mark.parametrize(("family", "tied"), FAMILIES)
def test_transformers_computes_the_same_logits(make_trained, tmp_path, family, tied):
    torch = pytest.importorskip("torch", reason="parity needs torch, a test-only extra")
    from transformers import AutoModelForCausalLM

    trained = make_trained(family, tied)
    folder = trained.export(tmp_path / "export")
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens_BT = np.random.default_rng(0).integers(0, len(trained.tokenizer), (3, 20))
    with torch.no_grad():
        wanted = reference(torch.tensor(tokens_BT)).logits.numpy()
    found = np.asarray(trained.model(tokens_BT.astype(np.int32)))
    np.testing.assert_allclose(found[..., : wanted.shape[-1]], wanted, atol=1e-3)
    assert np.isneginf(found[..., wanted.shape[-1] :]).all()


@pytest.mark.parametrize("beams", [1, 4, 7])
def test_transformers_beam_search_finds_the_same_lists(trained, exported, beams):
    torch = pytest.importorskip("torch", reason="parity needs torch, a test-only extra")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from benchmarks.hf_parity import clear_places, prefix_children, reference_lists

    catalogue, levels = trained.catalogue, trained.catalogue.num_levels
    sids = [[catalogue.sid(item) for item in row] for row in ([0, 5, 9], [3], [11, 12, 13, 14, 2])]
    prompts = trained.builder.prompts_next_sid(sids, levels)
    reference = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    assert beams <= len(prefix_children(catalogue, tokenizer)[()]), "dead beams are no common ground"

    ours = search_all(InferenceModel.of(trained.model), trained.trie, catalogue, prompts, beams=beams, batch_size=3)
    theirs = reference_lists(catalogue, reference, tokenizer, prompts, beams)
    for found, (wanted, scores) in zip(ours, theirs, strict=True):
        if beams == 1:
            assert [found[0][0]] == wanted
            continue
        np.testing.assert_allclose([score for _, score in found], scores, atol=1e-4)
        clear = clear_places(scores)
        assert clear.mean() > 0.7, "the test needs distinct scores"
        assert np.array([sid for sid, _ in found])[clear].tolist() == np.array(wanted)[clear].tolist()
