"""RQ-VAE: an autoencoder whose latent vector is quantised level by level (Lee et al., 2022; TIGER, arXiv 2305.05065).

Architecture and loss are those of MiniOneRec (arXiv 2510.24431) and LC-Rec (arXiv 2311.09049): a ReLU encoder down to a
small latent, its mirror image as decoder, squared reconstruction error plus codebook and commitment terms. The
reference has widths of (2048, 1024, 512, 256, 128, 64) and steps of 1,024 items for thousands of epochs; the defaults
here are for a few thousand items and minutes on a CPU.

Axis letters: I items, D features, H latent, C levels, E codes of a level, B batch.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tsrec_jax.progress import report
from tsrec_jax.sid.collisions import collision_groups
from tsrec_jax.sid.kmeans import kmeans, nearest
from tsrec_jax.sid.quantisers.residual import ResidualQuantiser
from tsrec_jax.sid.settings import IndexSettings

Parameters = dict[str, jax.Array]
KMEANS_ITERATIONS = 25
COMMITMENT = 0.25  # weight of the term that keeps the latents near their codes
CHECK_EVERY = 10  # epochs between two checks of the collision rate
OPTIMISER = optax.adamw(1e-3, weight_decay=1e-4)


@dataclasses.dataclass(frozen=True)
class RqVae:
    """A trained autoencoder; the `protocol.Quantiser` of `rq_vae`.

    Attributes:
      parameters: float32 arrays `encoder/N/w`, `encoder/N/b`, `decoder/...` and `codebook/LEVEL`.
    """

    parameters: Mapping[str, np.ndarray]

    @classmethod
    def fit(
        cls,
        x_ID: np.ndarray,
        settings: IndexSettings,
        seed: int,
        kept: pathlib.Path | None = None,
    ) -> tuple[Self, np.ndarray]:
        """Trains the autoencoder and returns the state with the fewest collisions (then the least error).

        Codebooks start as k-means centres of the untrained encoder's residuals; a code that no item took for an epoch
        moves to the residual of a random item. The last, smaller batch of an epoch is left out. Nothing is kept.
        """
        x_ID = np.asarray(x_ID, np.float32)
        items_ID = jnp.asarray(x_ID)
        weights_key, codes_key, run_key = jax.random.split(jax.random.key(seed), 3)
        parameters = _initial(x_ID.shape[1], settings, weights_key)
        parameters |= _initial_codebooks(parameters, items_ID, settings.sizes, codes_key)
        moments = OPTIMISER.init(parameters)
        best: tuple[tuple[float, float], Mapping[str, np.ndarray]] | None = None
        epoch = 0
        while best is None or epoch < settings.epochs:
            count = min(CHECK_EVERY, settings.epochs - epoch)
            for _ in range(count):
                run_key, key = jax.random.split(run_key)
                parameters, moments = _epoch(parameters, moments, items_ID, key, settings.batch_size)
            epoch += count
            state = {name: np.asarray(value) for name, value in parameters.items()}
            rate, error, used = _quality(state, x_ID)
            if best is None or (rate, error) < best[0]:
                best = (rate, error), state
            report(
                f"rq_vae epoch {epoch}/{settings.epochs}: collision rate {rate:.4f}, error {error:.3f}, "
                f"codes used {used}"
            )
        fitted = cls(best[1])
        return fitted, fitted.encode(x_ID)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """See `Quantiser`."""
        return cls(dict(arrays))

    def arrays(self) -> dict[str, np.ndarray]:
        """See `Quantiser`."""
        return dict(self.parameters)

    def only(self, codes: Sequence[Sequence[int]]) -> Self:
        """See `Quantiser`."""
        codebooks = {f"codebook/{level}": codebook for level, codebook in enumerate(self._levels.only(codes).codebooks)}
        return dataclasses.replace(self, parameters={**self.parameters, **codebooks})

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of codes on each level."""
        return self._levels.sizes

    def encode(self, x_ID: np.ndarray) -> np.ndarray:
        """int32 codes_IC: at each level the code nearest to the latent's residual."""
        return np.asarray(_encode(_on_device(self.parameters), jnp.asarray(x_ID, jnp.float32))[1])

    def decode(self, codes_IC: np.ndarray) -> np.ndarray:
        """See `Quantiser`."""
        # In NumPy: the number of codes changes with each item that a server codes, and JAX would compile each time.
        return _mlp(self.parameters, "decoder", self._levels.decode(codes_IC), lambda x: np.maximum(x, 0))

    def last_level_costs(self, x_ID: np.ndarray, codes_IC: np.ndarray) -> np.ndarray:
        """See `Quantiser`; distances are those of latents."""
        latent_IH = _encode(_on_device(self.parameters), jnp.asarray(x_ID, jnp.float32))[0]
        return self._levels.last_level_costs(np.asarray(latent_IH), codes_IC)

    @property
    def _levels(self) -> ResidualQuantiser:
        """The codebooks, float32 (E, H), as a quantiser of latents."""
        levels = sum(name.startswith("codebook/") for name in self.parameters)
        return ResidualQuantiser(tuple(self.parameters[f"codebook/{level}"] for level in range(levels)))


def _on_device(parameters: Mapping[str, np.ndarray]) -> Parameters:
    return {name: jnp.asarray(value) for name, value in parameters.items()}


def _initial(features: int, settings: IndexSettings, key: jax.Array) -> Parameters:
    """Weights by Glorot's rule, biases 0."""
    widths = (features, *settings.hidden, settings.latent)
    parameters: Parameters = {}
    draw = jax.nn.initializers.glorot_normal()
    for part, sizes in (("encoder", widths), ("decoder", widths[::-1])):
        for layer, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            key, own = jax.random.split(key)
            parameters[f"{part}/{layer}/w"] = draw(own, (inputs, outputs), jnp.float32)
            parameters[f"{part}/{layer}/b"] = jnp.zeros(outputs)
    return parameters


