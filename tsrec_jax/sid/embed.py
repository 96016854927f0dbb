"""Item texts to vectors: the mean of a language model's last hidden states over a text's tokens."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from tsrec_jax.data.catalogue import Item
from tsrec_jax.data.outside_text import encode_outside
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.sharding import constrain, host_copy, laid_out
from tsrec_jax.progress import Progress
from tsrec_jax.sid.settings import TEXT_FIELDS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BUCKETS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def item_text(item: Item, fields: Sequence[str] = TEXT_FIELDS) -> str:
    """The text of an item that is embedded: its non-empty fields, in order, one per line."""
    return "\n".join(text for text in (" ".join(getattr(item, field).split()) for field in fields) if text)


def embed_texts(
    model: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_tokens: int = 128,
    rows: int = 16,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Mean-pooled last hidden states.

    Each text is preceded by the tokenizer's first special token, which is not pooled: causal models give the first
    position a large state that does not depend on the text, and in a mean it would only reflect the text's length.
    Texts are sorted into buckets of lengths (one compile each). Every device computes the same rows in the same places
    of batches of the same shape, however many devices there are, so that a vector does not depend on them.

    Args:
      model: the language model, after `load_hf`.
      tokenizer: its tokenizer.
      texts: the items' texts; an empty one is embedded as the special token alone.
      max_tokens: largest number of tokens per text; the rest of a longer text is not read.
      rows: number of texts per batch on each device.
      mesh: batches are laid over its data and fsdp axes; None: one device. If it has several processes, all of them
        call this with the same texts.

    Returns:
      float32 x_ID, in the order of the texts.

    Raises:
      FloatingPointError: a vector is not finite.
    """
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    encoded = [ids[:max_tokens] for ids in encode_outside(tokenizer, texts)]
    parts = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    graph, state = nnx.split(model)
    x_ID = np.zeros((len(texts), model.config.d_model), np.float32)
    progress = Progress(len(texts), unit="texts")
    for members, tokens_BT, lengths_B in _batches(encoded, first, rows, parts):
        batch = [laid_out(array, mesh, "batch") for array in (tokens_BT, lengths_B)]
        x_BD = host_copy(_pooled(graph, state, *batch))
        x_ID[members] = x_BD[: len(members)]
        if len(texts) > rows * parts:  # for the few texts that a service embeds, nothing is reported
            progress.tick("embedding", len(members))
    if not np.isfinite(x_ID).all():
        raise FloatingPointError("item embeddings are not finite; the model's weights or activations are broken")
    return x_ID


def _batches(encoded: Sequence[Sequence[int]], first: int, rows: int, parts: int):
    """(texts, tokens_BT, lengths_B) of full batches, longest bucket first; B = rows x parts.

    Groups of `rows` texts are fixed before they are dealt to devices; missing rows and groups repeat the special token.
    """
    members_of: dict[int, list[int]] = {}
    for text in np.argsort([len(ids) for ids in encoded], kind="stable").tolist():
        length = len(encoded[text]) + 1
        bucket = next((size for size in BUCKETS if size >= length), length + -length % BUCKETS[-1])
        members_of.setdefault(bucket, []).append(text)
    for bucket, members in sorted(members_of.items(), reverse=True):
        for start in range(0, len(members), rows * parts):
            batch = members[start : start + rows * parts]
            tokens_BT = np.full((rows * parts, bucket), first, np.int32)
            lengths_B = np.ones(rows * parts, np.int32)
            for row, text in enumerate(batch):
                tokens_BT[row, 1 : len(encoded[text]) + 1] = encoded[text]
                lengths_B[row] = len(encoded[text]) + 1
            yield batch, tokens_BT, lengths_B


@functools.partial(jax.jit, static_argnums=0)
def _pooled(graph: nnx.GraphDef, state: nnx.State, tokens_BT: jax.Array, lengths_B: jax.Array) -> jax.Array:
    """Mean hidden state over the positions 1 to length - 1 of each row; of position 0 if a row has no other."""
    x_BTD = nnx.merge(graph, state).hidden(tokens_BT).astype(jnp.float32)
    index_T = jnp.arange(tokens_BT.shape[1])
    pooled_BT = (index_T < lengths_B[:, None]) & ((index_T > 0) | (lengths_B[:, None] == 1))
    total_BD = jnp.where(pooled_BT[:, :, None], x_BTD, 0.0).sum(axis=1)
    return constrain(total_BD / pooled_BT.sum(axis=1)[:, None], "batch", None)
