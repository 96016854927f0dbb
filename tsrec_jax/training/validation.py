"""What a validation measures: the loss of next-SID rows, how far the SID rows have moved, and on request a search."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tsrec_jax.data.sid_paths import SidPaths
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.sharding import mesh_of
from tsrec_jax.training.dense_loss import Slots, head_of, item_nll, items_above, learned_sums, place_users
from tsrec_jax.training.drift import Drift
from tsrec_jax.training.loop import put_batch
from tsrec_jax.training.loss import batch_nll, hidden_states, loss_tasks


@dataclasses.dataclass(frozen=True)
class Validation:
    """Maps a model to `valid/loss`, `drift/...` and, with a search, `valid/hr@10`; with a dense head also to
    `valid/dense_loss` and `valid/dense_hr@10`.

    Attributes:
      batches: packed next-SID rows of the selection split; each process has its own.
      drift: measures the drift of the SID rows since training began.
      hit_rate: HR@10 of a model, measured by the evaluation's search; None: not measured.
      chunk: as in `batch_nll`.
      paths: the SID paths that the batches were made with.
    """

    batches: Sequence[Mapping[str, np.ndarray]]
    drift: Drift
    hit_rate: Callable[[Decoder], float] | None
    chunk: int = 0
    paths: SidPaths | None = None

    def __call__(self, model: Decoder) -> dict[str, float]:
        values = {"valid/loss": validation_loss(model, self.batches, self.chunk, self.paths), **self.drift(model)}
        values |= {} if model.dense is None else dense_quality(model, self.batches, self.chunk)
        return values if self.hit_rate is None else values | {"valid/hr@10": self.hit_rate(model)}


def validation_loss(
    model: Decoder, batches: Sequence[Mapping[str, np.ndarray]], chunk: int = 0, paths: SidPaths | None = None
) -> float:
    """Mean nll per loss token, in nats, over packed batches; each process gives its own rows."""
    graphdef, weights = nnx.split(model)
    mesh = mesh_of(weights)
    sums = [_loss_sums(graphdef, weights, put_batch(batch, mesh, axis=0), chunk, paths) for batch in batches]
    total, tokens = (sum(float(part[index]) for part in sums) for index in (0, 1))
    return total / tokens


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _loss_sums(
    graphdef: nnx.GraphDef, weights: nnx.State, batch: Mapping[str, jax.Array], chunk: int, paths: SidPaths | None
) -> tuple[jax.Array, jax.Array]:
    """Sum of nll and number of loss tokens of a packed batch (next-SID rows only)."""
    nll = batch_nll(nnx.merge(graphdef, weights), batch, chunk, paths)
    used = jax.tree.map(lambda task: task >= 0, loss_tasks(batch))
    sums = jax.tree.map(lambda nll, used: jnp.sum(jnp.where(used, nll, 0.0)), nll, used)
    count = sum((jnp.sum(part) for part in used.values()), jnp.zeros((), jnp.int32))
    return sum(sums.values(), jnp.zeros(())), count


def dense_quality(model: Decoder, batches: Sequence[Mapping[str, np.ndarray]], chunk: int = 0) -> dict[str, float]:
    """Quality of the dense head alone over packed batches with items: mean nats per item, and the share of items with
    fewer than ten others scoring higher; both are NaN if a score is."""
    graphdef, weights = nnx.split(model)
    mesh = mesh_of(weights)
    sums = [_dense_sums(graphdef, weights, put_batch(batch, mesh, axis=0), chunk) for batch in batches]
    loss, hits, count = np.sum(jax.device_get(sums), axis=0)
    return {"valid/dense_loss": float(loss / count), "valid/dense_hr@10": float(hits / count)}


@functools.partial(jax.jit, static_argnums=(0, 3))
def _dense_sums(graphdef: nnx.GraphDef, weights: nnx.State, batch: Mapping[str, jax.Array], chunk: int) -> jax.Array:
    """float32 (3,) of a packed batch: sum of nll, number of hits among the first ten, number of items."""
    model = nnx.merge(graphdef, weights)
    head = head_of(model)
    users = place_users(head, model.embedding[...], hidden_states(model, batch), batch)
    everything_I = np.ones(len(users[1]), bool)

    def summed(logits_GcI: jax.Array, slots_Gc: Slots) -> list[jax.Array]:
        sid_Gc = slots_Gc["sid"]
        nll_Gc = item_nll(head, logits_GcI, sid_Gc, everything_I)
        # No score compares as higher than NaN, and weights that give NaN must not be chosen as the best.
        hits_Gc = jnp.where(jnp.isnan(nll_Gc), jnp.nan, items_above(head, logits_GcI, sid_Gc) < 10)
        values = nll_Gc, hits_Gc, jnp.ones(sid_Gc.shape)
        return [jnp.sum(jnp.where(slots_Gc["learned"], value, 0.0)) for value in values]

    return learned_sums(summed, head, users, batch, chunk)
