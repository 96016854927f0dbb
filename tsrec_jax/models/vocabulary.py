"""Vocabulary extension and SA-Init: rows for the SID tokens, made from what the items of each cluster share.

SA-Init (TS-Rec, arXiv 2602.22632): the row of a SID token is the mean pretrained embedding of all sub-words of its
cluster's keywords, rescaled to the mean row norm of the pretrained table. If paths are described instead of tokens, it
is the average over the paths that end in the token, weighted by their number of items. If rows are centred, each path
counts by the difference between its mean and that of its siblings.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tsrec_jax.data.token_words import TokenWords
from tsrec_jax.errors import UserError
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.sharding import mesh_of, named_sharding, parts_of

MODES = ("sa", "mean", "hf", "normal")
LANES = 128  # rows are rounded up to a multiple of this times the parts that the mesh splits them into
NORMAL_STD = 0.02
HF_COVARIANCE_SCALE = 1e-9
_NOTHING = 1e-3  # share of a row's norm below which the keywords of its level differ only by rounding


def sid_init_rows(
    table_VD: np.ndarray,
    *,
    levels_n: np.ndarray,
    init_levels: tuple[int, ...],
    mode: str,
    target_norm: float,
    base_vocab_size: int,
    seed: int,
    words: TokenWords | None = None,
    keyword_ids: Sequence[Sequence[int]] = (),
    centred: bool = False,
) -> np.ndarray:
    """Rows for n new tokens.

    Modes: `sa`, SA-Init, scaled to `target_norm` times the mean row norm; `mean`, the mean of all pretrained rows;
    `normal`, draws from N(0, 0.02^2); `hf`, what `resize_token_embeddings` of transformers leaves: ids that fall on
    padding rows of the table keep those rows, and ids beyond get draws from a normal with the table's mean and 1e-9
    times its covariance.

    Args:
      table_VD: the pretrained table, float32, padding rows included.
      levels_n: SID level of each new token.
      init_levels: levels that get `mode`; the others get `mean`. Empty: all levels.
      mode: one of MODES.
      target_norm: for `sa`, as a multiple of the mean norm of the pretrained rows.
      base_vocab_size: pretrained rows in use (length of the base tokenizer); means and norms are taken over these.
      seed: seed of the random modes.
      words: for `sa`, which of P descriptions speak for which token.
      keyword_ids: for `sa`, the sub-word ids of the keywords of each of these P descriptions.
      centred: for `sa`, subtract from the row of each token or path the mean row of its siblings (itself among them):
        what their keywords have in common distinguishes none of them. A path without siblings then adds nothing. If
        this leaves nothing of a token, the mean row of its level is subtracted instead; if that leaves nothing either
        (it is alone in its level, or all keywords there are the same), it keeps its row.

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
    if mode == "sa":
        if words is None:
            raise ValueError("mode 'sa' needs words")
        rows_nD = _word_rows(known_VD, words, keyword_ids, levels_n, chosen_n, centred)
        norm = target_norm * np.linalg.norm(known_VD, axis=1).mean()
        rows_nD = rows_nD * (norm / np.maximum(np.linalg.norm(rows_nD, axis=1, keepdims=True), 1e-12))
    elif mode == "normal":
        rows_nD = rng.normal(0.0, NORMAL_STD, (count, known_VD.shape[1]))
    elif mode == "hf":
        rows_nD = _resized_rows(np.asarray(table_VD, np.float32), base_vocab_size, count, rng)
    else:
        rows_nD = np.tile(mean_D, (count, 1))
    return np.where(chosen_n[:, None], rows_nD, mean_D).astype(np.float32)


