"""The parameters of a decoder and the arithmetic of one layer, for training and for decoding.

Axis letters: B batch, T tokens, S key positions, D model, F mlp, N query heads, K kv heads, G query heads per kv head
(N = K x G), H head dim, M = N x H, V vocabulary rows, L layers, W beams.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from tsrec_jax.errors import UserError
from tsrec_jax.models.config import Llama3Scaling, ModelConfig
from tsrec_jax.models.int8 import product

Rotation = tuple[jax.Array, jax.Array]  # cosines and sines, float32


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {  # by their names in HF
    "silu": jax.nn.silu,
    "gelu_pytorch_tanh": functools.partial(jax.nn.gelu, approximate=True),
}
INPUT_AXES = {"o": 2}  # kernels with more than one input axis


def layer_shapes(config: ModelConfig) -> dict[str, tuple[tuple[int, ...], tuple[str | None, ...]]]:
    """Shape and logical axes of each parameter of the stacked layers; kernels are (in, out)."""
    layers, d, f = config.num_layers, config.d_model, config.d_mlp
    n, k, h = config.num_heads, config.num_kv_heads, config.head_dim
    shapes: dict[str, tuple[tuple[int, ...], tuple[str | None, ...]]] = {
        "attention_norm": ((layers, d), (None, None)),
        "q": ((layers, d, n, h), (None, "embed", "heads", None)),
        "k": ((layers, d, k, h), (None, "embed", "heads", None)),
        "v": ((layers, d, k, h), (None, "embed", "heads", None)),
        "o": ((layers, n, h, d), (None, "heads", None, "embed")),
        "mlp_norm": ((layers, d), (None, None)),
        "gate": ((layers, d, f), (None, "embed", "mlp")),
        "up": ((layers, d, f), (None, "embed", "mlp")),
        "down": ((layers, f, d), (None, "mlp", "embed")),
    }
    if config.qkv_bias:
        shapes["q_bias"] = ((layers, n, h), (None, "heads", None))
        shapes["k_bias"] = ((layers, k, h), (None, "heads", None))
        shapes["v_bias"] = ((layers, k, h), (None, "heads", None))
    if config.kind.out_norms:
        shapes["attention_out_norm"] = ((layers, d), (None, None))
        shapes["mlp_out_norm"] = ((layers, d), (None, None))
    if config.qk_norm:
        shapes["q_norm"] = ((layers, h), (None, None))
        shapes["k_norm"] = ((layers, h), (None, None))
    return shapes


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[tuple[int, ...], tuple[str | None, ...]]]:
    """Shape and logical axes of every parameter; those of the layers are named `blocks/NAME`."""
    table = ((config.vocab_rows, config.d_model), ("vocabulary", None))
    shapes = {f"blocks/{name}": value for name, value in layer_shapes(config).items()}
    shapes |= {"embedding": table, "final_norm": ((config.d_model,), (None,))}
    return shapes if config.tied else shapes | {"head": table}


def rope_frequencies(config: ModelConfig) -> jax.Array:
    """Inverse frequencies in radians per position, float32 of shape (H / 2,), scaled if that is configured.

    They hold for all layers, or for the global ones if some are local.
    """
    inverse = _frequencies(config.rope_theta, config.head_dim)
    if isinstance(config.rope_scaling, float):
        return inverse / config.rope_scaling
    return inverse if config.rope_scaling is None else _llama3_frequencies(inverse, config.rope_scaling)


def rotations(config: ModelConfig, positions: jax.Array) -> tuple[Rotation, ...]:
    """Cosines and sines, float32 (..., H / 2), at positions of shape (...): for global layers and any local ones."""
    kinds = [rope_frequencies(config)]
    if any(config.local_L):
        kinds.append(_frequencies(config.local_theta, config.head_dim))
    angles = [positions[..., None].astype(jnp.float32) * inverse for inverse in kinds]
    return tuple((jnp.cos(angle), jnp.sin(angle)) for angle in angles)


def check_window(config: ModelConfig, positions: int) -> None:
    """Refuses rows of more positions than a local layer sees: within the window it is like any other layer.

    Raises:
      UserError: the rows are too long; the message says the ways out.
    """
    if config.window is not None and any(config.local_L) and positions > config.window:
        raise UserError(
            f"rows of {positions} positions, and a {config.family} is run up to its sliding window of {config.window}: "
            "lower config.train.sequence_length, config.index.max_tokens or the length of the histories"
        )


def _frequencies(theta: float, head_dim: int) -> jax.Array:
    half = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    return 1.0 / (theta**half)


def _llama3_frequencies(inverse: jax.Array, scaling: Llama3Scaling) -> jax.Array:
    """Long wavelengths are slowed by `factor`, short ones kept, those between blended (Llama 3.1 release notes)."""
    turns = scaling.original_max_positions * inverse / (2 * jnp.pi)
    share = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    share = jnp.clip(share, 0.0, 1.0)
    return share * inverse + (1 - share) * inverse / scaling.factor


def norm(x: jax.Array, scale: jax.Array, config: ModelConfig, axis: int = -1) -> jax.Array:
    """RMSNorm over one axis, in the form of the model's family."""
    return rms_norm(x, scale, config.rms_eps, axis, offset=config.kind.norm_offset)


