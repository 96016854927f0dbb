"""A toy catalogue, prompts and models for the tests of the second stage, and log-probabilities by full enumeration."""

import unittest.mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tsrec_jax.decoding import trie
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.layers import parameter_shapes
from tsrec_jax.models.sharding import named_sharding

BASE = 24  # ordinary tokens; SID tokens come behind them
SIZES = (3, 4, 4)
NUM_TOKENS = BASE + sum(SIZES)
ITEMS = 20


def make_codes():
    """int32 (ITEMS, 3); the last two items share a SID."""
    rng = np.random.default_rng(0)
    numbers = np.sort(rng.choice(np.prod(SIZES), ITEMS - 1, replace=False))
    codes_IC = np.stack(np.unravel_index(numbers, SIZES), axis=1).astype(np.int32)
    return np.concatenate([codes_IC, codes_IC[-1:]])


CODES_IC = make_codes()
SIDS_UC = np.unique(CODES_IC, axis=0)
FIRSTS = BASE + np.cumsum([0, *SIZES[:-1]])


def make_trie(codes_IC=CODES_IC, dense_slots=trie.DENSE_SLOTS):
    ids = [np.arange(first, first + size, dtype=np.int32) for first, size in zip(FIRSTS, SIZES, strict=True)]
    with unittest.mock.patch.object(trie, "DENSE_SLOTS", dense_slots):
        return Trie.from_codes(codes_IC, SIZES, ids)


def carriers(items):
    """How many items carry the SID of each of these."""
    return (CODES_IC[items][..., None, :] == CODES_IC).all(axis=-1).sum(axis=-1).astype(np.float32)


def make_model(seed=0, mesh=None, spread=0.3, remat=False):
    facts = {"model_type": "qwen3", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "head_dim": 8,
             "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rope_theta": 500.0,
             "rms_norm_eps": 1e-5, "tie_word_embeddings": True}  # fmt: skip
    config = ModelConfig.from_hf(facts)
    rng = np.random.default_rng(seed)
    weights = {
        name: jax.device_put(
            (rng.normal(0.0, spread, shape) + name.endswith("norm")).astype(np.float32), named_sharding(mesh, *axes)
        )
        for name, (shape, axes) in parameter_shapes(config).items()
    }
    return Decoder(config, weights=weights, num_tokens=NUM_TOKENS, remat=remat)


def make_batch(targets=(0, 5, 19, 14), teacher=5, length=12, seed=1):
    """A batch of `PromptBatches` with A = 1: prompts of several lengths, a teacher who ranks items at random."""
    rng = np.random.default_rng(seed)
    lengths_B = rng.integers(3, length + 1, len(targets)).astype(np.int32)
    tokens_BT = rng.integers(1, BASE, (len(targets), length)).astype(np.int32)
    ranked_BM = np.stack([rng.permutation(ITEMS)[:teacher] for _ in targets])
    used_BT = np.arange(length) < lengths_B[:, None]
    made = {
        "tokens_BT": np.where(used_BT, tokens_BT, 0),
        "segment_ids_BT": used_BT.astype(np.int32),
        "lengths_B": lengths_B,
        "target_BC": CODES_IC[list(targets)],
        "items_B": carriers(np.array(targets)),
        "teacher_BMC": CODES_IC[ranked_BM],
        "teacher_gain_BM": (1 / np.log2(2 + np.arange(teacher)) / carriers(ranked_BM)).astype(np.float32),
    }
    return {name: array[None] for name, array in made.items()}


def micro_of(batch):
    return {name: jnp.asarray(array[0]) for name, array in batch.items()}


def enumerated(model, micro):
    """log P(SID | prompt) of every SID, (B, U), and what takes its gradient back to the named ones of the weights.

    Each SID is written out behind its prompt and run by itself; what may follow a prefix is read from the list of SIDs.
    """
    tokens_BT, lengths_B = np.asarray(micro["tokens_BT"]), np.asarray(micro["lengths_B"])
    batch, length = tokens_BT.shape
    levels = np.arange(len(SIZES))
    whole_BUT = np.zeros((batch, len(SIDS_UC), length + len(SIZES)), np.int32)
    whole_BUT[:, :, :length] = tokens_BT[:, None]
    at_B1C = (lengths_B[:, None] + levels)[:, None]
    np.put_along_axis(whole_BUT, np.broadcast_to(at_B1C, (batch, *SIDS_UC.shape)), (FIRSTS + SIDS_UC)[None], axis=2)
    legal_UCV = np.zeros((*SIDS_UC.shape, 40), bool)
    for level in levels:
        same_UU = (SIDS_UC[:, None, :level] == SIDS_UC[None, :, :level]).all(axis=-1)
        for number, same_U in enumerate(same_UU):
            legal_UCV[number, level, FIRSTS[level] + SIDS_UC[same_U, level]] = True
    graphdef, weights = nnx.split(model)

    @jax.jit
    def log_p(weights):
        logits = nnx.merge(graphdef, weights)(jnp.asarray(whole_BUT.reshape(-1, whole_BUT.shape[-1])))
        logits_BUTV = logits.reshape(*whole_BUT.shape, -1)
        logits_BUCV = jnp.take_along_axis(logits_BUTV, jnp.asarray(at_B1C - 1)[..., None], axis=2)
        norm_BUC = jax.nn.logsumexp(logits_BUCV, axis=-1, where=legal_UCV)
        tokens_1UC1 = jnp.asarray(FIRSTS + SIDS_UC)[None, ..., None]
        return jnp.sum(jnp.take_along_axis(logits_BUCV, tokens_1UC1, axis=-1)[..., 0] - norm_BUC, axis=-1)

    log_p_BU, back = jax.vjp(log_p, weights)
    return log_p_BU, lambda slope_BU: named(back(slope_BU)[0])


def named(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def numbers_of(codes):
    """Positions of SIDs in SIDS_UC."""
    known = {tuple(sid): number for number, sid in enumerate(SIDS_UC.tolist())}
    return np.array([known[tuple(sid)] for sid in np.asarray(codes).reshape(-1, len(SIZES)).tolist()]).reshape(
        np.asarray(codes).shape[:-1]
    )


def gradient(function, model):
    """Value and named gradients of a function of a decoder."""
    graphdef, weights = nnx.split(model)
    value, grads = jax.jit(jax.value_and_grad(lambda tree: function(nnx.merge(graphdef, tree))))(weights)
    return float(value), named(grads)
