"""One optimiser step: the state, the optimiser and what it freezes, and the jitted update for any loss.

The step is a plain `jax.jit` over split NNX state; it compiles once per batch shape and donates the state.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import NamedSharding
from jax.typing import DTypeLike

from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.sharding import constrain, mesh_of
from tsrec_jax.training.moments import adam
from tsrec_jax.training.settings import TrainSettings

Batch = Mapping[str, Any]  # named arrays, or trees of them

TABLES = ("embedding", "head")
NEW_PARTS = (*TABLES, "sid_scale", "dense", "adapter")  # what trains if the pretrained model is frozen


class Batches(Protocol):
    """Batches by number, such as `data.input.TrainBatches`: batch n is a function of n alone."""

    def from_step(self, step: int) -> Any:
        """An endless iterator with a method `close`; its first batch is that of optimiser step `step` + 1."""
        ...

    def batch(self, step: int) -> Mapping[str, Any]:
        """The batch of optimiser step `step` (from 1), this process's rows."""
        ...

    def keys(self, step: int) -> list[str]:
        """The names that messages use for the examples of that step, over all processes."""
        ...


class Loss(Protocol):
    """What a training minimises. The loss of a step is the sum over its micro-batches."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the terms that are logged separately, for instance the tasks."""
        ...

    def weigh(self, batch: Batch) -> tuple[Batch, jax.Array]:
        """Adds to a batch what its micro-batches must know about the whole batch, and counts the tokens of each part.

        Args:
          batch: named arrays with a leading accumulation axis A.

        Returns:
          The batch and float32 counts of shape (parts,).
        """
        ...

    def __call__(self, model: Decoder, micro: Batch) -> tuple[jax.Array, jax.Array]:
        """The loss of one micro-batch, a float32 scalar to be differentiated, and float32 sums of shape (parts,)."""
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """Everything a step changes (`trained`, `opt_state`, `step`) and everything it only reads (the rest).

    If the rows of the pretrained vocabulary are frozen, `frozen` holds the vocabulary tables, and `trained` only their
    rows from `first_row` on, in float32, so the other rows have neither moments nor gradients. If the trunk is frozen
    too, the tables in `frozen` have the compute dtype, to which each step would otherwise round them.
    """

    step: jax.Array
    trained: nnx.State
    frozen: nnx.State
    opt_state: Any
    graphdef: nnx.GraphDef[Decoder] = dataclasses.field(metadata={"static": True})
    first_row: int | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def model(self) -> Decoder:
        """The decoder with the weights of this state; if only some rows train, its tables are float32, as those are."""
        return self._merged(self.trained, jnp.float32)

    def model_of(self, trained: nnx.State) -> Decoder:
        """The decoder, as a step computes with it, with trained weights other than those of this state."""
        model = self._merged(trained)
        if self.first_row is not None:
            model.frozen_rows = self.first_row
            # Their gradient is a sum over all occurrences of a token, so it is computed in float32.
            model.new_rows = nnx.data(nnx.Param(trained["embedding"][...]))
        return model

    def _merged(self, trained: nnx.State, dtype: DTypeLike | None = None) -> Decoder:
        """The decoder, its tables put together in `dtype`; by default in the dtype of the frozen tables."""
        if self.first_row is None:
            return nnx.merge(self.graphdef, trained, self.frozen)
        tables = {
            name: table.replace(_with_rows(table[...].astype(dtype or table.dtype), trained[name][...], self.first_row))
            for name, table in self.frozen.items()
            if name in TABLES
        }
        others = nnx.State({name: value for name, value in trained.items() if name not in TABLES})
        return nnx.merge(self.graphdef, others, nnx.State({**self.frozen, **tables}))


Update = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


@dataclasses.dataclass(frozen=True)
class Step:
    """One way to train, in the form that the loop takes; `make_step` makes one from a `Loss`.

    Attributes:
      update: maps (state, batch) to (state, metrics). Metrics are scalars on the device, among them `loss`,
        `grad_norm`, `update_norm`, `tokens`, `examples` and `padding_share`; and `part_sums` and `part_counts` of shape
        (parts,), from which the mean of each part is logged.
      parts: names of the terms that are logged separately.
    """

    update: Update
    parts: tuple[str, ...] = ()


def learning_rate_schedule(settings: TrainSettings) -> optax.Schedule:
    """Warm-up to the peak, then the chosen decay to 0 at `max_steps`."""
    decay_steps = max(settings.max_steps - settings.warmup_steps, 1)
    decay = {
        "linear": optax.linear_schedule(settings.learning_rate, 0.0, decay_steps),
        "cosine": optax.cosine_decay_schedule(settings.learning_rate, decay_steps),
        "constant": optax.constant_schedule(settings.learning_rate),
    }[settings.schedule]
    if settings.warmup_steps <= 0:
        return decay
    warmup = optax.linear_schedule(0.0, settings.learning_rate, settings.warmup_steps)
    # The first step is number 0 and must change the weights: shift the ramp by one.
    return optax.join_schedules([lambda count: warmup(count + 1), decay], [settings.warmup_steps])


