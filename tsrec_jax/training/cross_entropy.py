"""Weighted cross entropy over a large vocabulary, with its gradient computed in the same pass.

The weights of the loss are known before the logits, so the gradient of a chunk of logits can be computed as soon as the
chunk is: it is added to the gradients of the hidden states and of the output table at once, and the chunk is dropped.
So logits are neither kept for the backward pass nor computed twice (the idea of Liger Kernel's fused linear cross
entropy, arXiv 2410.10989).

On a mesh the table is split by rows over the fsdp and tensor axes, and each device computes the logits of its own rows
for all loss slots of its fsdp group (vocabulary-parallel, as in Megatron-LM, arXiv 1909.08053). So devices exchange
arrays the size of the hidden states at loss slots, never of the table, whose gradient is summed over the data axis
once.

Axes: G groups of rows, P loss slots per group, D model, V vocabulary rows (v: of one device; w: those that get a
gradient), c slots per chunk.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from tsrec_jax.models.sharding import RULES


def weighted_loss(
    x_GPD: jax.Array,
    table_VD: jax.Array,
    target_GP: jax.Array,
    weight_GP: jax.Array,
    *,
    num_tokens: int | None = None,
    chunk: int = 0,
    frozen_rows: int = 0,
) -> tuple[jax.Array, jax.Array]:
    """sum(weight x nll), differentiable in the hidden states and the table, and the nll of each slot.

    Args:
      x_GPD: hidden states at the loss slots, after the final norm, in the compute dtype.
      table_VD: output table; its rows beyond `num_tokens` are ignored.
      target_GP: int32 target ids.
      weight_GP: float32; 0 for an empty slot. It gets no gradient.
      num_tokens: number of ids in use; None: all rows.
      chunk: slots per group whose logits exist at one time; 0 means all of them.
      frozen_rows: number of rows at the start of the table whose gradient is not needed and is mostly left at 0. Of the
        table's gradient, only that of the other rows is then computed.

    Returns:
      The float32 loss, and float32 nll_GP, through which no gradient flows.
    """
    return _weighted_loss((num_tokens, chunk, frozen_rows), x_GPD, table_VD, target_GP, weight_GP)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _weighted_loss(facts, x_GPD, table_VD, target_GP, weight_GP):
    nll_GP, _, _ = _passes(x_GPD, table_VD, target_GP, weight_GP, facts, False)
    return jnp.sum(nll_GP * weight_GP), nll_GP


def _forward(facts, x_GPD, table_VD, target_GP, weight_GP):
    nll_GP, dx_GPD, dtable_VD = _passes(x_GPD, table_VD, target_GP, weight_GP, facts, True)
    return (jnp.sum(nll_GP * weight_GP), nll_GP), (dx_GPD, dtable_VD)


def _backward(_facts, gradients, cotangents):
    dx_GPD, dtable_VD = gradients
    scale = cotangents[0]
    return (scale * dx_GPD).astype(dx_GPD.dtype), (scale * dtable_VD).astype(dtable_VD.dtype), None, None


_weighted_loss.defvjp(_forward, _backward)


def _passes(x_GPD, table_VD, target_GP, weight_GP, facts, gradients):
    """nll_GP, and the gradients of the weighted loss if they are requested; on the ambient mesh, if there is one.

    The `facts` are the arguments of `weighted_loss` that are not arrays.
    """
    num_tokens, chunk, frozen_rows = facts
    limit = table_VD.shape[0] if num_tokens is None else num_tokens
    if jax.sharding.get_abstract_mesh().empty:
        return _local_passes(
            x_GPD,
            table_VD,
            target_GP,
            weight_GP,
            jnp.zeros((), jnp.int32),
            limit=limit,
            chunk=chunk,
            frozen_rows=frozen_rows,
            gradients=gradients,
        )
    batch, table = RULES.spec("batch"), RULES.spec("vocabulary", None)
    call = jax.shard_map(
        functools.partial(_mesh_passes, limit=limit, chunk=chunk, frozen_rows=frozen_rows, gradients=gradients),
        in_specs=(batch, table, batch, batch),
        out_specs=(batch, batch, table) if gradients else (batch, None, None),
        check_vma=False,
    )
    return call(x_GPD, table_VD, target_GP, weight_GP)


def _mesh_passes(x_gPD, table_vD, target_gP, weight_gP, *, limit, chunk, frozen_rows, gradients):
    """What one device does: its rows of the table for all slots of its fsdp group."""
    gather = functools.partial(lax.all_gather, axis_name="fsdp", axis=0, tiled=True)
    first = lax.axis_index(RULES.vocabulary) * table_vD.shape[0]
    nll, dx, dtable = _local_passes(
        gather(x_gPD), table_vD, gather(target_gP), gather(weight_gP), first,
        limit=limit, chunk=chunk, frozen_rows=frozen_rows, gradients=gradients, axes=RULES.vocabulary,
    )  # fmt: skip
    mine = lax.axis_index("fsdp") * x_gPD.shape[0]
    nll = lax.dynamic_slice_in_dim(nll, mine, x_gPD.shape[0])
    if not gradients:
        return nll, None, None
    dx = lax.psum(lax.psum_scatter(dx, "fsdp", scatter_dimension=0, tiled=True), "tensor")
    return nll, dx.astype(x_gPD.dtype), lax.psum(dtable, "data")


def _local_passes(x_GPD, table_vD, target_GP, weight_GP, first, *, limit, chunk, frozen_rows, gradients, axes=()):
    """The passes over the table's rows from `first` on; `axes` are the mesh axes that hold the other rows.

    The table's gradient is computed for a window that has as many rows as are not frozen and contains all of them.
    """
    table = table_vD.astype(x_GPD.dtype)
    width = min(limit - frozen_rows, len(table)) if frozen_rows else len(table)
    start = jnp.clip(frozen_rows - first, 0, len(table) - width)
    used_v = first + jnp.arange(table.shape[0]) < limit

    def one_chunk(dtable_wD, slots):
        x_GcD, target_Gc, weight_Gc = slots
        flat_nD = x_GcD.reshape(-1, x_GcD.shape[-1])
        target_n = target_Gc.reshape(-1) - first
        logits_nv = jnp.einsum("nd,vd->nv", flat_nD, table, preferred_element_type=jnp.float32)
        logits_nv = jnp.where(used_v, logits_nv, -jnp.inf)
        top_n = logits_nv.max(axis=1)
        top_n = lax.pmax(top_n, axes) if axes else top_n
        total_n = jnp.sum(jnp.exp(logits_nv - top_n[:, None]), axis=1)
        here_n = (target_n >= 0) & (target_n < table.shape[0])
        local_n = jnp.clip(target_n, 0, table.shape[0] - 1)
        picked_n = jnp.where(here_n, jnp.take_along_axis(logits_nv, local_n[:, None], axis=1)[:, 0], 0.0)
        total_n, picked_n = lax.psum((total_n, picked_n), axes) if axes else (total_n, picked_n)
        norm_n = top_n + jnp.log(total_n)
        nll_Gc = (norm_n - picked_n).reshape(target_Gc.shape)
        if not gradients:
            return dtable_wD, (nll_Gc, None)
        weight_n = weight_Gc.reshape(-1)
        dlogits_nv = jnp.exp(logits_nv - norm_n[:, None]) * weight_n[:, None]
        hit_n = jnp.where(here_n, local_n, table.shape[0])
        dlogits_nv = dlogits_nv.at[jnp.arange(len(hit_n)), hit_n].add(-weight_n, mode="drop").astype(x_GcD.dtype)
        dx_GcD = jnp.einsum("nv,vd->nd", dlogits_nv, table, preferred_element_type=jnp.float32).reshape(x_GcD.shape)
        learned_nw = lax.dynamic_slice_in_dim(dlogits_nv, start, width, axis=1)
        dtable = jnp.einsum("nw,nd->wd", learned_nw, flat_nD, preferred_element_type=jnp.float32)
        return dtable_wD + dtable, (nll_Gc, dx_GcD if axes else dx_GcD.astype(x_GcD.dtype))

    groups, slots, _ = x_GPD.shape
    zeros = jnp.zeros((width, table.shape[1]) if gradients else (), jnp.float32)
    if chunk <= 0 or chunk >= slots:
        dtable_wD, (nll_GP, dx_GPD) = one_chunk(zeros, (x_GPD, target_GP, weight_GP))
    else:
        short = -slots % chunk

        def pieces(array):
            padded = jnp.pad(array, ((0, 0), (0, short)) + ((0, 0),) * (array.ndim - 2))
            return padded.reshape(groups, -1, chunk, *array.shape[2:]).swapaxes(0, 1)

        def whole(array):
            return array.swapaxes(0, 1).reshape(groups, slots + short, *array.shape[3:])[:, :slots]

        dtable_wD, parts = lax.scan(one_chunk, zeros, jax.tree.map(pieces, (x_GPD, target_GP, weight_GP)))
        nll_GP, dx_GPD = jax.tree.map(whole, parts)
    if not gradients:
        return nll_GP, dx_GPD, None
    dtable_wD = dtable_wD.astype(table_vD.dtype)
    if width == len(table):
        return nll_GP, dx_GPD, dtable_wD
    return nll_GP, dx_GPD, lax.dynamic_update_slice_in_dim(jnp.zeros_like(table_vD), dtable_wD, start, axis=0)