def rms_norm(x: jax.Array, scale: jax.Array, eps: float, axis: int = -1, *, offset: bool = False) -> jax.Array:
    """RMSNorm over one axis, in float32, scaled in the dtype of x; with `offset` by 1 + scale, in float32."""
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=axis, keepdims=True) + eps)
    if offset:
        return (x32 * (1.0 + _along(scale.astype(jnp.float32), axis, x.ndim))).astype(x.dtype)
    return x32.astype(x.dtype) * _along(scale, axis, x.ndim)


def rotate(x: jax.Array, rotation: Rotation, axis: int = -1) -> jax.Array:
    """Rotary embedding over the axis of H: its two halves rotate; cosines and sines have H / 2 there."""
    cos, sin = rotation
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=axis)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=axis).astype(x.dtype)


def scaled_embedding(rows: jax.Array, config: ModelConfig) -> jax.Array:
    """Rows (..., D) of the input table as the first layer takes them."""
    return rows * jnp.asarray(math.sqrt(config.d_model), rows.dtype) if config.kind.scaled_embedding else rows


def _along(vector: jax.Array, axis: int, ndim: int) -> jax.Array:
    """A vector as an array that broadcasts along one axis of an array of `ndim` axes."""
    return vector.reshape(-1, *(1,) * (ndim - 1 - axis % ndim))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dropout:
    """Zeroes a share of the values in training, and scales the rest to keep the mean (Srivastava et al., 2014).

    Attributes:
      rate: the share, below 1; 0: none.
      key: random key; the same key drops the same values.
    """

    rate: float = dataclasses.field(metadata={"static": True})
    key: jax.Array | None

    def __call__(self, x: jax.Array, place: int) -> jax.Array:
        """x with the dropped values zeroed; another `place` under the same key drops other values."""
        if not self.rate or self.key is None:
            return x
        kept = jax.random.bernoulli(jax.random.fold_in(self.key, place), 1 - self.rate, x.shape)
        return jnp.where(kept, x / (1 - self.rate), jnp.zeros((), x.dtype))

    def under(self, place: int | jax.Array) -> Dropout:
        """Dropout of the same rate that drops other values than this one and those of other places."""
        return self if self.key is None else Dropout(self.rate, jax.random.fold_in(self.key, place))


NO_DROPOUT = Dropout(0.0, None)


