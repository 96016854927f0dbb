"""Tiny random models with unusual settings, and their logits by transformers.

`python -m tests.models.reference` rewrites the golden files: weights under their Hugging Face names, tokens and the
logits that transformers computes on torch. With them parity is checked where torch is not installed.
"""

import json
import pathlib

import jax
import numpy as np
from flax import nnx

from tsrec_jax.models.config import FAMILIES

GOLDEN = pathlib.Path(__file__).parent / "golden"
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
# name -> (family, settings). The tokens run past position 16, where llama3 scaling shows.
CASES = {
    "gemma3_tied": (
        "gemma3_text",
        {
            "head_dim": 6,
            "query_pre_attn_scalar": 9,
            "sliding_window": 24,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 7.0},
                "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 73.0},
            },
        },
    ),
    "llama_tied": ("llama", {"tie_word_embeddings": True, "head_dim": 6}),
    "llama_untied_llama3": ("llama", {"tie_word_embeddings": False, "head_dim": 8, "rope": LLAMA3}),
    "mistral_untied": ("mistral", {"tie_word_embeddings": False, "head_dim": 6, "sliding_window": None}),
    "qwen2_tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2_untied": ("qwen2", {"tie_word_embeddings": False, "num_key_value_heads": 1}),
    "qwen3_tied": ("qwen3", {"tie_word_embeddings": True, "head_dim": 6}),
    "qwen3_untied": ("qwen3", {"tie_word_embeddings": False, "head_dim": 10, "num_key_value_heads": 4}),
}


def tiny_facts(case: str) -> dict:
    """The `config.json` of a case, in the spelling of transformers 5."""
    family, settings = CASES[case]
    settings = dict(settings)
    rope = settings.pop("rope", {"rope_type": "default"})
    rope = rope if "full_attention" in rope else {**rope, "rope_theta": 73.0}
    activation = {"hidden_act": "silu"} if family != "gemma3_text" else {"hidden_activation": "gelu_pytorch_tanh"}
    return {
        "model_type": family,
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 3e-3,
        "max_position_embeddings": 128,
        **activation,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "rope_parameters": rope,
        **settings,
    }


def torch_model(case: str, seed: int = 0):
    """A random transformers model of a case; weights, norms and biases are all far from their defaults."""
    import torch
    import transformers

    facts = tiny_facts(case)
    kind = facts.pop("model_type")
    config = transformers.CONFIG_MAPPING[kind](**facts)
    model = getattr(transformers, FAMILIES[kind].architecture)(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(0.4 * torch.randn(value.shape, generator=generator) + ("norm" in name))
    return model


def torch_logits(model, tokens_BT: np.ndarray, first_position: int = 0) -> np.ndarray:
    """float32 logits_BTV by transformers."""
    import torch

    positions_BT = torch.arange(tokens_BT.shape[1])[None].expand(tokens_BT.shape) + first_position
    with torch.no_grad():
        return model(torch.tensor(tokens_BT), position_ids=positions_BT, use_cache=False).logits.numpy()


def tiny_tokens(rows: int = 2, length: int = 24, seed: int = 5) -> np.ndarray:
    """int64 ids of the tiny models."""
    return np.random.default_rng(seed).integers(0, 40, (rows, length))


def forward(model, *arrays) -> np.ndarray:
    """Jitted logits of one of our models."""
    graphdef, state = nnx.split(model)
    return np.asarray(jax.jit(lambda state, *arrays: nnx.merge(graphdef, state)(*arrays))(state, *arrays))


def write_golden() -> None:
    """Writes one compressed file for each case."""
    GOLDEN.mkdir(exist_ok=True)
    tokens_BT = tiny_tokens()
    for case in CASES:
        model = torch_model(case)
        weights = {f"weights/{key}": value.numpy() for key, value in model.state_dict().items()}
        if model.config.tie_word_embeddings:
            del weights["weights/lm_head.weight"]
        np.savez_compressed(
            GOLDEN / f"{case}.npz",
            config=json.dumps(tiny_facts(case)),
            tokens_BT=tokens_BT.astype(np.int32),
            logits_BTV=torch_logits(model, tokens_BT),
            **weights,
        )


if __name__ == "__main__":
    write_golden()
