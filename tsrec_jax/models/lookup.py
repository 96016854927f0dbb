"""Rows of a vocabulary table that is split over devices: the tokens travel, not the table."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from tsrec_jax.models.sharding import RULES, parts_of


def rows_of(table_VD: jax.Array, tokens: jax.Array, *, split: bool = True) -> jax.Array:
    """The rows of some ids, (..., D) in the dtype of the table.

    On a mesh (the ambient one, as for `sharding.constrain`) each device looks up the ids that fall on its own rows and
    the results are summed, so that what is sent has the size of the result. The gradient takes the same way back and
    is summed over the data axis once.

    Args:
      table_VD: rows split by `RULES.vocabulary`; D is whole.
      tokens: int32 ids, the first axis the batch.
      split: whether the batch lies over the mesh; one that the mesh does not divide never does.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or parts_of(mesh, "vocabulary") * parts_of(mesh, "batch") == 1:
        return jnp.take(table_VD, tokens, axis=0)
    split = split and tokens.shape[0] % parts_of(mesh, "batch") == 0
    places = RULES.spec("batch", *(None,) * (tokens.ndim - 1)) if split else jax.P()
    look_up = jax.shard_map(
        functools.partial(_own_rows, split=split),
        mesh=mesh,
        in_specs=(RULES.spec("vocabulary", None), places),
        out_specs=places,
    )
    return look_up(table_VD, tokens)


def _own_rows(table_vD: jax.Array, tokens: jax.Array, split: bool) -> jax.Array:
    """One device's part: it holds v rows and, where the batch is split, the tokens of its data and fsdp place."""
    if split:
        tokens = jax.lax.all_gather(tokens, "fsdp", axis=0, tiled=True)
    local = tokens - jax.lax.axis_index(RULES.vocabulary) * table_vD.shape[0]
    own = (local >= 0) & (local < table_vD.shape[0])
    rows = jnp.take(table_vD, jnp.where(own, local, 0), axis=0)
    rows = jnp.where(own[..., None], rows, jnp.zeros((), rows.dtype))
    if not split:
        return jax.lax.psum(rows, RULES.vocabulary)
    return jax.lax.psum_scatter(jax.lax.psum(rows, "tensor"), "fsdp", scatter_dimension=0, tiled=True)