def is_table(path: tuple, _value: Any = None) -> bool:
    """True for the vocabulary tables (input embedding and untied head), whose rows are tokens."""
    return bool(path) and path[0] in TABLES


def is_new(path: tuple, _value: Any = None) -> bool:
    """True for what no pretrained model has: the tables (for the rows of the SID tokens in them), the scales of the SID
    tokens, the dense head, adapters."""
    return bool(path) and path[0] in NEW_PARTS


def _names(path: tuple) -> tuple:
    """The keys of a path in a tree."""
    return tuple(getattr(key, "key", getattr(key, "name", key)) for key in path)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _rows(table_VD: jax.Array, first: int, stop: int) -> jax.Array:
    """Some rows of a table in float32, the same on every device: there are few."""
    return constrain(table_VD[first:stop].astype(jnp.float32), None, None)


@functools.partial(jax.jit, static_argnums=2)
def _with_rows(table_VD: jax.Array, rows_nD: jax.Array, first: int) -> jax.Array:
    """A table whose rows from `first` on are replaced."""
    whole_VD = jax.lax.dynamic_update_slice(table_VD, rows_nD.astype(table_VD.dtype), (first, 0))
    return constrain(whole_VD, "vocabulary", None)


def _decayed(params: nnx.State) -> nnx.State:
    def decays(path, _leaf):
        names = "/".join(map(str, _names(path)))
        return not any(word in names for word in ("norm", "bias", "scale", "recency", "gain"))

    return jax.tree_util.tree_map_with_path(decays, params)


def make_optimiser(settings: TrainSettings, second_decay: float = 0.999) -> optax.GradientTransformation:
    """AdamW; `second_decay` is the decay of its second moment."""
    clip = [optax.clip_by_global_norm(settings.clip_norm)] if settings.clip_norm > 0 else []
    decay = [optax.add_decayed_weights(settings.weight_decay, mask=_decayed)] if settings.weight_decay > 0 else []
    return optax.chain(
        *clip,
        adam(settings.moments, second_decay),
        *decay,
        optax.scale_by_learning_rate(learning_rate_schedule(settings)),
    )


def split_model(
    model: Decoder, freeze: str, base_vocab_size: int = 0
) -> tuple[nnx.GraphDef[Decoder], nnx.State, nnx.State, int | None]:
    """The parts of a `TrainState` that belong to the model: `graphdef`, `trained`, `frozen` and `first_row`."""
    trains = is_new if freeze == "trunk" else nnx.Param
    graphdef, trained, *rest = nnx.split(model, nnx.All(nnx.Param, trains), ...)
    if freeze == "none":
        return graphdef, trained, rest[0], None
    tables = {name: value for name, value in trained.items() if name in TABLES}
    rows = {
        name: value.replace(_rows(value[...], base_vocab_size, model.num_tokens or len(value[...])))
        for name, value in tables.items()
    }
    if freeze == "trunk":
        tables = {name: value.replace(value[...].astype(model.dtype)) for name, value in tables.items()}
    return graphdef, nnx.State({**trained, **rows}), nnx.State({**rest[0], **tables}), base_vocab_size


def init_state(
    model: Decoder, optimiser: optax.GradientTransformation, freeze: str, base_vocab_size: int = 0
) -> TrainState:
    """Builds the state, which takes over the model's arrays; moments take the sharding of their parameters.

    Args:
      model: the decoder.
      optimiser: from `make_optimiser`.
      freeze: as in `TrainSettings`.
      base_vocab_size: number of table rows that are frozen, if any are (the length of the base tokenizer).
    """
    graphdef, trained, frozen, first_row = split_model(model, freeze, base_vocab_size)
    abstract = jax.eval_shape(optimiser.init, trained)
    mesh = mesh_of(trained)
    replicated = None if mesh is None else NamedSharding(mesh, jax.P())
    shardings = None
    if mesh is not None:
        shardings = optax.tree_utils.tree_map_params(
            optimiser, lambda _, p: p.sharding, abstract, trained, transform_non_params=lambda _: replicated
        )
    opt_state = jax.jit(optimiser.init, out_shardings=shardings)(trained)
    step = jax.jit(lambda: jnp.zeros((), jnp.int32), out_shardings=replicated)()
    state = TrainState(step, trained, frozen, opt_state, graphdef, first_row)
    for table, kept in ((getattr(model, name), frozen[name]) for name in TABLES if name in frozen):
        if table.dtype != kept.dtype:
            table[...].delete()  # it was copied, and the caller may hold the model for as long as training lasts
    # Committed to its devices, as a restored state is: the compilation cache then serves a resumed run too.
    return jax.device_put(state, jax.tree.map(lambda leaf: leaf.sharding, state))


