"""An adapter as a folder that the library PEFT loads onto the base model: the factors and the SID tokens' rows."""

from __future__ import annotations

import os
import pathlib

import numpy as np
from safetensors.numpy import save_file
from transformers import PreTrainedTokenizerFast

from tsrec_jax.files import new_folder, write_json
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.hf import hf_name, resolve_folder
from tsrec_jax.models.settings import LAYER_KERNELS
from tsrec_jax.models.sharding import host_copy
from tsrec_jax.models.tokenizer import save_tokenizer
from tsrec_jax.processes import first

ADAPTER_FILE = "adapter_model.safetensors"
_MODEL = "base_model.model."  # what PEFT puts before the names of the base model's modules
_ROWS = ".token_adapter.trainable_tokens_delta"  # rows that replace the table's, despite the name


def export_adapter(
    model: Decoder,
    tokenizer: PreTrainedTokenizerFast,
    base: str | os.PathLike[str],
    base_vocab_size: int,
    folder: str | os.PathLike[str],
) -> None:
    """Writes `adapter_config.json`, `adapter_model.safetensors` and the tokenizer; replaces an older folder entirely.

    Several processes call it together; the first one writes. `peft.PeftModel.from_pretrained` accepts the folder once
    the base model's table has a row for each token (`resize_token_embeddings`). All values are float32. The base is
    named by its absolute path on this machine, or by its hub id and the commit of the copy.

    Args:
      model: the model with an adapter and with the tables of the base model, tied if the base's are, and without
        scales.
      tokenizer: the tokenizer, whose last tokens are the SID tokens.
      base: the pretrained model.
      base_vocab_size: the id of the first SID token.
      folder: where to write.
    """
    adapter = model.adapter
    assert adapter is not None and model.sid_scale is None
    arrays: dict[str, np.ndarray] = {}
    targets = [name for name in LAYER_KERNELS if hasattr(adapter, f"{name}_a")]
    for name in targets:
        a, b = (host_copy(getattr(adapter, f"{name}_{part}")[...]) for part in "ab")
        for layer in range(model.config.num_layers):
            module = _MODEL + _module(f"blocks/{name}", layer)
            arrays[f"{module}.lora_A.weight"] = np.ascontiguousarray(a[layer].reshape(-1, adapter.rank).T)
            arrays[f"{module}.lora_B.weight"] = np.ascontiguousarray(b[layer].reshape(adapter.rank, -1).T)
    tables = {"embedding": model.embedding} | ({} if model.head is None else {"head": model.head})
    for name, table in tables.items():
        rows_nD = host_copy(table[...])[base_vocab_size : len(tokenizer)]
        arrays[_MODEL + _module(name) + _ROWS] = rows_nD.astype(np.float32)
    if not first():
        return
    ids = list(range(base_vocab_size, len(tokenizer)))
    facts = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        **_named(base),
        "inference_mode": True,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": [_last(_module(f"blocks/{name}", 0)) for name in targets],
        "trainable_token_indices": {_last(_module(name)): ids for name in tables},
    }
    with new_folder(pathlib.Path(folder), replace=True) as scratch:
        save_tokenizer(tokenizer, scratch)
        write_json(scratch / "adapter_config.json", facts, indent=1)
        save_file(arrays, scratch / ADAPTER_FILE, metadata={"format": "pt"})
        # Only their owner may read what safetensors writes; all other files follow the umask.
        (scratch / ADAPTER_FILE).chmod((scratch / "adapter_config.json").stat().st_mode)


def _named(base: str | os.PathLike[str]) -> dict[str, str | None]:
    """Where PEFT finds the base model, from any working folder."""
    if pathlib.Path(base).is_dir():
        return {"base_model_name_or_path": str(pathlib.Path(base).absolute()), "revision": None}
    return {"base_model_name_or_path": str(base), "revision": resolve_folder(base).name}  # the folder of a commit


def _module(name: str, layer: int | None = None) -> str:
    """The name in transformers of the module of one of our parameters."""
    return hf_name(name, layer).removesuffix(".weight")


def _last(module: str) -> str:
    return module.rpartition(".")[2]