class Layout:
    """One layer's arithmetic; the subclasses say how activations and kernels lie in memory.

    The names of a layer's weights, as in `layer_shapes`, say which biases and norms it has.

    Attributes:
      features: the axis of the features in activations.
      head: the axis of H in queries, keys and values.
    """

    features: int
    head: int

    def project(self, x: jax.Array, weights: Mapping[str, jax.Array], name: str) -> jax.Array:
        """Activations times a kernel, plus its bias if it has one."""
        raise NotImplementedError

    def split(self, x: jax.Array, head_dim: int) -> jax.Array:
        """A projection's features as heads."""
        raise NotImplementedError

    def norm(self, x: jax.Array, weights: Mapping[str, jax.Array], name: str, config: ModelConfig) -> jax.Array:
        """Normed activations."""
        return norm(x, weights[name], config, self.features)

    def heads(
        self,
        normed: jax.Array,
        weights: Mapping[str, jax.Array],
        name: str,
        config: ModelConfig,
        rotation: Rotation | None = None,
    ) -> jax.Array:
        """Queries, keys or values (`q`, `k`, `v`), normed if the layer has a norm for them, and rotated."""
        x = self.split(self.project(normed, weights, name), config.head_dim)
        if f"{name}_norm" in weights:
            x = norm(x, weights[f"{name}_norm"], config, self.head)
        if name == "q" and config.query_scale != 1.0:
            x = x * config.query_scale
        return x if rotation is None else rotate(x, rotation, self.head)

    def after_attention(
        self,
        x: jax.Array,
        attended: jax.Array,
        weights: Mapping[str, jax.Array],
        config: ModelConfig,
        dropout: Dropout = NO_DROPOUT,
    ) -> jax.Array:
        """The output projection and the MLP, both with their residuals; `dropout` applies to what is added to x."""
        x = x + dropout(self.added(self.project(attended, weights, "o"), weights, "attention_out_norm", config), 0)
        normed = self.norm(x, weights, "mlp_norm", config)
        activation = ACTIVATIONS[config.kind.activation]
        inner = activation(self.project(normed, weights, "gate")) * self.project(normed, weights, "up")
        return x + dropout(self.added(self.project(inner, weights, "down"), weights, "mlp_out_norm", config), 1)

    def added(self, out: jax.Array, weights: Mapping[str, jax.Array], name: str, config: ModelConfig) -> jax.Array:
        """What attention or MLP add to x: their output, normed if the layer has a norm for it."""
        return self.norm(out, weights, name, config) if name in weights else out


class TrainingRows(Layout):
    """x_BTD, and kernels as `layer_shapes` has them: (in, out), with the heads as axes of their own."""

    features = head = -1

    def project(self, x: jax.Array, weights: Mapping[str, jax.Array], name: str) -> jax.Array:
        """A single product of two matrices, so that its gradient is one too.

        If it were written over three axes, XLA:CPU would transpose both factors of the kernel's gradient.
        """
        kernel, inputs = weights[name], INPUT_AXES.get(name, 1)
        batch, length = x.shape[:2]
        width = math.prod(kernel.shape[:inputs])
        rows = x.reshape(batch * length, width)
        out = rows @ kernel.reshape(width, -1)
        if f"{name}_a" in weights:  # an adapter (models/adapter.py): its product with W itself would be as large as W
            a, b = weights[f"{name}_a"], weights[f"{name}_b"]
            out = out + (rows @ a.reshape(width, -1)) @ b.reshape(b.shape[0], -1)
        out = out.reshape(batch, length, *kernel.shape[inputs:])
        return out + weights[f"{name}_bias"] if f"{name}_bias" in weights else out

    def split(self, x: jax.Array, head_dim: int) -> jax.Array:
        """Unchanged: (B, T, heads, H)."""
        return x


class PromptRows(Layout):
    """x_BSD, and kernels (out, in)."""

    features = head = -1

    def project(self, x: jax.Array, weights: Mapping[str, jax.Array], name: str) -> jax.Array:
        """(B, S, out)."""
        out = product("bsd,md->bsm", x, weights[name], self.features)
        return out + weights[f"{name}_bias"] if f"{name}_bias" in weights else out

    def split(self, x: jax.Array, head_dim: int) -> jax.Array:
        """(B, S, heads, H)."""
        return x.reshape(*x.shape[:2], -1, head_dim)


class BeamColumns(Layout):
    """x_DBW, and kernels (out, in): on a CPU a product of a kernel with a few columns streams the kernel once."""

    features, head = 0, 1

    def project(self, x: jax.Array, weights: Mapping[str, jax.Array], name: str) -> jax.Array:
        """(out, B, W)."""
        out = product("md,dbw->mbw", weights[name], x, self.features)
        return out + _along(weights[f"{name}_bias"], 0, 3) if f"{name}_bias" in weights else out

    def split(self, x: jax.Array, head_dim: int) -> jax.Array:
        """(heads, H, B, W)."""
        return x.reshape(-1, head_dim, *x.shape[1:])
