"""Causal attention within segments, behind one interface: XLA, which runs everywhere, and kernels that keep no scores.

`choose` says which backend runs here, `causal_attention` gives its function. Each backend computes the same: a token
sees itself and the earlier tokens of its own segment, so rows that are packed together never see each other.

Axis letters as in `decoder`; S positions, of which the T queries are the last.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType

from tsrec_jax.models import attention_kernels
from tsrec_jax.models.attention_kernels import Kernel
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.sharding import MESH_AXES, RULES, parts_of

SETTINGS = ("auto", "xla", "cudnn", "splash", "pallas")
MASKED = jnp.finfo(jnp.float32).min  # attention only; the constraint of a beam search is -inf
KERNELS: dict[str, Kernel] = {
    "cudnn": attention_kernels.cudnn,
    "pallas": attention_kernels.pallas,
    "splash": attention_kernels.splash,
}
_PLATFORMS = {"cudnn": "gpu", "pallas": "gpu", "splash": "tpu"}
# What `auto` tries, in this order. Kernels round float32 factors on a GPU, so float32 stays with XLA there.
_AUTO = {("gpu", "bfloat16"): ("cudnn", "pallas"), ("tpu", "bfloat16"): ("splash",), ("tpu", "float32"): ("splash",)}
_NEAR = 0.05  # share of the largest value by which rounding in bfloat16 may change a kernel's results
_LOG = logging.getLogger(__name__)
Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def causal_attention(backend: str, keys: int, queries: int, segment_ids_BS: jax.Array | None = None) -> Attend:
    """The attention of a whole stack of layers, which share what it prepares.

    Args:
      backend: a name in SETTINGS other than `auto`; kernels are emulated on a CPU.
      keys, queries: S and T; the queries are the last T positions.
      segment_ids_BS: int32; None: one segment per row.

    Returns:
      A function of rotated q_BTNH, k_BSKH and v_BSKH (N is a multiple of K) that gives out_BTNH in the dtype of q.
    """
    if backend == "xla":
        index_S = jnp.arange(keys)
        mask_BTS = (index_S[keys - queries :, None] >= index_S[None, :])[None]
        if segment_ids_BS is not None:
            own_BTS = segment_ids_BS[:, keys - queries :, None] == segment_ids_BS[:, None, :]
            mask_BTS = mask_BTS & own_BTS
        return functools.partial(attention, mask_BTS=mask_BTS)

    kernel = functools.partial(KERNELS[backend], emulated=jax.default_backend() == "cpu")

    def attend(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array) -> jax.Array:
        # Kernels only know queries and keys of the same positions; the queries that nobody asked for are few.
        q_BSNH = jnp.pad(q_BTNH, ((0, 0), (keys - queries, 0), (0, 0), (0, 0)))
        return _on_mesh(kernel, q_BSNH, k_BSKH, v_BSKH, segment_ids_BS)[:, keys - queries :]

    return attend


def suffix_attention(lengths_B: jax.Array, prompt: int, width: int, own: int) -> Attend:
    """The attention of prompts followed by suffixes, as `causal_attention` gives it, by XLA.

    Args:
      lengths_B: int32 prompt lengths.
      prompt: padded length of the prompts.
      width, own: suffixes per prompt and tokens per suffix; they are laid end to end after the padding.
    """
    index_T = jnp.arange(prompt + width * own)
    suffix_T = jnp.where(index_T < prompt, -1, (index_T - prompt) // max(own, 1))
    causal_TS = index_T[:, None] >= index_T[None]
    own_TS = causal_TS & (suffix_T[:, None] == suffix_T[None])
    read_BS = (index_T < prompt) & (index_T < lengths_B[:, None])
    mask_BTS = own_TS | ((suffix_T >= 0)[:, None] & read_BS[:, None])
    return functools.partial(attention, mask_BTS=mask_BTS)


def attention(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask_BTS: jax.Array) -> jax.Array:
    """Grouped-query attention with a float32 softmax by XLA; keys and values are not repeated.

    The products are batched matrix products with both batch axes in front, the form in which no backend transposes the
    scores (on XLA:CPU they take a quarter of the time of `btkgh,bskh->bkgts`).

    Args:
      q_BTNH, k_BSKH, v_BSKH: rotated queries and keys, and values; N is a multiple of K.
      mask_BTS: bool, True where a query may look; its batch axis may be 1.

    Returns:
      out_BTNH in the dtype of q.
    """
    batch, length, heads, head_dim = q_BTNH.shape
    keys, kv_heads = k_BSKH.shape[1:3]
    shared = heads // kv_heads
    # M = G x T: the queries of all heads that share a kv head.
    q_BKMH = q_BTNH.reshape(batch, length, kv_heads, shared, head_dim).transpose(0, 2, 3, 1, 4)
    q_BKMH = q_BKMH.reshape(batch, kv_heads, shared * length, head_dim)
    k_BKSH, v_BKSH = k_BSKH.swapaxes(1, 2), v_BSKH.swapaxes(1, 2)
    scores_BKMS = jnp.einsum("bkmh,bksh->bkms", q_BKMH, k_BKSH, preferred_element_type=jnp.float32)
    scores_BKGTS = scores_BKMS.reshape(batch, kv_heads, shared, length, keys)
    scores_BKGTS = jnp.where(mask_BTS[:, None, None], scores_BKGTS * head_dim**-0.5, MASKED)
    shares_BKMS = jax.nn.softmax(scores_BKGTS, axis=-1).astype(q_BTNH.dtype).reshape(scores_BKMS.shape)
    out_BKGTH = jnp.einsum("bkms,bksh->bkmh", shares_BKMS, v_BKSH).reshape(batch, kv_heads, shared, length, head_dim)
    return out_BKGTH.transpose(0, 3, 1, 2, 4).reshape(q_BTNH.shape)


def _on_mesh(
    kernel: Kernel, q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array, segment_ids_BT: jax.Array | None
) -> jax.Array:
    """Runs a kernel on each device's rows and heads, since the compiler cannot split one; without a mesh, as it is.

    An axis that the mesh does not divide is computed whole on every device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return kernel(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT)
    batch, heads = (
        _divided(mesh, name, size) for name, size in (("batch", q_BTNH.shape[0]), ("heads", k_BTKH.shape[2]))
    )
    array, ids = RULES.spec(batch, None, heads, None), RULES.spec(batch, None)
    call = jax.shard_map(kernel, in_specs=(array, array, array, ids), out_specs=array, check_vma=False)
    return call(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT)