def _initial_codebooks(parameters: Parameters, x_ID: jax.Array, sizes: tuple[int, ...], key: jax.Array) -> Parameters:
    """k-means centres of the residuals at each level."""
    left_IH = _mlp(parameters, "encoder", x_ID)
    codebooks = {}
    for level, size in enumerate(sizes):
        key, own = jax.random.split(key)
        codebook_EH = kmeans(left_IH, size, own, iterations=KMEANS_ITERATIONS)
        left_IH = left_IH - codebook_EH[nearest(left_IH, codebook_EH)[0]]
        codebooks[f"codebook/{level}"] = codebook_EH
    return codebooks


def _mlp(parameters: Mapping[str, Any], part: str, x: Any, relu: Callable[[Any], Any] = jax.nn.relu) -> Any:
    layers = sum(name.startswith(f"{part}/") for name in parameters) // 2
    for layer in range(layers):
        x = x @ parameters[f"{part}/{layer}/w"] + parameters[f"{part}/{layer}/b"]
        x = x if layer == layers - 1 else relu(x)
    return x


def _quantise(parameters: Parameters, latent_BH: jax.Array) -> tuple[jax.Array, jax.Array, list[jax.Array]]:
    """Sum of the codes' vectors, codes_BC, and the residual before each level."""
    left_BH, total_BH, codes, lefts = latent_BH, jnp.zeros_like(latent_BH), [], []
    for level in range(sum(name.startswith("codebook/") for name in parameters)):
        codebook_EH = parameters[f"codebook/{level}"]
        codes.append(nearest(left_BH, codebook_EH)[0])
        lefts.append(left_BH)
        chosen_BH = codebook_EH[codes[-1]]
        total_BH = total_BH + chosen_BH
        left_BH = left_BH - jax.lax.stop_gradient(chosen_BH)
    return total_BH, jnp.stack(codes, axis=1), lefts


@jax.jit
def _encode(parameters: Parameters, x_ID: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Latents (I, H) and codes_IC."""
    latent_IH = _mlp(parameters, "encoder", x_ID)
    return latent_IH, _quantise(parameters, latent_IH)[1]


def loss(parameters: Parameters, x_BD: jax.Array, commitment: float) -> jax.Array:
    """Reconstruction error through the straight-through estimator, plus codebook and commitment terms of all levels."""
    latent_BH = _mlp(parameters, "encoder", x_BD)
    total_BH, codes_BC, lefts = _quantise(parameters, latent_BH)
    through_BH = latent_BH + jax.lax.stop_gradient(total_BH - latent_BH)
    value = jnp.mean(jnp.square(_mlp(parameters, "decoder", through_BH) - x_BD)) * x_BD.shape[1]
    for level, left_BH in enumerate(lefts):
        chosen_BH = parameters[f"codebook/{level}"][codes_BC[:, level]]
        value += jnp.mean(jnp.square(chosen_BH - jax.lax.stop_gradient(left_BH)))
        value += commitment * jnp.mean(jnp.square(left_BH - jax.lax.stop_gradient(chosen_BH)))
    return value


@functools.partial(jax.jit, static_argnames="batch_size", donate_argnums=(0, 1))
def _epoch(
    parameters: Parameters, moments: optax.OptState, x_ID: jax.Array, key: jax.Array, batch_size: int
) -> tuple[Parameters, optax.OptState]:
    """One pass in a random order, then the revival of codes that no item takes."""
    order_key, revive_key = jax.random.split(key)
    size = min(batch_size, len(x_ID))
    steps = len(x_ID) // size
    batches_SB = jax.random.permutation(order_key, len(x_ID))[: steps * size].reshape(steps, size)

    def step(state: tuple[Parameters, optax.OptState], batch_B: jax.Array):
        parameters, moments = state
        gradients = jax.grad(loss)(parameters, x_ID[batch_B], COMMITMENT)
        updates, moments = OPTIMISER.update(gradients, moments, parameters)
        return (optax.apply_updates(parameters, updates), moments), None

    (parameters, moments), _ = jax.lax.scan(step, (parameters, moments), batches_SB)
    return parameters | _revived(parameters, x_ID, revive_key), moments


def _revived(parameters: Parameters, x_ID: jax.Array, key: jax.Array) -> Parameters:
    """The codebooks, with every code that no item takes moved to a random item's residual on that level."""
    _, codes_IC, lefts = _quantise(parameters, _mlp(parameters, "encoder", x_ID))
    codebooks = {}
    for level, left_IH in enumerate(lefts):
        codebook_EH = parameters[f"codebook/{level}"]
        key, own = jax.random.split(key)
        taken_E = jnp.zeros(len(codebook_EH), bool).at[codes_IC[:, level]].set(True)
        random_EH = left_IH[jax.random.randint(own, (len(codebook_EH),), 0, len(left_IH))]
        codebooks[f"codebook/{level}"] = jnp.where(taken_E[:, None], codebook_EH, random_EH)
    return codebooks


def _quality(parameters: Mapping[str, np.ndarray], x_ID: np.ndarray) -> tuple[float, float, list[int]]:
    """Collision rate, reconstruction error as a share of the variance, and codes used on each level."""
    vae = RqVae(parameters)
    codes_IC = vae.encode(x_ID)
    collided = sum(len(group) - 1 for group in collision_groups(codes_IC))
    error = np.square(x_ID - vae.decode(codes_IC)).sum() / max(np.square(x_ID - x_ID.mean(axis=0)).sum(), 1e-30)
    return collided / len(codes_IC), float(error), [len(np.unique(codes_I)) for codes_I in codes_IC.T]
