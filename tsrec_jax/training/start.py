"""The loss at the start of a training, and the scales of the SID tokens' logits that minimise it.

Axes: B rows, T tokens, G groups of rows, P places per group, M places in all, n SID tokens, C SID levels, D model, V
vocabulary, N nodes of the catalogue's trie.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy.optimize import minimize
from scipy.special import logsumexp

from tsrec_jax.data.sid_paths import SidPaths
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.sharding import constrain, host_copy, mesh_of
from tsrec_jax.processes import gather
from tsrec_jax.training.cross_entropy import weighted_loss
from tsrec_jax.training.loop import put_batch

LEAST, MOST = 1e-2, 1e2  # bounds of a scale: at 0 the information in the rows would be lost


@dataclasses.dataclass(frozen=True)
class SidPlaces:
    """A model's outputs at places where a SID token comes next.

    Attributes:
      logits_Mn: float32 logits of the SID tokens.
      rest_M: float32, log of the sum of exponentiated logits of all other tokens.
      node_M: int32, the node (`data.sid_paths`) whose child comes next.
      target_M: int32, the SID token that comes next.
      paths: the SID paths of the catalogue.
    """

    logits_Mn: np.ndarray
    rest_M: np.ndarray
    node_M: np.ndarray
    target_M: np.ndarray
    paths: SidPaths

    def nll(self, objective: str, scales_C: np.ndarray) -> np.ndarray:
        """float64 nll_M, in nats, with each level's logits multiplied by its scale."""
        return self._nll(self._scaled(objective, scales_C), objective)[0]

    def loss(self, objective: str, scales_C: np.ndarray) -> tuple[float, np.ndarray]:
        """The mean of `nll`, and its gradient with respect to the scales."""
        levels_n, places = self.paths.levels_n, len(self.target_M)
        scaled_Mn = self._scaled(objective, scales_C)
        nll_M, norm_M = self._nll(scaled_Mn, objective)
        slope_Mn = np.exp(scaled_Mn - norm_M[:, None]) * self.logits_Mn
        slope_n = slope_Mn.sum(axis=0)
        np.subtract.at(slope_n, self.target_M, self.logits_Mn[np.arange(places), self.target_M])
        return float(np.mean(nll_M)), np.bincount(levels_n, slope_n, minlength=len(scales_C)) / places

    def _scaled(self, objective: str, scales_C: np.ndarray) -> np.ndarray:
        """float64 logits times their scales; -inf for those that the objective excludes."""
        scaled_Mn = self.logits_Mn.astype(np.float64) * np.asarray(scales_C)[self.paths.levels_n]
        if objective == "constrained":
            scaled_Mn[~self.paths.allowed_Nn[self.node_M]] = -np.inf
        return scaled_Mn

    def _nll(self, scaled_Mn: np.ndarray, objective: str) -> tuple[np.ndarray, np.ndarray]:
        """nll_M and the log of its normalising sum."""
        norm_M = logsumexp(scaled_Mn, axis=1)
        norm_M = norm_M if objective == "constrained" else np.logaddexp(self.rest_M, norm_M)
        return norm_M - scaled_Mn[np.arange(len(self.target_M)), self.target_M], norm_M

    def best_scales(self, objective: str) -> np.ndarray:
        """The float32 scales_C between LEAST and MOST that minimise the loss, which is convex in them."""
        found = minimize(
            lambda scales_C: self.loss(objective, scales_C),
            np.ones(self.paths.num_levels),
            jac=True,
            method="L-BFGS-B",
            bounds=[(LEAST, MOST)] * self.paths.num_levels,
        )
        return found.x.astype(np.float32)


def sid_places(
    model: Decoder, batches: Sequence[Mapping[str, np.ndarray]], paths: SidPaths, chunk: int = 0
) -> SidPlaces:
    """The model's outputs wherever packed batches have a SID token to learn. All are in memory at once, so pass few.

    All processes call it together.

    Args:
      model: the decoder.
      batches: this process's rows of `data.input.packed_batches` with these paths, with one right SID token per place.
      paths: the SID paths of the catalogue.
      chunk: places per group whose logits over the vocabulary exist at one time; 0 means all.
    """
    parts = [
        (part.logits_Mn, part.rest_M, part.node_M, part.target_M)
        for part in _places_of_batches(model, batches, paths, chunk)
    ]
    logits_Mn, rest_M, node_M, target_M = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return SidPlaces(logits_Mn, rest_M, node_M, target_M, paths)