def _word_rows(
    known_VD: np.ndarray,
    words: TokenWords,
    keyword_ids: Sequence[Sequence[int]],
    levels_n: np.ndarray,
    chosen_n: np.ndarray,
    centred: bool,
) -> np.ndarray:
    """Rows of SA-Init before they are scaled; zeros for tokens that are not chosen."""
    has_words_n = np.zeros(len(levels_n), bool)
    has_words_n[words.token_P[[len(ids) > 0 for ids in keyword_ids]]] = True
    if (missing := np.flatnonzero(chosen_n & ~has_words_n)).size:
        raise UserError(
            f"SID token number {missing[0]} has no keywords, which SA-Init needs; give them or use sid_init.mode=mean"
        )
    # The mean is over all sub-words of the keywords, so a long keyword weighs more.
    means_PD = np.zeros((len(keyword_ids), known_VD.shape[1]), np.float32)
    for number, ids in enumerate(keyword_ids):
        if chosen_n[words.token_P[number]] and len(ids):
            means_PD[number] = known_VD[np.asarray(ids)].mean(axis=0)
    rows_nD = _averaged(means_PD, words, len(levels_n))
    if not centred:
        return rows_nD
    own_nD = _averaged(_less_the_mean(means_PD, words.siblings_P), words, len(levels_n))
    for left_nD in (_less_the_mean(rows_nD, levels_n), rows_nD):
        nothing_n = np.linalg.norm(own_nD, axis=1) <= _NOTHING * np.linalg.norm(rows_nD, axis=1)
        own_nD = np.where(nothing_n[:, None], left_nD, own_nD)
    return own_nD


def _averaged(rows_PD: np.ndarray, words: TokenWords, count: int) -> np.ndarray:
    """For each of `count` tokens the mean of the rows that speak for it, weighted by items; zeros if none does."""
    share_P = words.items_P / np.bincount(words.token_P, words.items_P, count)[words.token_P]
    rows_nD = np.zeros((count, rows_PD.shape[1]), np.float32)
    np.add.at(rows_nD, words.token_P, rows_PD * share_P[:, None].astype(np.float32))
    return rows_nD


def _less_the_mean(rows_PD: np.ndarray, group_P: np.ndarray) -> np.ndarray:
    """The rows minus the mean row of their group."""
    _, group_P, size_G = np.unique(group_P, return_inverse=True, return_counts=True)
    sums_GD = np.zeros((len(size_G), rows_PD.shape[1]), np.float32)
    np.add.at(sums_GD, group_P, rows_PD)
    return rows_PD - (sums_GD / size_G.astype(np.float32)[:, None])[group_P]


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
    """Rows of an extended table in `parts` parts: never fewer than before; new ones come in LANES for each part."""
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
      base_vocab_size: length of the base tokenizer, the first new id (inside a table's padding rows, if it has any).
      input_rows_nD: embedding rows of the new ids.
      output_rows_nD: head rows of the new ids, untied models only; None: in an untied head they get its mean row.

    Returns:
      A new decoder that shares the other parameters. Its tables are float32, so that no new row is rounded.

    Raises:
      ValueError: output rows for a tied model, which has no head of its own, or a `base_vocab_size` beyond the table.
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
        table_VD = table_VD.astype(jnp.float32)
        old_V1 = (jnp.arange(table_VD.shape[0]) < base_vocab_size)[:, None]
        mean_D = jnp.sum(jnp.where(old_V1, table_VD, 0.0), axis=0) / base_vocab_size
        whole_VD = jnp.where(old_V1, table_VD, mean_D)
        more_VD = jnp.broadcast_to(mean_D, (new_rows - rows, mean_D.shape[0]))
        whole_VD = jnp.concatenate([whole_VD, more_VD])
        return jax.lax.dynamic_update_slice(whole_VD, fresh_nD.astype(jnp.float32), (base_vocab_size, 0))

    graphdef, state = nnx.split(model)
    grown = nnx.merge(graphdef, state)
    grown.embedding = nnx.Param(extended(model.embedding[...], np.asarray(input_rows_nD)))
    if model.head is not None:
        none_0D = np.zeros((0, model.config.d_model), np.float32)
        grown.head = nnx.Param(extended(model.head[...], none_0D if output_rows_nD is None else output_rows_nD))
    grown.config = dataclasses.replace(model.config, vocab_rows=new_rows)
    grown.num_tokens = num_tokens
    return grown
