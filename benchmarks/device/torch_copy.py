"""A model's weights as transformers' own class on torch, on the same device, without a way over files."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from typing import TYPE_CHECKING

import jax
import numpy as np

from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.hf import hf_arrays

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def why_no_torch() -> str:
    """Why torch cannot be compared with here; empty where it can."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    import torch

    backend = jax.default_backend()
    if backend == "cpu" or (backend == "gpu" and torch.cuda.is_available()):
        return ""
    return f"torch does not compute on the {backend}"


def torch_copy(model: Decoder, dtype: str) -> PreTrainedModel:
    """The decoder's weights in that type with sdpa, ready for inference."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    rows = model.num_tokens or model.config.vocab_rows
    facts = dataclasses.replace(model.config, vocab_rows=rows).to_hf()
    config = AutoConfig.for_model(facts["model_type"], **{k: v for k, v in facts.items() if k != "model_type"})
    device = torch_device()
    with torch.device(device):
        peer = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    state = {key: _tensor(value) for key, value in hf_arrays(model, rows, dtype).items()}
    missing, unknown = peer.load_state_dict(state, strict=False)
    tied = {"lm_head.weight"} if model.config.tied else set()
    if set(missing) - tied or unknown:
        raise RuntimeError(f"the weights do not fit transformers' class: missing {missing}, unknown {unknown}")
    return peer.eval()


def torch_device() -> str:
    """Where torch computes."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def free_bytes() -> int:
    """Memory that torch could still take."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def _tensor(array: np.ndarray):
    """torch knows no NumPy type for bfloat16: its bits travel as integers."""
    import torch

    array = np.ascontiguousarray(array)
    if not array.flags.writeable:
        array = array.copy()
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
