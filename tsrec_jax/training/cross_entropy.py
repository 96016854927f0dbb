"""Weighted cross entropy over a large vocabulary, with its gradient made in the same pass.

The weights of the loss are known before the logits are, so the gradient of a chunk of logits is known as soon as the
chunk is: it goes into the gradients of the hidden states and of the output table at once, and the chunk is dropped.
So neither are logits kept for the backward pass nor computed twice (the idea of Liger Kernel's fused linear cross
entropy, arXiv 2410.10989).

On a mesh the table is split by rows over the fsdp and tensor axes, and each device computes the logits of its own rows
for all loss slots of its fsdp group (vocabulary-parallel, as in Megatron-LM, arXiv 1909.08053). So what is sent has the
size of hidden states at loss slots, never of the table, whose gradient is summed over the data axis once.

Axes: G groups of rows, P loss slots of a group, D model, V vocabulary rows (v: of one device), c slots of a chunk.
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
) -> tuple[jax.Array, jax.Array]:
    """sum(weight x nll), differentiable in the hidden states and the table, and the nll of each slot.

    Args:
      x_GPD: hidden states at the loss slots, after the final norm, in the compute dtype.
      table_VD: output table; its rows beyond `num_tokens` take no part.
      target_GP: int32 target ids.
      weight_GP: float32; 0 for an empty slot. It gets no gradient.
      num_tokens: ids in use; None: all rows.
      chunk: slots of a group whose logits exist at one time; 0 means all of them.

    Returns:
      The float32 loss, and float32 nll_GP, through which no gradient flows.
    """
    return _weighted_loss(num_tokens, chunk, x_GPD, table_VD, target_GP, weight_GP)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _weighted_loss(num_tokens, chunk, x_GPD, table_VD, target_GP, weight_GP):
    nll_GP, _, _ = _passes(x_GPD, table_VD, target_GP, weight_GP, num_tokens, chunk, False)
    return jnp.sum(nll_GP * weight_GP), nll_GP


def _forward(num_tokens, chunk, x_GPD, table_VD, target_GP, weight_GP):
    nll_GP, dx_GPD, dtable_VD = _passes(x_GPD, table_VD, target_GP, weight_GP, num_tokens, chunk, True)
    return (jnp.sum(nll_GP * weight_GP), nll_GP), (dx_GPD, dtable_VD)


def _backward(_num_tokens, _chunk, gradients, cotangents):
    dx_GPD, dtable_VD = gradients
    scale = cotangents[0]
    return (scale * dx_GPD).astype(dx_GPD.dtype), (scale * dtable_VD).astype(dtable_VD.dtype), None, None


_weighted_loss.defvjp(_forward, _backward)


def _passes(x_GPD, table_VD, target_GP, weight_GP, num_tokens, chunk, gradients):
    """nll_GP, and the gradients of the weighted loss where they are asked for; on the ambient mesh, if there is one."""
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
            gradients=gradients,
        )
    batch, table = RULES.spec("batch"), RULES.spec("vocabulary", None)
    call = jax.shard_map(
        functools.partial(_mesh_passes, limit=limit, chunk=chunk, gradients=gradients),
        in_specs=(batch, table, batch, batch),
        out_specs=(batch, batch, table) if gradients else (batch, None, None),
        check_vma=False,
    )
    return call(x_GPD, table_VD, target_GP, weight_GP)


def _mesh_passes(x_gPD, table_vD, target_gP, weight_gP, *, limit, chunk, gradients):
    """What one device does: its rows of the table for all slots of its fsdp group."""
    gather = functools.partial(lax.all_gather, axis_name="fsdp", axis=0, tiled=True)
    first = lax.axis_index(RULES.vocabulary) * table_vD.shape[0]
    nll, dx, dtable = _local_passes(
        gather(x_gPD), table_vD, gather(target_gP), gather(weight_gP), first,
        limit=limit, chunk=chunk, gradients=gradients, axes=RULES.vocabulary,
    )  # fmt: skip
    mine = lax.axis_index("fsdp") * x_gPD.shape[0]
    nll = lax.dynamic_slice_in_dim(nll, mine, x_gPD.shape[0])
    if not gradients:
        return nll, None, None
    dx = lax.psum(lax.psum_scatter(dx, "fsdp", scatter_dimension=0, tiled=True), "tensor")
    return nll, dx.astype(x_gPD.dtype), lax.psum(dtable, "data")


def _local_passes(x_GPD, table_vD, target_GP, weight_GP, first, *, limit, chunk, gradients, axes=()):
    """The passes over rows `first` and on of the table; `axes` are the mesh axes that hold the other rows."""
    table = table_vD.astype(x_GPD.dtype)
    used_v = first + jnp.arange(table.shape[0]) < limit

    def one_chunk(dtable_vD, slots):
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
            return dtable_vD, (nll_Gc, None)
        weight_n = weight_Gc.reshape(-1)
        dlogits_nv = jnp.exp(logits_nv - norm_n[:, None]) * weight_n[:, None]
        hit_n = jnp.where(here_n, local_n, table.shape[0])
        dlogits_nv = dlogits_nv.at[jnp.arange(len(hit_n)), hit_n].add(-weight_n, mode="drop").astype(x_GcD.dtype)
        dx_GcD = jnp.einsum("nv,vd->nd", dlogits_nv, table, preferred_element_type=jnp.float32).reshape(x_GcD.shape)
        dtable = jnp.einsum("nv,nd->vd", dlogits_nv, flat_nD, preferred_element_type=jnp.float32)
        return dtable_vD + dtable, (nll_Gc, dx_GcD if axes else dx_GcD.astype(x_GcD.dtype))

    groups, slots, _ = x_GPD.shape
    start = jnp.zeros(table_vD.shape if gradients else (), jnp.float32)
    if chunk <= 0 or chunk >= slots:
        dtable_vD, (nll_GP, dx_GPD) = one_chunk(start, (x_GPD, target_GP, weight_GP))
    else:
        short = -slots % chunk

        def pieces(array):
            padded = jnp.pad(array, ((0, 0), (0, short)) + ((0, 0),) * (array.ndim - 2))
            return padded.reshape(groups, -1, chunk, *array.shape[2:]).swapaxes(0, 1)

        def whole(array):
            return array.swapaxes(0, 1).reshape(groups, slots + short, *array.shape[3:])[:, :slots]

        dtable_vD, parts = lax.scan(one_chunk, start, jax.tree.map(pieces, (x_GPD, target_GP, weight_GP)))
        nll_GP, dx_GPD = jax.tree.map(whole, parts)
    return nll_GP, dx_GPD, dtable_vD.astype(table_vD.dtype) if gradients else None
