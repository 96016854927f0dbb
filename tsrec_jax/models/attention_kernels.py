"""The kernels of `attention`, from JAX's own library, with one interface: causal self-attention within segments.

All take rotated q_BTNH, k_BTKH and v_BTKH, N a multiple of K, and int32 segment ids (None: one segment per row), and
return out_BTNH in the dtype of q. If a kernel needs larger shapes, zeros are added after the positions, in a segment of
their own, and after the features; they change no score. `emulated`: the same computation on a CPU.
"""

from __future__ import annotations

from typing import Protocol

import jax
import jax.numpy as jnp

GPU_BLOCK = 128  # most positions that a program of the Pallas kernel for GPUs works on
SPLASH_BLOCKS = (512, 256, 128)  # the largest that divides the positions
LANES = 128  # width of a TPU's vectors
_BEHIND = -1  # segment of the positions that are added


class Kernel(Protocol):
    """One of the functions below."""

    def __call__(
        self,
        q_BTNH: jax.Array,
        k_BTKH: jax.Array,
        v_BTKH: jax.Array,
        segment_ids_BT: jax.Array | None,
        emulated: bool = ...,
    ) -> jax.Array: ...


def cudnn(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    segment_ids_BT: jax.Array | None,
    emulated: bool = False,
) -> jax.Array:
    """cuDNN's flash attention. It does not know segments, so they are passed as a mask, which is added to the scores.

    Raises:
      NotImplementedError, RuntimeError: there is no cuDNN, or it does not support these heads.
    """
    length, head_dim = q_BTNH.shape[1], q_BTNH.shape[3]
    sizes = length + length % 2, head_dim + -head_dim % 8
    mask_B1TS = None
    if segment_ids_BT is not None:
        ids_BT = _behind(segment_ids_BT, sizes[0])
        mask_B1TS = (ids_BT[:, :, None] == ids_BT[:, None, :])[:, None]
    q, k, v = (_padded(x, *sizes) for x in (q_BTNH, k_BTKH, v_BTKH))
    out_BTNH = jax.nn.dot_product_attention(
        q,
        k,
        v,
        mask=mask_B1TS,
        scale=head_dim**-0.5,
        is_causal=True,
        implementation="xla" if emulated else "cudnn",
    )
    return out_BTNH[:, :length, :, :head_dim]


def pallas(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    segment_ids_BT: jax.Array | None,
    emulated: bool = False,
) -> jax.Array:
    """The Pallas kernel for GPUs. It needs blocks of a power of two, and a key head for each query head."""
    from jax.experimental.pallas.ops.gpu.attention import mha

    length, (heads, head_dim) = q_BTNH.shape[1], q_BTNH.shape[2:]
    positions = length + -length % GPU_BLOCK if length > GPU_BLOCK else _power_of_two(length)
    sizes = positions, _power_of_two(head_dim)
    k_BTNH, v_BTNH = (jnp.repeat(x, heads // x.shape[2], axis=2) for x in (k_BTKH, v_BTKH))
    out_BTNH = mha(
        *(_padded(x, *sizes) for x in (q_BTNH, k_BTNH, v_BTNH)),
        None if segment_ids_BT is None else _behind(segment_ids_BT, positions),
        sm_scale=head_dim**-0.5,
        causal=True,
        interpret=emulated,
    )
    return out_BTNH[:, :length, :, :head_dim]


def splash(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    segment_ids_BT: jax.Array | None,
    emulated: bool = False,
) -> jax.Array:
    """Splash attention, the Pallas kernel for TPUs, which skips the blocks above the diagonal."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    length, (heads, head_dim) = q_BTNH.shape[1], q_BTNH.shape[2:]
    sizes = length + -length % LANES, head_dim + -head_dim % LANES
    block = next(size for size in SPLASH_BLOCKS if sizes[0] % size == 0)
    kernel = kernels.make_splash_mha(
        masks.MultiHeadMask([masks.CausalMask((sizes[0], sizes[0]))] * heads),
        block_sizes=kernels.BlockSizes(*(block,) * 8),
        head_shards=1,
        q_seq_shards=1,
        interpret=emulated,
    )
    q_BNTH, k_BKTH, v_BKTH = (_padded(x, *sizes).swapaxes(1, 2) for x in (q_BTNH * head_dim**-0.5, k_BTKH, v_BTKH))
    ids = None
    if segment_ids_BT is not None:
        ids_BT = _behind(segment_ids_BT, sizes[0])
        ids = kernels.SegmentIds(ids_BT, ids_BT)
    out_BNTH = jax.vmap(kernel)(q_BNTH, k_BKTH, v_BKTH, ids)
    return out_BNTH.swapaxes(1, 2)[:, :length, :, :head_dim]


def _power_of_two(size: int) -> int:
    """The first power of two that is not below `size`, at least 16: the smallest side of a GPU's matrix product."""
    return max(16, 1 << (size - 1).bit_length())


def _padded(x_BTNH: jax.Array, positions: int, features: int) -> jax.Array:
    behind = (0, positions - x_BTNH.shape[1]), (0, 0), (0, features - x_BTNH.shape[3])
    return jnp.pad(x_BTNH, ((0, 0), *behind))


def _behind(segment_ids_BT: jax.Array, positions: int) -> jax.Array:
    padding = ((0, 0), (0, positions - segment_ids_BT.shape[1]))
    return jnp.pad(segment_ids_BT, padding, constant_values=_BEHIND)
