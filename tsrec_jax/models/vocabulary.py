"""Vocabulary extension and SA-Init: rows for the SID tokens, made from what their clusters share.

SA-Init (TS-Rec, arXiv 2602.22632): the row of a SID token is the mean pretrained embedding of all sub-words of its
cluster's keywords, rescaled to the mean row norm of the pretrained table.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tsrec_jax.errors import UserError
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.sharding import mesh_of, named_sharding, parts_of

MODES = ("sa", "sa_shuffled", "mean", "hf", "normal")
LANES = 128  # rows are rounded up to a multiple of this times the parts that the mesh splits them into
NORMAL_STD = 0.02
HF_COVARIANCE_SCALE = 1e-9
_NOTHING = 1e-3  # of a row's norm: the keywords of its level are all the same but for rounding


def sid_init_rows(
    table_VD: np.ndarray,
    *,
    keyword_ids: Sequence[Sequence[int]],
    levels_n: np.ndarray,
    init_levels: tuple[int, ...],
    mode: str,
    target_norm: float,
    base_vocab_size: int,
    seed: int,
    centred: bool = False,
) -> np.ndarray:
    """Rows for n new tokens.

    Modes: `sa`, the mean of the rows of all sub-words of a token's keywords, scaled to `target_norm` times the mean row
    norm; `sa_shuffled`, the same with the keywords permuted among the tokens of a level (a control: same rows, wrong
    meaning); `mean`, the mean of all pretrained rows; `normal`, draws from N(0, 0.02^2); `hf`, what
    `resize_token_embeddings` of transformers leaves: padding rows of the table as they are for the ids that fall on
    them, and for ids beyond draws from a normal with the table's mean and 1e-9 times its covariance.

    Args:
      table_VD: the pretrained table, float32, padding rows included.
      keyword_ids: for each new token the sub-word ids of its keywords; read by `sa` and `sa_shuffled` only.
      levels_n: SID level of each new token.
      init_levels: levels that get `mode`; the others get `mean`. Empty: all levels.
      mode: one of MODES.
      target_norm: for `sa` and `sa_shuffled`, in mean row norms of the pretrained rows.
      base_vocab_size: pretrained rows in use (length of the base tokenizer); means and norms are taken over these.
      seed: of the random modes.
      centred: for `sa` and `sa_shuffled`, the mean row of a level's tokens is taken from each of them before it is
        scaled. What all keywords have in common tells no token of a level from another. A token that is alone in its
        level, or whose level has the same keywords throughout, keeps its row.

    Returns:
      float32 rows (n, D).

    Raises:
      UserError: an unknown mode, or a token without keywords in a mode that needs them.
    """
    if mode not in MODES:
        raise UserError(f"sid_init.mode {mode!r} is not one of {', '.join(MODES)}")
    levels_n = np.asarray(levels_n)
    known_VD = np.asarray(table_VD[:base_vocab_size], np.float32)
    mean_D = known_VD.mean(axis=0)
    rng = np.random.default_rng(seed)
    count = len(levels_n)
    chosen_n = np.isin(levels_n, init_levels) if init_levels else np.ones(count, bool)
    if mode in ("sa", "sa_shuffled"):
        rows_nD = _keyword_means(known_VD, keyword_ids, chosen_n)
        rows_nD = _centred(rows_nD, levels_n) if centred else rows_nD
        if mode == "sa_shuffled":
            rows_nD = rows_nD[_shuffled_within_levels(levels_n, rng)]
        norm = target_norm * np.linalg.norm(known_VD, axis=1).mean()
        rows_nD = rows_nD * (norm / np.maximum(np.linalg.norm(rows_nD, axis=1, keepdims=True), 1e-12))
    elif mode == "normal":
        rows_nD = rng.normal(0.0, NORMAL_STD, (count, known_VD.shape[1]))
    elif mode == "hf":
        rows_nD = _resized_rows(np.asarray(table_VD, np.float32), base_vocab_size, count, rng)
    else:
        rows_nD = np.tile(mean_D, (count, 1))
    return np.where(chosen_n[:, None], rows_nD, mean_D).astype(np.float32)


def _keyword_means(known_VD: np.ndarray, keyword_ids: Sequence[Sequence[int]], chosen_n: np.ndarray) -> np.ndarray:
    """Mean row over all sub-words of each token's keywords, so that a long keyword weighs more."""
    rows_nD = np.zeros((len(chosen_n), known_VD.shape[1]), np.float32)
    for index in np.flatnonzero(chosen_n).tolist():
        ids = keyword_ids[index]
        if not len(ids):
            raise UserError(
                f"SID token number {index} has no keywords, which SA-Init needs; give them or use sid_init.mode=mean"
            )
        rows_nD[index] = known_VD[np.asarray(ids)].mean(axis=0)
    return rows_nD


