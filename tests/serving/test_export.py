import json

import numpy as np
import pytest
from safetensors import safe_open

from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.prompts import Templates
from tsrec_jax.decoding.generate import search_all
from tsrec_jax.errors import UserError
from tsrec_jax.models.inference import InferenceModel
from tsrec_jax.models.tokenizer import load_tokenizer

FAMILIES = [("llama", True), ("llama", False), ("qwen2", True), ("qwen3", False)]


def test_the_table_has_a_row_for_each_token_and_no_more(exported, trained):
    rows = len(trained.tokenizer)
    assert trained.model.num_tokens == rows < trained.model.config.vocab_rows
    with safe_open(exported / "model.safetensors", framework="numpy") as file:
        table = file.get_tensor("model.embed_tokens.weight")
    np.testing.assert_array_equal(table, np.asarray(trained.model.embedding[...])[:rows])
    assert json.loads((exported / "config.json").read_text())["vocab_size"] == rows


def test_the_tokenizer_keeps_the_ids_of_sids_and_prompts(exported, trained):
    loaded = load_tokenizer(exported)
    tokens = list(trained.catalogue.tokens)
    first = len(trained.tokenizer) - len(tokens)
    assert loaded.convert_tokens_to_ids(tokens) == list(range(first, first + len(tokens)))
    assert len(loaded) == len(trained.tokenizer)
    assert loaded.eos_token_id == trained.tokenizer.eos_token_id
    text = "Pick 12 things.\nHistory: <a_1><b_2><c_3>,<a_4> Straße:\n"
    assert (
        loaded(text, add_special_tokens=False)["input_ids"]
        == (trained.tokenizer(text, add_special_tokens=False)["input_ids"])
    )


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


@pytest.mark.parametrize("normaliser", ["level", "catalogue"])
def test_the_card_warns_where_transformers_ranks_otherwise(trained, tmp_path, normaliser):
    folder = trained.export(tmp_path / "export", normaliser=normaliser)
    assert "The beam search of `transformers` does so over" in (folder / "README.md").read_text(encoding="utf-8")


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