def sid_losses(
    model: Decoder, batches: Sequence[Mapping[str, np.ndarray]], paths: SidPaths, chunk: int = 0
) -> dict[str, float]:
    """Mean nats per SID token for both objectives; only the logits of one batch exist at a time.

    The arguments are those of `sid_places`. All processes call it together.
    """
    ones_C = np.ones(paths.num_levels)
    sums, places = dict.fromkeys(("constrained", "vocabulary"), 0.0), 0
    for part in _places_of_batches(model, batches, paths, chunk):
        sums = {objective: total + float(np.sum(part.nll(objective, ones_C))) for objective, total in sums.items()}
        places += len(part.target_M)
    return {objective: total / places for objective, total in sums.items()}


def _places_of_batches(
    model: Decoder, batches: Sequence[Mapping[str, np.ndarray]], paths: SidPaths, chunk: int
) -> Iterator[SidPlaces]:
    """The places of each batch."""
    graphdef, weights = nnx.split(model)
    mesh = mesh_of(weights)
    most = max(gather(max((len(places) for batch in batches for places in _places(batch)), default=1)))
    for batch in batches:
        places = _places(batch)
        index_GP = np.full((len(places), most), -1, np.int32)
        for group, found in enumerate(places):
            index_GP[group, : len(found)] = found
        given = {name: batch[name] for name in _READ} | {"index_GP": index_GP}
        arrays = _at_places(graphdef, weights, put_batch(given, mesh, axis=0), paths, chunk)
        logits_GPn, rest_GP, node_GP, target_GP, used_GP = map(host_copy, arrays)
        yield SidPlaces(logits_GPn[used_GP], rest_GP[used_GP], node_GP[used_GP], target_GP[used_GP], paths)


_READ = ("tokens_BT", "positions_BT", "segment_ids_BT", "sid_node_BT", "sid_target_BTK")


def _places(batch: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """For each group, the places at which a SID token is learned, counted over the group's rows laid end to end."""
    groups = len(batch["loss_index_GP"])
    return [np.flatnonzero(row) for row in (batch["sid_task_BT"] >= 0).reshape(groups, -1)]


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _at_places(
    graphdef: nnx.GraphDef, weights: nnx.State, batch: Mapping[str, jax.Array], paths: SidPaths, chunk: int
) -> tuple[jax.Array, ...]:
    """logits_GPn, rest_GP, node_GP and target_GP at the places of `index_GP`, and which entries are real places."""
    model = nnx.merge(graphdef, weights)
    index_GP, first = batch["index_GP"], paths.first_id
    groups, used_GP = index_GP.shape[0], index_GP >= 0
    index_GP = jnp.maximum(index_GP, 0)

    def at_places(array_BT: jax.Array) -> jax.Array:
        flat_GS = array_BT.reshape(groups, -1, *array_BT.shape[2:])
        places = index_GP.reshape(*index_GP.shape, *(1,) * (array_BT.ndim - 2))
        return constrain(jnp.take_along_axis(flat_GS, places, axis=1), "batch", *(None,) * (places.ndim - 1))

    x_GPD = at_places(model.hidden(batch["tokens_BT"], batch["positions_BT"], batch["segment_ids_BT"]))
    table_VD = model.output_table()
    rows_nD = constrain(table_VD[first : first + len(paths.levels_n)].astype(x_GPD.dtype), None, None)
    logits_GPn = jnp.einsum("gpd,nd->gpn", x_GPD, rows_nD, preferred_element_type=jnp.float32)
    logit_GP = jnp.einsum("gpd,d->gp", x_GPD, table_VD[0].astype(x_GPD.dtype), preferred_element_type=jnp.float32)
    zeros_GP = jnp.zeros(index_GP.shape, jnp.int32)
    # Any token would do in place of token 0: the loss of a token plus its logit is the normaliser.
    _, nll_GP = weighted_loss(x_GPD, table_VD, zeros_GP, zeros_GP.astype(jnp.float32), num_tokens=first, chunk=chunk)
    node_GP, target_GP = at_places(batch["sid_node_BT"]), at_places(batch["sid_target_BTK"][..., 0])
    return logits_GPn, nll_GP + logit_GP, node_GP, target_GP, used_GP