def _centred(rows_nD: np.ndarray, levels_n: np.ndarray) -> np.ndarray:
    """The rows less the mean of their level; a row of which next to nothing is left by that stays as it is."""
    centred_nD = rows_nD.copy()
    for level in np.unique(levels_n):
        members = np.flatnonzero(levels_n == level)
        centred_nD[members] -= rows_nD[members].mean(axis=0)
    left_n = np.linalg.norm(centred_nD, axis=1) > _NOTHING * np.linalg.norm(rows_nD, axis=1)
    return np.where(left_n[:, None], centred_nD, rows_nD)


def _shuffled_within_levels(levels_n: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A permutation of the tokens that keeps each one's level."""
    order_n = np.arange(len(levels_n))
    for level in np.unique(levels_n):
        members = np.flatnonzero(levels_n == level)
        order_n[members] = rng.permutation(members)
    return order_n


def _resized_rows(table_VD: np.ndarray, base_vocab_size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    padding_VD = table_VD[base_vocab_size : base_vocab_size + count]
    mean_D = table_VD.mean(axis=0)
    centred = table_VD - mean_D
    # A draw with covariance c * X'X / V needs no D x D factor: combine the centred rows with normal weights.
    missing = count - len(padding_VD)
    weights = rng.standard_normal((missing, len(table_VD)), np.float32)
    drawn_nD = mean_D + np.sqrt(HF_COVARIANCE_SCALE / len(table_VD)) * (weights @ centred)
    return np.concatenate([padding_VD, drawn_nD])


def table_rows(rows: int, num_tokens: int, parts: int) -> int:
    """Rows of an extended table in so many parts: never fewer than before, and where new, LANES at a time for each."""
    unit = LANES * parts
    return max(rows + -rows % parts, -(-num_tokens // unit) * unit)


def extend_vocabulary(
    model: Decoder,
    *,
    base_vocab_size: int,
    input_rows_nD: np.ndarray,
    output_rows_nD: np.ndarray | None = None,
) -> Decoder:
    """Gives the ids base_vocab_size, base_vocab_size + 1, ... their rows; earlier rows keep their values.

    The table never shrinks. It has room for the new ids rounded up to 128 x the parts that the mesh splits its rows
    into; rows that no id uses get the mean row, and their logits are -inf.

    Args:
      model: a decoder that was not extended before.
      base_vocab_size: length of the base tokenizer, where new ids start (inside a table's padding rows, if it has any).
      input_rows_nD: embedding rows of the new ids.
      output_rows_nD: head rows of the new ids, untied models only; None leaves untied heads at their mean row.

    Returns:
      A new decoder that shares the other parameters.

    Raises:
      ValueError: output rows for a tied model, which has no head of its own, or an old size beyond the table.
    """
    if output_rows_nD is not None and model.head is None:
        raise ValueError("a tied model takes its output rows from the embedding: output_rows_nD must be None")
    rows = model.config.vocab_rows
    if base_vocab_size > rows:
        raise ValueError(f"base_vocab_size {base_vocab_size} is beyond the table's {rows} rows")
    num_tokens = base_vocab_size + len(input_rows_nD)
    mesh = mesh_of(model.embedding[...])
    new_rows = table_rows(rows, num_tokens, parts_of(mesh, "vocabulary"))

    @functools.partial(jax.jit, out_shardings=named_sharding(mesh, "vocabulary", None))
    def extended(table_VD: jax.Array, fresh_nD: np.ndarray) -> jax.Array:
        old_V1 = (jnp.arange(table_VD.shape[0]) < base_vocab_size)[:, None]
        mean_D = jnp.sum(jnp.where(old_V1, table_VD.astype(jnp.float32), 0.0), axis=0) / base_vocab_size
        whole_VD = jnp.where(old_V1, table_VD, mean_D.astype(table_VD.dtype))
        more_VD = jnp.broadcast_to(mean_D, (new_rows - rows, mean_D.shape[0])).astype(table_VD.dtype)
        whole_VD = jnp.concatenate([whole_VD, more_VD])
        return jax.lax.dynamic_update_slice(whole_VD, fresh_nD.astype(table_VD.dtype), (base_vocab_size, 0))

    graphdef, state = nnx.split(model)
    grown = nnx.merge(graphdef, state)
    grown.embedding = nnx.Param(extended(model.embedding[...], np.asarray(input_rows_nD)))
    if model.head is not None:
        none_0D = np.zeros((0, model.config.d_model), np.float32)
        grown.head = nnx.Param(extended(model.head[...], none_0D if output_rows_nD is None else output_rows_nD))
    grown.config = dataclasses.replace(model.config, vocab_rows=new_rows)
    grown.num_tokens = num_tokens
    return grown
