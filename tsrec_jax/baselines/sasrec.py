"""SASRec trained on the users' chains until NDCG@10 on the selection split stops growing."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from scipy import sparse

from tsrec_jax.baselines.choosing import Choice, choose_seen_and_decay
from tsrec_jax.baselines.packed_chains import Packed, item_chains, pack_chains, pad_histories
from tsrec_jax.baselines.ranking import CHUNK
from tsrec_jax.baselines.sasrec_model import SasRec, Shape
from tsrec_jax.baselines.tables import Seen
from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.errors import UserError
from tsrec_jax.text.likeness import text_features

MOST_JUDGES = 5000  # rows of selection that are ranked after each epoch, spread over it
SEEN_DECAYS = (0.5, 1.0)  # of `tables.Seen`: the newer items count more, or all alike


@dataclasses.dataclass(frozen=True)
class SasRecSettings:
    """How SASRec is trained.

    Attributes:
      shape: shape of the model.
      context: longest history that is read; at most the longest history of train, since later positions learn nothing.
      features: K, the leading singular vectors of the TF-IDF features; 0: ids alone.
      slots: item positions of a packed row, at least `context`.
      rows: packed rows per step.
      learning_rate, weight_decay: AdamW's.
      epochs: the most epochs.
      patience: epochs without a better NDCG@10 on selection after which training ends.
    """

    shape: Shape = dataclasses.field(default_factory=Shape)
    context: int = 50
    features: int = 0
    slots: int = 64
    rows: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    epochs: int = 200
    patience: int = 8


TEXT = SasRecSettings(features=256)


@dataclasses.dataclass(frozen=True)
class FittedSasRec:
    """A trained SASRec.

    Attributes:
      model: its structure and its arrays, as `nnx.split` gives them.
      context: longest history that it reads.
      seen: what the items of the history count for themselves, in logits, which are cosines over a temperature. A
        state is close to the items it was made of, whether or not users come back to what they had.
      facts: see `Fitted`; and `steps`, `epochs`, `tokens` (item positions with a target, of all epochs together) and
        `flops` of the training.
    """

    model: tuple[nnx.GraphDef, nnx.State]
    context: int
    seen: Seen | None
    facts: Mapping[str, Any]

    def scores(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """float32 scores_BI; computed for CHUNK histories at a time."""
        scores_BI = self._logits(histories)
        if self.seen is not None:
            self.seen.add(scores_BI, histories)
        return scores_BI

    def choose(self, judges: Interactions, catalogue: Catalogue) -> Choice:
        """`seen`, and `seen_decay` of SEEN_DECAYS, by which the logits rank `judges` best."""
        return choose_seen_and_decay(self._logits, judges, catalogue, SEEN_DECAYS)

    def _logits(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        found = []
        for start in range(0, len(histories), CHUNK):
            chunk = histories[start : start + CHUNK]
            padded = pad_histories(chunk, CHUNK, self.context)
            newest_B = np.zeros(CHUNK, np.int32)
            newest_B[: len(chunk)] = [min(len(history), self.context) - 1 for history in chunk]
            found.append(np.asarray(_newest_scores(*self.model, padded, newest_B))[: len(chunk)])
        return np.concatenate(found)


def fit_sasrec(
    catalogue: Catalogue, train: Interactions, select: Interactions, seed: int, report: Callable[[str], None]
) -> FittedSasRec:
    """SASRec over ids."""
    return train_sasrec(catalogue, train, select, SasRecSettings(), seed, report)


def fit_sasrec_text(
    catalogue: Catalogue, train: Interactions, select: Interactions, seed: int, report: Callable[[str], None]
) -> FittedSasRec:
    """SASRec over ids and texts.

    Raises:
      UserError: as `text_features`.
    """
    return train_sasrec(catalogue, train, select, TEXT, seed, report)


def train_sasrec(
    catalogue: Catalogue,
    train: Interactions,
    select: Interactions,
    settings: SasRecSettings,
    seed: int,
    report: Callable[[str], None],
) -> FittedSasRec:
    """Trains on the chains of `train`; returns the state of the epoch that ranked `select`, or MOST_JUDGES of it, best.

    Raises:
      UserError: as `text_features`, where texts are used; `select` holds no rows; the loss is not finite.
    """
    context = min(settings.context, max(map(len, train.histories)))
    chains = item_chains(train, context)
    known_I = np.zeros(catalogue.num_items, bool)
    known_I[[item for chain in chains for item in chain.items]] = True
    features_IK = svd_features(catalogue, settings.features) if settings.features else None
    model = SasRec(known_I, context, settings.shape, features_IK, nnx.Rngs(seed))
    graph, *states = nnx.split(model, nnx.Param, ...)
    parameters, constants = states
    moments = _optimiser(settings).init(parameters)
    rng, key = np.random.default_rng(seed), jax.random.key(seed)

    judges = select.spread(MOST_JUDGES)
    best, best_epoch, best_parameters, epoch, steps, tokens = Choice({}, -1.0, ()), 0, parameters, 0, 0, 0
    while epoch < settings.epochs and epoch - best_epoch < settings.patience:
        packed = pack_chains(chains, max(settings.slots, context), rng.permutation(len(chains)))
        losses = []
        for start in range(0, len(packed.items_BT), settings.rows):
            batch = packed.rows(start, settings.rows)
            parameters, moments, loss = _step(
                graph, parameters, constants, moments, batch, jax.random.fold_in(key, steps), settings
            )
            losses.append(loss)
            steps += 1
        epoch, tokens = epoch + 1, tokens + len(train)
        mean = float(np.mean(jax.device_get(losses)))
        if not math.isfinite(mean):
            raise UserError(f"SASRec's loss is {mean} in epoch {epoch}; give a smaller learning rate")
        fitted = FittedSasRec((graph, nnx.merge_state(parameters, constants)), context, None, {})
        choice = fitted.choose(judges, catalogue)
        report(f"{choice.said(f'sasrec epoch {epoch}')}, loss {mean:.4f}")
        if choice.value > best.value:
            best, best_epoch = choice, epoch
            best_parameters = jax.tree.map(jnp.copy, parameters)
    facts = {
        "settings": {**dataclasses.asdict(settings), "best_epoch": best_epoch, **best.facts["settings"]},
        "at_end": list(best.at_end),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(parameters)),
        "steps": steps,
        "epochs": epoch,
        "tokens": tokens,
        "flops": training_flops(model, settings, steps),
    }
    seen = Seen(best.settings["seen"], best.settings["seen_decay"], catalogue.sid_numbers_I)
    return FittedSasRec((graph, nnx.merge_state(best_parameters, constants)), context, seen, facts)


def svd_features(catalogue: Catalogue, features: int) -> np.ndarray:
    """float32 features_IK: the leading left singular vectors of the TF-IDF features times their singular values.

    Scaled to a mean squared length of 1; the sign of each is such that its largest entry is positive.

    Args:
      catalogue: gives the texts.
      features: K; fewer if the texts do not have that many.

    Raises:
      UserError: as `text_features`.
    """
    words_IW = text_features(catalogue.items)
    count = min(features, min(words_IW.shape) - 1)
    left_IK, values_K, _ = sparse.linalg.svds(words_IW, k=count, rng=0)  # ARPACK's start is random otherwise
    features_IK = (left_IK * values_K)[:, ::-1]
    features_IK = features_IK * np.sign(np.take_along_axis(features_IK, np.abs(features_IK).argmax(0)[None], 0))
    return (features_IK / np.sqrt(np.square(features_IK).sum(axis=1).mean())).astype(np.float32)


def training_flops(model: SasRec, settings: SasRecSettings, steps: int) -> float:
    """FLOPs of matrix products of so many steps: 6 for each weight and position, empty slots included.

    Looking up embeddings costs nothing; the table costs its size at every position as the output layer, and with texts
    the projection of all items once a step. Attention's scores and sums are 12 D for each pair of slots and block.
    """
    shape = settings.shape
    slots = max(settings.slots, model.position_TD.shape[0])
    positions = settings.rows * slots
    per_block = 4 * shape.width**2 + 2 * shape.width * shape.mlp
    weights = shape.blocks * per_block + model.item_ID.size
    attention = 12 * shape.width * shape.blocks * positions * slots
    text = 4 * model.features_IK.size * shape.width if model.has_text else 0  # its features have no gradient
    return float(steps * (6 * weights * positions + attention + text))


def _optimiser(settings: SasRecSettings) -> optax.GradientTransformation:
    return optax.adamw(settings.learning_rate, weight_decay=settings.weight_decay)


@functools.partial(jax.jit, static_argnames=("graph", "settings"), donate_argnames=("parameters", "moments"))
def _step(
    graph: nnx.GraphDef,
    parameters: nnx.State,
    constants: nnx.State,
    moments: optax.OptState,
    batch: Packed,
    key: jax.Array,
    settings: SasRecSettings,
) -> tuple[nnx.State, optax.OptState, jax.Array]:
    """One step of AdamW; returns the mean loss of the batch's targets as well."""

    def loss(parameters: nnx.State) -> jax.Array:
        model = nnx.merge(graph, parameters, constants)
        rngs = nnx.Rngs(dropout=key)
        table_ID = model.items(rngs)
        states_BTD = model(table_ID, batch.items_BT, batch.positions_BT, batch.segments_BT, rngs)
        # The barrier keeps XLA from computing exp inside the loops of the product: half the time of a step on a CPU.
        logits_BTI = jax.lax.optimization_barrier(model.answers(states_BTD @ table_ID.T))
        losses_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTI, batch.next_BT)
        # An empty slot's answer, item 0, may be unknown: its loss is then infinite, and 0 times that no number.
        return jnp.where(batch.weight_BT > 0, losses_BT, 0).sum() / batch.weight_BT.sum()

    value, gradients = jax.value_and_grad(loss)(parameters)
    updates, moments = _optimiser(settings).update(gradients, moments, parameters)
    return optax.apply_updates(parameters, updates), moments, value


@functools.partial(jax.jit, static_argnames="graph")
def _newest_scores(graph: nnx.GraphDef, state: nnx.State, padded: Packed, newest_B: jax.Array) -> jax.Array:
    """scores_BI by the state at each history's newest item."""
    model = nnx.merge(graph, state)
    table_ID = model.items()
    states_BTD = model(table_ID, padded.items_BT, padded.positions_BT, padded.segments_BT)
    newest_BD = jnp.take_along_axis(states_BTD, newest_B[:, None, None], axis=1)[:, 0]
    return newest_BD @ table_ID.T
