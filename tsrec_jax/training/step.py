"""One optimiser step: the state, the optimiser with its freezing, and the jitted update.

The step is a plain `jax.jit` over split NNX state; it compiles once per batch shape and donates the state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import NamedSharding

from tsrec_jax.data.sid_paths import SidPaths
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.sharding import mesh_of
from tsrec_jax.training.loss import LossSettings, batch_loss, loss_tasks, slot_weights, task_sums

FREEZE_MODES = ("none", "old_rows", "trunk")
SCHEDULES = ("linear", "cosine", "constant")
TABLES = ("embedding", "head")


@dataclasses.dataclass(frozen=True)
class OptimiserSettings:
    """AdamW and what it may touch.

    Attributes:
      learning_rate: peak rate.
      warmup_steps: linear warm-up from 0.
      total_steps: horizon of the decay to 0 (`constant` ignores it).
      schedule: `linear`, `cosine` or `constant`.
      weight_decay: decoupled; applied to matrices, not to norms and biases.
      clip_norm: global gradient norm, taken over what is trained; 0 switches clipping off.
      freeze: `none`; `old_rows` keeps the vocabulary rows the pretrained model brought along; `trunk` trains the new
        rows only. Frozen values stay bit-identical and have no moments (frozen rows: zero moments).
      new_rows_rate: the rate of the new vocabulary rows over that of all else.
    """

    learning_rate: float
    warmup_steps: int
    total_steps: int
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    freeze: Literal["none", "old_rows", "trunk"] = "none"
    new_rows_rate: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self):
        if self.freeze not in FREEZE_MODES:
            raise ValueError(f"freeze {self.freeze!r} is not one of {FREEZE_MODES}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule {self.schedule!r} is not one of {SCHEDULES}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """Everything a step changes (`trained`, `opt_state`, `step`) and what it only reads (`frozen`)."""

    step: jax.Array
    trained: nnx.State
    frozen: nnx.State
    opt_state: Any


def learning_rate_schedule(settings: OptimiserSettings) -> optax.Schedule:
    """Warm-up to the peak, then the chosen decay to 0 at `total_steps`."""
    decay_steps = max(settings.total_steps - settings.warmup_steps, 1)
    decay = {
        "linear": optax.linear_schedule(settings.learning_rate, 0.0, decay_steps),
        "cosine": optax.cosine_decay_schedule(settings.learning_rate, decay_steps),
        "constant": optax.constant_schedule(settings.learning_rate),
    }[settings.schedule]
    if settings.warmup_steps <= 0:
        return decay
    warmup = optax.linear_schedule(0.0, settings.learning_rate, settings.warmup_steps)
    # The first step is number 0 and shall move: shift the ramp by one.
    return optax.join_schedules([lambda count: warmup(count + 1), decay], [settings.warmup_steps])


def is_table(path: tuple, _value: Any = None) -> bool:
    """True for the vocabulary tables (input embedding and untied head), whose rows are tokens."""
    return bool(path) and path[0] in TABLES


def _names(path: tuple) -> tuple:
    """The keys of a path in a tree."""
    return tuple(getattr(key, "key", getattr(key, "name", key)) for key in path)


def _keep_new_rows(old_size: int) -> optax.GradientTransformation:
    """Zeroes what flows to the rows below `old_size` of the vocabulary tables."""
    return _to_tables(lambda new_V1, leaf: jnp.where(new_V1, leaf, jnp.zeros((), leaf.dtype)), old_size)


def _scale_new_rows(old_size: int, factor: float) -> optax.GradientTransformation:
    """Multiplies what flows to the rows from `old_size` on of the vocabulary tables."""
    return _to_tables(lambda new_V1, leaf: jnp.where(new_V1, factor * leaf, leaf), old_size)


def _to_tables(change: Callable[[jax.Array, jax.Array], jax.Array], old_size: int) -> optax.GradientTransformation:
    """Changes what flows to the vocabulary tables, told which of their rows are new."""

    def changed(path, leaf):
        return change(jnp.arange(leaf.shape[0])[:, None] >= old_size, leaf) if is_table(_names(path)) else leaf

    return optax.stateless(lambda updates, _params: jax.tree_util.tree_map_with_path(changed, updates))


def _decayed(params: nnx.State) -> nnx.State:
    def decays(path, _leaf):
        names = "/".join(map(str, _names(path)))
        return not any(word in names for word in ("norm", "bias"))

    return jax.tree_util.tree_map_with_path(decays, params)


def make_optimiser(settings: OptimiserSettings, old_size: int) -> optax.GradientTransformation:
    """AdamW with float32 moments; `old_size` is the freeze boundary (the base tokenizer's length)."""
    rows = [_keep_new_rows(old_size)] if settings.freeze != "none" else []
    clip = [optax.clip_by_global_norm(settings.clip_norm)] if settings.clip_norm > 0 else []
    decay = [optax.add_decayed_weights(settings.weight_decay, mask=_decayed)] if settings.weight_decay > 0 else []
    faster = [_scale_new_rows(old_size, settings.new_rows_rate)] if settings.new_rows_rate != 1 else []
    return optax.chain(
        *rows,
        *clip,
        optax.scale_by_adam(settings.beta1, settings.beta2, settings.epsilon, mu_dtype=jnp.float32),
        *decay,
        *rows,
        *faster,
        optax.scale_by_learning_rate(learning_rate_schedule(settings)),
    )


def split_model(model: Decoder, freeze: str) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """The static part, the parameters that train and those that do not."""
    trains = is_table if freeze == "trunk" else nnx.Param
    return nnx.split(model, nnx.All(nnx.Param, trains), ...)


def init_state(model: Decoder, optimiser: optax.GradientTransformation, freeze: str) -> tuple[nnx.GraphDef, TrainState]:
    """Builds the state; moments take the sharding of their parameters, scalars are created inside jit."""
    graphdef, trained, frozen = split_model(model, freeze)
    abstract = jax.eval_shape(optimiser.init, trained)
    shardings = None
    mesh = mesh_of(trained)
    if mesh is not None:
        replicated = NamedSharding(mesh, jax.P())
        shardings = optax.tree_utils.tree_map_params(
            optimiser, lambda _, p: p.sharding, abstract, trained, transform_non_params=lambda _: replicated
        )
    opt_state = jax.jit(optimiser.init, out_shardings=shardings)(trained)
    step = jax.jit(lambda: jnp.zeros((), jnp.int32), out_shardings=None if mesh is None else replicated)()
    return graphdef, TrainState(step, trained, frozen, opt_state)


def _contents(segment_ids_ABT: jax.Array) -> dict[str, jax.Array]:
    """What a batch holds: its tokens, its examples, and the share of its slots that is padding."""
    tokens = jnp.count_nonzero(segment_ids_ABT)
    return {
        "tokens": tokens,
        "examples": jnp.sum(jnp.max(segment_ids_ABT, axis=-1)),
        "padding_share": 1.0 - tokens / segment_ids_ABT.size,
    }


def _row_norms(name: str, tree: nnx.State, old_size: int) -> dict[str, jax.Array]:
    """The norms of a tree's vocabulary tables over the rows below `old_size` and from it on; none where it is 0."""
    if old_size == 0:
        return {}
    squares_V = sum(
        jnp.sum(jnp.square(leaf.astype(jnp.float32)), axis=1)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if is_table(_names(path))
    )
    old_V = jnp.arange(squares_V.shape[0]) < old_size
    parts = {"old_rows": old_V, "new_rows": ~old_V}
    return {f"{name}/{part}": jnp.sqrt(jnp.sum(squares_V, where=rows_V)) for part, rows_V in parts.items()}


TrainStep = Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]


