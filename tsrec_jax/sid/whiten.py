"""PCA whitening of embeddings: a few directions of a language model's states hold most of their variance, but little of
what distinguishes items; scaled to the same variance, the leading directions have equal weight."""

from __future__ import annotations

import dataclasses

import numpy as np

SPANNED = 1e-9  # directions with less than this share of the largest variance are rounding errors


@dataclasses.dataclass(frozen=True)
class Whitening:
    """An affine map of embeddings, kept with the codebooks that were fitted to its output.

    Attributes:
      mean_D: float32.
      projection_DK: float32, from D features to K components.
    """

    mean_D: np.ndarray
    projection_DK: np.ndarray

    def __call__(self, x_ID: np.ndarray) -> np.ndarray:
        """float32 y_IK, each row of length 1; a row equal to the mean stays zero."""
        y_IK = (np.asarray(x_ID, np.float64) - self.mean_D) @ self.projection_DK.astype(np.float64)
        norm_I1 = np.linalg.norm(y_IK, axis=1, keepdims=True)
        return (y_IK / np.where(norm_I1 > 0, norm_I1, 1.0)).astype(np.float32)


def fit_whitening(x_ID: np.ndarray, components: int) -> Whitening:
    """The leading principal components, each scaled to variance 1.

    Args:
      x_ID: float32 embeddings.
      components: K; fewer if the embeddings span less. 0: no rotation and no scaling, only the mean is subtracted.
    """
    x_ID = np.asarray(x_ID, np.float64)
    mean_D = x_ID.mean(axis=0)
    if components == 0:
        return Whitening(mean_D.astype(np.float32), np.eye(x_ID.shape[1], dtype=np.float32))
    centred_ID = x_ID - mean_D
    variances, directions_DD = np.linalg.eigh(centred_ID.T @ centred_ID / len(x_ID))
    variances, directions_DD = variances[::-1], directions_DD[:, ::-1]
    spanned = int((variances > max(SPANNED * variances[0], np.finfo(np.float32).tiny)).sum())
    if not spanned:  # all embeddings are equal
        return Whitening(mean_D.astype(np.float32), np.zeros((x_ID.shape[1], 1), np.float32))
    count = min(components, spanned)
    # An eigenvector's sign is arbitrary: its largest entry is made positive.
    leading_DK = directions_DD[:, :count]
    leading_DK = leading_DK * np.sign(np.take_along_axis(leading_DK, np.abs(leading_DK).argmax(axis=0)[None], axis=0))
    return Whitening(mean_D.astype(np.float32), (leading_DK / np.sqrt(variances[:count])).astype(np.float32))
