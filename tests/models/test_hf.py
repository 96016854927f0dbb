"""Weights in and out: parity with transformers, strict keys, sharded files, and nothing changed on the way."""

import json
import os

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from tests.models.reference import CASES, tiny_tokens, torch_logits, torch_model
from tsrec_jax.errors import UserError
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.hf import load_hf, save_hf
from tsrec_jax.models.sharding import make_mesh


def forward(model, tokens_BT):
    graphdef, state = nnx.split(model)
    return np.asarray(jax.jit(lambda state, tokens: nnx.merge(graphdef, state)(tokens))(state, tokens_BT))


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_that_transformers_computed(case, golden, write_checkpoint):
    facts, weights, tokens_BT, wanted_BTV = golden(case)
    logits_BTV = forward(load_hf(write_checkpoint(facts, weights)), tokens_BT)
    assert np.abs(wanted_BTV).max() > 1
    np.testing.assert_allclose(logits_BTV, wanted_BTV, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_transformers_and_we_read_each_others_folders(case, tmp_path):
    torch = pytest.importorskip("torch", reason="parity with transformers needs torch")
    from transformers import AutoModelForCausalLM

    theirs = torch_model(case, seed=7)
    theirs.save_pretrained(tmp_path / "theirs")
    wanted_BTV = torch_logits(theirs, tiny_tokens(seed=8))
    model = load_hf(tmp_path / "theirs")
    np.testing.assert_allclose(forward(model, tiny_tokens(seed=8)), wanted_BTV, atol=1e-4)
    save_hf(model, tmp_path / "ours")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
    np.testing.assert_array_equal(torch_logits(again, tiny_tokens(seed=8)), wanted_BTV)


@pytest.mark.parametrize("case", CASES)
def test_saving_what_was_loaded_changes_no_bit(case, golden, write_checkpoint, tmp_path):
    facts, weights, _, _ = golden(case)
    save_hf(load_hf(write_checkpoint(facts, weights)), tmp_path / "saved")
    stored = load_file(tmp_path / "saved" / "model.safetensors")
    assert stored.keys() == weights.keys()
    for key, value in weights.items():
        np.testing.assert_array_equal(stored[key], value, err_msg=key)
    written = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert ModelConfig.from_hf(written) == ModelConfig.from_hf(facts)
    assert [path.name for path in sorted((tmp_path / "saved").iterdir())] == ["config.json", "model.safetensors"]


def test_a_model_larger_than_one_file_is_split_and_read_back(golden, write_checkpoint, tmp_path, monkeypatch):
    facts, weights, tokens_BT, _ = golden("qwen2_untied")
    model = load_hf(write_checkpoint(facts, weights, shards=3))
    folder = tmp_path / "saved"
    save_hf(model, folder)
    monkeypatch.setattr("tsrec_jax.models.hf.SHARD_BYTES", 6000)
    save_hf(model, folder)
    assert not (folder / "model.safetensors").exists(), "the older file would be read as well"
    places = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert places.keys() == weights.keys()
    assert len(set(places.values())) > 1
    np.testing.assert_array_equal(forward(load_hf(folder), tokens_BT), forward(model, tokens_BT))


def test_every_fault_of_the_keys_is_named_at_once(golden, write_checkpoint):
    facts, weights, _, _ = golden("llama_tied")
    weights["model.layers.0.self_attn.q_proj.bias"] = np.zeros(24, np.float32)
    weights["model.norm.weight"] = np.ones(15, np.float32)
    del weights["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(UserError) as caught:
        load_hf(write_checkpoint(facts, weights))
    assert "missing model.layers.1.mlp.up_proj.weight" in str(caught.value)
    assert "unused model.layers.0.self_attn.q_proj.bias" in str(caught.value)
    assert "model.norm.weight has shape (15,), not (16,)" in str(caught.value)


def test_a_tied_checkpoint_may_hold_its_table_twice(golden, write_checkpoint):
    facts, weights, tokens_BT, wanted_BTV = golden("qwen3_tied")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    np.testing.assert_allclose(forward(load_hf(write_checkpoint(facts, weights)), tokens_BT), wanted_BTV, atol=1e-4)


def test_the_first_layers_alone_can_be_kept(golden, write_checkpoint):
    facts, weights, tokens_BT, _ = golden("llama_tied")
    whole = write_checkpoint(facts, weights)
    first = {key: value for key, value in weights.items() if ".layers.1." not in key}
    cut = write_checkpoint(facts | {"num_hidden_layers": 1}, first, name="cut")
    model = load_hf(whole, num_layers=1)
    assert model.config.num_layers == 1
    np.testing.assert_array_equal(forward(model, tokens_BT), forward(load_hf(cut), tokens_BT))
    for layers in (0, 3):
        with pytest.raises(UserError, match=f"num_layers={layers}.*2 layers"):
            load_hf(whole, num_layers=layers)


def test_bfloat16_parameters_are_the_rounded_ones(golden, write_checkpoint):
    facts, weights, _, _ = golden("llama_tied")
    folder = write_checkpoint(facts, weights)
    half, mixed = load_hf(folder, dtype="bfloat16"), load_hf(folder, dtype="bfloat16", param_dtype="float32")
    assert half.embedding[...].dtype == "bfloat16"
    np.testing.assert_array_equal(mixed.embedding[...], weights["model.embed_tokens.weight"])
    np.testing.assert_array_equal(half.embedding[...], mixed.embedding[...].astype("bfloat16"))


@pytest.mark.parametrize("case", ["qwen2_tied", "llama_untied_llama3"])
def test_each_device_holds_its_slices_of_what_one_device_holds(case, golden, write_checkpoint):
    facts, weights, _, _ = golden(case)
    folder = write_checkpoint(facts, weights)
    single, sharded = (nnx.state(load_hf(folder, mesh=mesh)) for mesh in (None, make_mesh(data=2, fsdp=2, tensor=2)))
    jax.tree.map(np.testing.assert_array_equal, sharded, single)
    q = sharded["blocks"]["q"][...]
    assert {shard.data.size for shard in q.addressable_shards} == {q.size // 4}


def test_rows_that_the_mesh_does_not_divide_are_filled_up_with_ids_that_are_never_written(
    golden, write_checkpoint, tmp_path
):
    facts, weights, tokens_BT, _ = golden("qwen2_untied")
    for key in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[key] = weights[key][:37]
    folder = write_checkpoint(facts | {"vocab_size": 37}, weights)
    mesh = make_mesh(data=1, fsdp=8, tensor=1)
    with jax.set_mesh(mesh):
        model = load_hf(folder, mesh=mesh)
        got_BTV = forward(model, tokens_BT % 37)
    assert (model.config.vocab_rows, model.num_tokens) == (40, 37)
    np.testing.assert_allclose(got_BTV[..., :37], forward(load_hf(folder), tokens_BT % 37), atol=1e-5)
    assert np.isneginf(got_BTV[..., 37:]).all()
    save_hf(model, tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["vocab_size"] == 37


def test_a_mesh_that_does_not_divide_the_heads_is_refused(golden, write_checkpoint):
    facts, weights, _, _ = golden("qwen2_untied")
    with pytest.raises(UserError, match=r"heads of k \(1\) by tensor=2"):
        load_hf(write_checkpoint(facts, weights), mesh=make_mesh(data=4, fsdp=1, tensor=2))


def test_rows_beyond_the_ids_in_use_are_not_written(golden, write_checkpoint, tmp_path):
    facts, weights, _, _ = golden("llama_tied")
    model = load_hf(write_checkpoint(facts, weights))
    save_hf(model, tmp_path / "saved", num_tokens=33)
    assert load_file(tmp_path / "saved" / "model.safetensors")["model.embed_tokens.weight"].shape == (33, 16)
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["vocab_size"] == 33
    with pytest.raises(ValueError, match="41"):
        save_hf(model, tmp_path / "more", num_tokens=41)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json: not there"),
        (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no *.safetensors file"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"cut"), "not a readable safetensors file"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("[]"), "not an index of shards"),
    ],
)
def test_a_broken_folder_is_named(break_it, words, golden, write_checkpoint):
    facts, weights, _, _ = golden("llama_tied")
    folder = write_checkpoint(facts, weights)
    break_it(folder)
    with pytest.raises(UserError) as caught:
        load_hf(folder)
    assert words in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_hidden_layers": 10**9}, "1000000000 layers cannot be in"),
        ({"intermediate_size": 10**12}, "has shape"),
        ({"num_attention_heads": 10**9, "num_key_value_heads": 10**9}, "has shape"),
    ],
)
def test_sizes_that_would_fill_the_memory_are_refused_before(change, words, golden, write_checkpoint):
    facts, weights, _, _ = golden("llama_tied")
    with pytest.raises(UserError, match=words):
        load_hf(write_checkpoint(facts | change, weights))


@pytest.mark.parametrize("places", [{}, 3, {"a": 3}, {"a": "../model.safetensors"}, {"a": "/etc/passwd"}])
def test_an_index_names_files_of_its_folder_and_nothing_else(places, golden, write_checkpoint):
    facts, weights, _, _ = golden("llama_tied")
    folder = write_checkpoint(facts, weights)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(UserError, match=r"index\.json: not an index of shards"):
        load_hf(folder)


def test_weights_of_a_type_that_is_no_real_number_are_refused(golden, write_checkpoint):
    facts, weights, _, _ = golden("llama_tied")
    weights["model.norm.weight"] = weights["model.norm.weight"].astype(np.int8)
    with pytest.raises(UserError, match=r"model\.norm\.weight is stored as I8; weights are read from F64"):
        load_hf(write_checkpoint(facts, weights))


def test_a_type_that_is_not_known_is_named(golden, write_checkpoint):
    facts, weights, _, _ = golden("llama_tied")
    for types in ({"dtype": "x"}, {"dtype": None}, {"param_dtype": "int8"}):
        with pytest.raises(UserError, match=r"dtype=.*must be one of float32, bfloat16, float16"):
            load_hf(write_checkpoint(facts, weights, name=str(types)), **types)


def test_what_is_written_may_be_read_by_whom_the_umask_lets(make_model, tmp_path):
    before = os.umask(0o022)
    try:
        save_hf(make_model(), tmp_path / "saved")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "saved").iterdir()} == {0o644}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_may_not_be_read_is_said_to_be_that(golden, write_checkpoint, as_somebody_else, name):
    facts, weights, _, _ = golden("llama_tied")
    folder = write_checkpoint(facts, weights)
    (folder / name).chmod(0)
    with as_somebody_else(), pytest.raises(UserError, match=rf"{name}: .*Permission denied"):
        load_hf(folder)


@pytest.mark.parametrize("path", ["absent", "./absent/model", "absent.gguf", "nobody/no-such-model"])
def test_a_path_that_is_nothing_is_refused(path):
    with pytest.raises(UserError, match=r"no such f(ile|older)"):
        load_hf(path)