def _divided(mesh: AbstractMesh, logical: str, size: int) -> str | None:
    return None if size % parts_of(mesh, logical) else logical


def choose(setting: str, config: ModelConfig, dtype: str) -> str:
    """The backend that runs here. One that is not available is replaced by the next one or by XLA; this is logged once.

    A kernel is available if it is made for the platform and, in a trial on the devices, gives what XLA gives for a
    packed row, forward and backward.

    Args:
      setting: a name in SETTINGS. `auto`: the first kernel of the platform that is available, and XLA on a CPU.
      config, dtype: shape and compute type of the model.
    """
    tried = _AUTO.get((jax.default_backend(), dtype), ()) if setting == "auto" else (setting,)
    heads = config.num_heads, config.num_kv_heads, config.head_dim
    faults = []
    for backend in (*tried, "xla"):
        fault = "" if backend == "xla" else _fault(backend, *heads, dtype)
        if not fault:
            break
        faults.append(f"not by {backend}: {fault}")
    if faults:
        _say_once(f"attention is computed by {backend} ({'; '.join(faults)})")
    return backend


@functools.cache
def _say_once(line: str) -> None:
    _LOG.warning(line)


@functools.cache
def _fault(backend: str, heads: int, kv_heads: int, head_dim: int, dtype: str) -> str:
    """Why a kernel is not available on this machine; empty if it is."""
    if jax.default_backend() != _PLATFORMS[backend]:
        return f"it needs a {_PLATFORMS[backend].upper()}"
    if backend == "cudnn" and dtype == "float32":
        return "it does not compute in float32"
    try:
        with ThreadPoolExecutor(1) as thread:  # neither the caller's mesh nor its trace reaches this thread
            off = thread.submit(_on_local_devices, backend, heads, kv_heads, head_dim, dtype).result()
    except Exception as error:  # whatever a driver, a library or a compiler raises
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:200]}"
    return "" if off <= _NEAR else f"its results are {off:.2g} of the largest value off"


def _on_local_devices(backend: str, heads: int, kv_heads: int, head_dim: int, dtype: str) -> float:
    """`largest_difference` computed on a mesh of this process's devices if there are several."""
    sizes, axis_types = (jax.local_device_count(), 1, 1), (AxisType.Auto,) * len(MESH_AXES)
    with jax.set_mesh(jax.make_mesh(sizes, MESH_AXES, axis_types=axis_types, devices=jax.local_devices())):
        return largest_difference(backend, heads, kv_heads, head_dim, dtype)


def largest_difference(backend: str, heads: int, kv_heads: int, head_dim: int, dtype: str) -> float:
    """How far a kernel is from XLA on rows of three segments and padding: outputs and gradients, over the largest.

    NaN counts as infinite.
    """
    batch, length = 2, 160  # more than a block, and not a multiple of one
    segment_ids_BT = jnp.repeat(jnp.array([[1, 2, 3, 0]] * batch, jnp.int32), length // 4, axis=1)
    shapes = [(batch, length, count, head_dim) for count in (heads, kv_heads, kv_heads, heads)]

    def results(backend: str) -> tuple[jax.Array, ...]:
        attend = causal_attention(backend, length, length, segment_ids_BT)
        keys = jax.random.split(jax.random.key(0), 4)
        q, k, v, cotangent = (jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True))
        out, gradient = jax.vjp(attend, q, k, v)
        return jax.tree.map(lambda x: x.astype(jnp.float32), (out, *gradient(cotangent)))

    def share(wanted: jax.Array, got: jax.Array) -> jax.Array:
        return jnp.max(jnp.abs(wanted - got)) / jnp.max(jnp.abs(wanted))

    wanted, got = (jax.jit(results, static_argnums=0)(name) for name in ("xla", backend))
    largest = float(jnp.max(jnp.stack(jax.tree.map(share, wanted, got))))
    return float("inf") if math.isnan(largest) else largest