def _contents(segment_ids_ABT: jax.Array) -> dict[str, jax.Array]:
    """Counts of a batch: its tokens, its examples, and the share of its slots that is padding."""
    tokens = jnp.count_nonzero(segment_ids_ABT)
    return {
        "tokens": tokens,
        "examples": jnp.sum(jnp.max(segment_ids_ABT, axis=-1)),
        "padding_share": 1.0 - tokens / segment_ids_ABT.size,
    }


def _row_norms(name: str, tree: nnx.State, base_vocab_size: int, first_row: int | None) -> dict[str, jax.Array]:
    """The norms of a tree's vocabulary tables over the rows below `base_vocab_size` and from it on; none if it is 0.

    If only the rows from `first_row` on train, the tables hold no others.
    """
    if base_vocab_size == 0:
        return {}
    tables = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if is_table(_names(path))]
    squares_V = sum((jnp.sum(jnp.square(table.astype(jnp.float32)), axis=1) for table in tables), jnp.zeros(()))
    if first_row is not None:
        return {f"{name}/new_rows": jnp.sqrt(jnp.sum(squares_V))}
    pretrained_V = jnp.arange(squares_V.shape[0]) < base_vocab_size
    parts = {"pretrained_rows": pretrained_V, "new_rows": ~pretrained_V}
    return {f"{name}/{part}": jnp.sqrt(jnp.sum(squares_V, where=rows_V)) for part, rows_V in parts.items()}


def make_step(
    state: TrainState,
    loss: Loss,
    optimiser: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    base_vocab_size: int = 0,
    seed: int = 0,
) -> Step:
    """The jitted update of a loss. Only the structure and shardings of `state` are used, so that the outputs keep them.

    A batch carries a leading accumulation axis A (`tokens_BT` is A x B x T, and so on); its micro-batches are summed
    inside, which equals one batch of A x B rows. With `base_vocab_size` the metrics also hold both norms over the table
    rows below it (`/pretrained_rows`, if they train) and from it on (`/new_rows`); gradients count before clipping.
    Each micro-batch has a `dropout_key` made from the seed, the step and its place, so a resumed run drops the same.
    """

    def update(state: TrainState, batch: Batch):
        micros, counts = loss.weigh(batch)
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        micros = {**micros, "dropout_key": jax.random.split(key, batch["tokens_BT"].shape[0])}

        def micro_loss(trained, micro):
            return loss(state.model_of(trained), micro)

        def accumulate(carry, micro):
            total, grads, sums = carry
            (value, part), grad = jax.value_and_grad(micro_loss, has_aux=True)(state.trained, micro)
            return (total + value, jax.tree.map(jnp.add, grads, grad), sums + part), None

        if batch["tokens_BT"].shape[0] == 1:
            micro = jax.tree.map(lambda x: x[0], micros)
            (total, sums), grads = jax.value_and_grad(micro_loss, has_aux=True)(state.trained, micro)
        else:
            zeros = jax.tree.map(jnp.zeros_like, state.trained)
            start = (jnp.zeros(()), zeros, jnp.zeros(len(loss.parts)))
            (total, grads, sums), _ = jax.lax.scan(accumulate, start, micros)

        updates, opt_state = optimiser.update(grads, state.opt_state, state.trained)
        trained = optax.apply_updates(state.trained, updates)
        metrics = {
            "loss": total,
            "grad_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
            **_row_norms("grad_norm", grads, base_vocab_size, state.first_row),
            **_row_norms("update_norm", updates, base_vocab_size, state.first_row),
            "learning_rate": learning_rate(state.step),
            **_contents(batch["segment_ids_BT"]),
            "part_sums": sums,
            "part_counts": counts,
        }
        return dataclasses.replace(state, step=state.step + 1, trained=trained, opt_state=opt_state), metrics

    shardings = None
    if mesh_of(state.trained) is not None:
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state), None
    return Step(jax.jit(update, donate_argnums=0, out_shardings=shardings), loss.parts)


def first_step_and_state(
    model: Decoder,
    loss: Loss,
    settings: TrainSettings,
    base_vocab_size: int = 0,
    seed: int = 0,
    second_decay: float = 0.999,
) -> tuple[Step, TrainState]:
    """The step and the state with which a training of `model` starts; its arrays are donated to the first update.

    Args:
      model: the decoder.
      loss: what is minimised.
      settings: settings of the optimiser; the learning rate reaches 0 at `max_steps`.
      base_vocab_size: number of vocabulary rows of the pretrained model (the freeze boundary).
      seed: seed of the dropout.
      second_decay: decay of AdamW's second moment per step.
    """
    optimiser = make_optimiser(settings, second_decay)
    state = init_state(model, optimiser, settings.freeze, base_vocab_size)
    return make_step(state, loss, optimiser, learning_rate_schedule(settings), base_vocab_size, seed), state
