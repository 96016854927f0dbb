"""Item texts to vectors by a sentence-transformers model (the extra `sentence_transformers`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tsrec_jax.errors import UserError


def sentence_encoder(model: str, max_tokens: int) -> Callable[[Sequence[str]], np.ndarray]:
    """A function from texts to float32 x_ID, with the model's own pooling.

    The package does its own tokenizing: a text that spells one of the model's control tokens, such as `[SEP]`, is not
    protected as `encode_outside` protects the language model's texts; only that text's vector suffers.

    Args:
      model: a folder or hub id that sentence-transformers loads.
      max_tokens: largest number of tokens of a text; never more than the model itself reads.

    Raises:
      UserError: the package is not installed, or no such model can be loaded.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise UserError(
            "config.index.encoder='sentence_transformers' needs that package: pip install "
            "'tsrec_jax[sentence_transformers]' (it brings torch)"
        ) from None
    try:
        encoder = SentenceTransformer(model, device="cpu")
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"config.index.model={model!r}: sentence-transformers cannot load it ({reason})") from None
    encoder.max_seq_length = min(max_tokens, encoder.max_seq_length or max_tokens)

    def embed(texts: Sequence[str]) -> np.ndarray:
        return np.asarray(encoder.encode(list(texts), show_progress_bar=False), np.float32)

    return embed