def make_train_step(
    graphdef: nnx.GraphDef,
    state: TrainState,
    optimiser: optax.GradientTransformation,
    loss: LossSettings,
    learning_rate: optax.Schedule,
    old_size: int = 0,
    paths: SidPaths | None = None,
) -> TrainStep:
    """The jitted update. `state` only lends its shardings, so that the step's outputs keep them.

    The returned function maps (state, batch) to (state, metrics). The batch carries a leading accumulation axis A
    (`tokens_ABT` and so on); its micro-batches are summed inside, which equals one batch of A x B rows. Metrics are
    device scalars: `loss`, `grad_norm`, `update_norm`, `learning_rate`, `tokens`, `examples`, `padding_share`, and per
    task `nll_sums`, `token_counts`. With `old_size` also both norms over the table rows below it (`/old_rows`) and over
    those from it on (`/new_rows`), the gradients before freezing and clipping. `paths` are those that the
    batches were made with, if SID tokens are learned among their siblings.
    """
    num_tasks = len(loss.task_weights)

    def micro_loss(trained, frozen, micro):
        model = nnx.merge(graphdef, trained, frozen)
        total, nll = batch_loss(model, micro, micro["weights"], loss.chunk, paths)
        return total, task_sums(nll, loss_tasks(micro), num_tasks)

    def step_fn(state: TrainState, batch: Mapping[str, jax.Array]):
        weights, counts = slot_weights(loss_tasks(batch), loss)
        micros = {**batch, "weights": weights}

        def accumulate(carry, micro):
            total, grads, sums = carry
            (value, task), grad = jax.value_and_grad(micro_loss, has_aux=True)(state.trained, state.frozen, micro)
            return (total + value, jax.tree.map(jnp.add, grads, grad), sums + task), None

        if batch["tokens_BT"].shape[0] == 1:
            micro = jax.tree.map(lambda x: x[0], micros)
            (total, sums), grads = jax.value_and_grad(micro_loss, has_aux=True)(state.trained, state.frozen, micro)
        else:
            zeros = jax.tree.map(jnp.zeros_like, state.trained)
            start = (jnp.zeros(()), zeros, jnp.zeros(num_tasks))
            (total, grads, sums), _ = jax.lax.scan(accumulate, start, micros)

        updates, opt_state = optimiser.update(grads, state.opt_state, state.trained)
        trained = optax.apply_updates(state.trained, updates)
        metrics = {
            "loss": total,
            "grad_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
            **(_row_norms("grad_norm", grads, old_size) | _row_norms("update_norm", updates, old_size)),
            "learning_rate": learning_rate(state.step),
            **_contents(batch["segment_ids_BT"]),
            "nll_sums": sums,
            "token_counts": counts,
        }
        return dataclasses.replace(state, step=state.step + 1, trained=trained, opt_state=opt_state), metrics

    mesh = mesh_of(state.trained)
    if mesh is None:
        return jax.jit(step_fn, donate_argnums=0)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(step_fn, donate_argnums=0, out_shardings=(shardings, None))
