"""How far training has carried the embeddings of the SID tokens from where SA-Init put them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.sharding import constrain


class Drift:
    """Keeps the initial rows of the SID tokens and compares later ones with them.

    Args:
      model: the decoder before its first step.
      first_id: id of the first SID token; the others follow it.
      levels_n: SID level of each token.
    """

    def __init__(self, model: Decoder, first_id: int, levels_n: np.ndarray):
        self._ids_n = first_id + np.arange(len(levels_n))
        self._levels_n = np.asarray(levels_n)
        self._initial_nD = np.asarray(_rows(model.embedding[...], self._ids_n))

    def __call__(self, model: Decoder) -> dict[str, float]:
        """For each level `drift/cosine_LEVEL`, the mean cosine between a row and its initial value, and
        `drift/norm_LEVEL`, the mean norm of the rows divided by that of the initial ones."""
        now_nD = np.asarray(_rows(model.embedding[...], self._ids_n))
        now_n, initial_n = np.linalg.norm(now_nD, axis=1), np.linalg.norm(self._initial_nD, axis=1)
        cosine_n = np.sum(now_nD * self._initial_nD, axis=1) / np.maximum(now_n * initial_n, 1e-12)
        values = {}
        for level in np.unique(self._levels_n):
            members_n = self._levels_n == level
            values[f"drift/cosine_{level}"] = float(cosine_n[members_n].mean())
            values[f"drift/norm_{level}"] = float(now_n[members_n].mean() / initial_n[members_n].mean())
        return values


@jax.jit
def _rows(table_VD: jax.Array, ids_n: jax.Array) -> jax.Array:
    """float32 rows, the same on every device; the table stays where it lies."""
    return constrain(table_VD[ids_n].astype(jnp.float32), None, None)
