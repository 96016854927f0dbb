"""One step of the second stage: the model proposes, then learns; one compiled program of static shapes."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tsrec_jax.decoding.trie import TrieArrays
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.sharding import mesh_of
from tsrec_jax.rl.loss import RlLoss
from tsrec_jax.rl.propose import SidVectors, propose
from tsrec_jax.rl.scores import score_candidates
from tsrec_jax.rl.settings import RlSettings
from tsrec_jax.training.settings import TrainSettings
from tsrec_jax.training.step import Batch, Step, TrainState, first_step_and_state

SECOND_DECAY = 0.95  # of AdamW's second moment: with 0.999, the stage would be over before it had seen enough steps


def first_rl_step_and_state(
    model: Decoder,
    trie: TrieArrays,
    settings: RlSettings,
    train: TrainSettings,
    *,
    base_vocab_size: int = 0,
    seed: int = 0,
    vectors: SidVectors | None = None,
) -> tuple[Step, TrainState]:
    """The step and state that start the second stage; the arrays of the trained decoder go to the first update.

    If the loss needs the starting model, its weights are kept in the compute dtype. Candidates are a function of the
    weights, the batch, the seed and the step, so that a resumed stage sees the same ones.

    Args:
      model: the decoder; it is also the reference.
      trie: the valid SIDs.
      settings: those of the stage.
      train: the settings of the optimiser.
      base_vocab_size: the freeze boundary.
      seed: the seed of the random draws.
      vectors: vectors of the SIDs, if the reward reads them.
    """
    constants = jax.tree.map(np.asarray, trie)
    loss = RlLoss(constants, settings)
    reference = None
    if settings.keeps_reference:
        graphdef, weights = nnx.split(model)
        kept = jax.jit(lambda tree: jax.tree.map(lambda leaf: _compute_dtype(leaf, model.dtype), tree))(weights)
        reference = nnx.merge(graphdef, kept)
    step, state = first_step_and_state(model, loss, train, base_vocab_size, seed, SECOND_DECAY)
    key = jax.random.key(seed)

    def prepare(state: TrainState, reference: nnx.State | None, batch: Batch) -> dict[str, Any]:
        trie = jax.tree.map(jnp.asarray, constants)

        def one(micro: Batch) -> dict[str, Any]:
            found = propose(
                state.model_of(state.trained),
                trie,
                micro,
                jax.random.wrap_key_data(micro["key"]),
                group=settings.group if settings.compares else 0,
                sampled=settings.sampled,
                vectors=vectors,
            )
            if reference is None:
                return {"candidates": found}
            before = nnx.merge(graphdef, reference)
            scored = score_candidates(before, trie, micro["tokens_BT"], micro["lengths_B"], found.codes_BWC)
            return {"candidates": found, "reference": scored}

        keys = jax.random.split(jax.random.fold_in(key, state.step), batch["lengths_B"].shape[0])
        micros = {**batch, "key": jax.random.key_data(keys)}
        if len(keys) == 1:
            return jax.tree.map(lambda x: x[None], one(jax.tree.map(lambda x: x[0], micros)))
        return jax.lax.map(one, micros)

    kept_weights = None if reference is None else nnx.split(reference)[1]

    def update(reference: nnx.State | None, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        state, metrics = step.update(state, {**batch, **prepare(state, reference, batch)})
        sums, counts = metrics.pop("part_sums"), metrics.pop("part_counts")
        terms = len(loss.terms)
        shown = {f"rl/{name}": sums[at] / counts[at] for at, name in enumerate(loss.parts) if at >= terms}
        parts = {"part_sums": sums[:terms], "part_counts": counts[:terms]}
        return state, {**metrics, **shown, **parts}

    # One program: others that wait for the same state would run beside it, and on a mesh their devices would wait for
    # one another.
    shardings = None
    if mesh_of(state.trained) is not None:
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state), None
    whole = jax.jit(update, donate_argnums=1, out_shardings=shardings)
    return Step(functools.partial(whole, kept_weights), loss.terms), state


def _compute_dtype(leaf: jax.Array, dtype: str) -> jax.Array:
    return jnp.copy(leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf)
