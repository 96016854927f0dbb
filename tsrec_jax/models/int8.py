"""Matrices as whole numbers of eight bits with a scale for each row, in a quarter of the memory of float32.

Only weights are stored this way; activations and sums keep the compute dtype. A row makes one output: a channel of a
kernel (out, in), a token of a table. Its largest value becomes 127 or -127, and the others are rounded to the nearest
(LLM.int8(), arXiv 2208.07339, section 2, without its outliers).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

MOST = 127
WEIGHTS = ("full", "int8")  # how a search holds its weights: in the compute dtype, or as here


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8Rows:
    """A matrix of R rows and D columns.

    Attributes:
      codes_RD: int8, -127 to 127.
      scale_R: float32; row r is codes_RD[r] * scale_R[r].
    """

    codes_RD: jax.Array
    scale_R: jax.Array

    @classmethod
    def of(cls, matrix_RD: jax.Array) -> Int8Rows:
        """The nearest matrix of this form; each value is off by at most half a scale."""
        scale_R = jnp.max(jnp.abs(matrix_RD), axis=1).astype(jnp.float32) / MOST
        codes_RD = jnp.round(matrix_RD / jnp.where(scale_R > 0, scale_R, 1.0)[:, None])
        return cls(codes_RD.astype(jnp.int8), scale_R)

    @property
    def shape(self) -> tuple[int, ...]:
        """(R, D)."""
        return self.codes_RD.shape


Matrix = jax.Array | Int8Rows


def rows_of(matrix: Matrix, numbers: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The rows of these numbers, (..., D), in a dtype."""
    if not isinstance(matrix, Int8Rows):
        return jnp.take(matrix, numbers, axis=0)
    scale = jnp.take(matrix.scale_R, numbers)[..., None]
    return (jnp.take(matrix.codes_RD, numbers, axis=0) * scale).astype(dtype)


def product(equation: str, first: Matrix, second: Matrix, axis: int, sums: jnp.dtype | None = None) -> jax.Array:
    """`einsum(equation, first, second)` of a matrix and activations, in whichever order is faster.

    Scales multiply the sums, so that no scaled matrix is made.

    Args:
      equation: for the two operands.
      first, second: a matrix (R, D) and activations; the dtype of the activations is computed in.
      axis: the axis of R in the result.
      sums: dtype of the result; None: that of the activations.
    """
    kind = next(factor.dtype for factor in (first, second) if not isinstance(factor, Int8Rows))
    scale_R, factors = None, []
    for factor in (first, second):
        if isinstance(factor, Int8Rows):
            scale_R, factor = factor.scale_R, factor.codes_RD.astype(kind)
        factors.append(factor)
    if scale_R is None:
        return jnp.einsum(equation, *factors, preferred_element_type=sums)
    out = jnp.einsum(equation, *factors, preferred_element_type=jnp.float32)
    return (out * scale_R.reshape(-1, *(1,) * (out.ndim - 1 - axis % out.ndim))).astype(sums or kind)
