"""The folder of an adapter: by the formula of PEFT it gives the model that was trained, and PEFT loads it."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from tests.models.reference import GOLDEN
from tsrec_jax.models.adapter import make_adapter
from tsrec_jax.models.hf import load_hf
from tsrec_jax.models.settings import AdapterSettings
from tsrec_jax.models.vocabulary import extend_vocabulary
from tsrec_jax.serving import peft_folder
from tsrec_jax.serving.peft_folder import export_adapter

BASE, SIDS = 40, ["<a_0>", "<a_1>", "<b_0>"]
TOKENS = np.random.default_rng(7).integers(0, BASE + len(SIDS), (2, 12)).astype(np.int32)


@pytest.fixture
def exported(tmp_path):
    """Folders of a golden case and of an adapter for it with random factors, and the logits of both together.

    The base model may be named in another way than by its folder.
    """

    def make(case, named=None):
        base, rng = tmp_path / "base", np.random.default_rng(0)
        base.mkdir()
        with np.load(GOLDEN / f"{case}.npz") as file:
            (base / "config.json").write_text(str(file["config"]))
            weights = {key.removeprefix("weights/"): file[key] for key in file.files if key.startswith("weights/")}
            save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
        words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(BASE)}, unk_token="w0"))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w2")
        tokenizer.add_tokens(SIDS)
        model = load_hf(base)
        rows, head = rng.normal(size=(2, len(SIDS), 16)).astype(np.float32)
        model = extend_vocabulary(
            model, base_vocab_size=BASE, input_rows_nD=rows, output_rows_nD=None if model.head is None else head
        )
        model.adapter = nnx.data(make_adapter(model.config, AdapterSettings(rank=3, alpha=2.0), 0))
        for name in ("q_b", "o_b", "down_b"):
            factor = getattr(model.adapter, name)
            setattr(model.adapter, name, nnx.Param(jnp.asarray(rng.normal(0, 0.3, factor[...].shape), jnp.float32)))
        export_adapter(model, tokenizer, named or base, BASE, tmp_path / "adapter")
        return base, tmp_path / "adapter", np.asarray(model(TOKENS))[..., : BASE + len(SIDS)]

    return make


def merged_by_peft(base, adapter):
    """The arrays of a base model by name, after what PEFT would do with an adapter's folder, and its settings."""
    facts, weights = json.loads((adapter / "adapter_config.json").read_text()), load_file(base / "model.safetensors")
    stored = load_file(adapter / "adapter_model.safetensors")
    for key, value in stored.items():
        module, _, part = key.removeprefix("base_model.model.").partition(
            ".token_adapter." if "token_adapter" in key else ".lora_"
        )
        if part == "A.weight":
            other = stored[key.replace("lora_A", "lora_B")]
            weights[f"{module}.weight"] = weights[f"{module}.weight"] + facts["lora_alpha"] / facts["r"] * other @ value
        elif part == "trainable_tokens_delta":
            first = facts["trainable_token_indices"][module.rpartition(".")[2]][0]
            weights[f"{module}.weight"] = np.concatenate([weights[f"{module}.weight"][:first], value])
    return weights, facts


def assert_the_adapter_is_the_export(base, workdir):
    """Holds `adapter/` in a workdir, on this base model, to `export/`, whose kernels have all learned."""
    exported, before = (load_file(folder / "model.safetensors") for folder in (workdir / "export", base))
    merged, facts = merged_by_peft(base, workdir / "adapter")
    assert set(merged) == set(exported) and facts["base_model_name_or_path"] == str(base)
    moved = [name for name, value in exported.items() if not np.array_equal(value, before[name])]
    assert {name.split(".")[-2] for name in moved if "_proj" in name} == set(facts["target_modules"])
    for name, value in exported.items():
        np.testing.assert_allclose(merged[name], value, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("case", "tables"), [("qwen2_untied", ("embed_tokens", "lm_head")), ("gemma3_tied", ("embed_tokens",))]
)
def test_by_the_formula_of_peft_the_folder_gives_the_trained_model(exported, tmp_path, case, tables):
    base, adapter, wanted_BTV = exported(case)
    weights, facts = merged_by_peft(base, adapter)
    assert facts["trainable_token_indices"] == {key: [40, 41, 42] for key in tables}
    assert set(facts["target_modules"]) == {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}
    merged = tmp_path / "merged"
    merged.mkdir()
    shape = json.loads((base / "config.json").read_text()) | {"vocab_size": 43}
    (merged / "config.json").write_text(json.dumps(shape))
    save_file(weights, merged / "model.safetensors")
    np.testing.assert_allclose(np.asarray(load_hf(merged)(TOKENS)), wanted_BTV, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("named", "revision"), [("base", None), ("Qwen/Qwen2.5-0.5B", "c0ffee")])
def test_the_base_is_named_so_that_another_folder_or_a_newer_commit_changes_nothing(
    exported, tmp_path, monkeypatch, named, revision
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(peft_folder, "resolve_folder", lambda _: pathlib.Path("snapshots/c0ffee"))
    _, adapter, _ = exported("qwen2_tied", named)
    facts = json.loads((adapter / "adapter_config.json").read_text())
    place = named if revision else str(tmp_path / named)
    assert (facts["base_model_name_or_path"], facts["revision"]) == (place, revision)


@pytest.mark.filterwarnings("ignore")  # PEFT's own, and what it calls of transformers
@pytest.mark.parametrize("case", ["qwen2_tied", "qwen2_untied", "gemma3_tied"])
def test_peft_loads_the_folder(exported, case):
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, adapter, wanted_BTV = exported(case)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(len(AutoTokenizer.from_pretrained(adapter)))
    loaded = peft.PeftModel.from_pretrained(model, adapter).eval()
    for each in (loaded, loaded.merge_and_unload()):
        with torch.no_grad():
            found_BTV = each(torch.tensor(TOKENS)).logits.numpy()
        np.testing.assert_allclose(found_BTV, wanted_BTV, rtol=1e-5, atol=1e-4)
