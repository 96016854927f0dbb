"""The loss of the second stage, as a training step takes it (`training.step.Loss`)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from tsrec_jax.decoding.trie import TrieArrays
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.rl.names import OBJECTIVES, REWARDS
from tsrec_jax.rl.scores import score_candidates
from tsrec_jax.rl.settings import RlSettings
from tsrec_jax.rl.terms import Candidates, Scored, Terms, divergence, entropies, ranks
from tsrec_jax.training.step import Batch

LOSSES = ("objective", "nll", "kl")
_SHOWN = ("reward", "expected_reward", "one_valued_groups", "target_in_group", "teacher_has_target")


@dataclasses.dataclass(frozen=True, eq=False)
class RlLoss:
    """Mean over the prompts of the objective and of kl x the divergence from the starting model.

    A batch holds, beside the prompts, `candidates` and, where it is needed, `reference`: the starting model's `Scored`.

    Attributes:
      trie: the valid SIDs.
      settings: the objective, the reward and the weights.
    """

    trie: TrieArrays
    settings: RlSettings

    @property
    def parts(self) -> tuple[str, ...]:
        """The terms of the loss, each without its weight, and then what is shown of the candidates."""
        return (*LOSSES, *_SHOWN, *(f"entropy_{level}" for level in range(len(self.trie.levels))))

    def weigh(self, batch: Batch) -> tuple[Batch, jax.Array]:
        """Adds the share of each prompt and counts the prompts."""
        micros, rows = batch["lengths_B"].shape
        share = jnp.full((micros, rows), 1.0 / (micros * rows))
        return {**batch, "share_B": share}, jnp.full(len(self.parts), float(micros * rows))

    def __call__(self, model: Decoder, micro: Batch) -> tuple[jax.Array, jax.Array]:
        """The loss of the prompts of a micro-batch and the sums of its parts."""
        settings, candidates = self.settings, micro["candidates"]
        reference: Scored | None = micro.get("reference")
        trie = jax.tree.map(jnp.asarray, self.trie)
        scored = score_candidates(model, trie, micro["tokens_BT"], micro["lengths_B"], candidates.codes_BWC)
        fixed = jax.lax.stop_gradient(scored)
        reward_BW = rewards(fixed, candidates, micro["items_B"], settings)
        reference_BW = None if reference is None else reference.log_p_BW
        loss_B = OBJECTIVES[settings.objective].load()(
            Terms(scored.log_p_BW, reference_BW, reward_BW, candidates, settings)
        )
        kl_B = jnp.zeros_like(loss_B)
        if settings.kl and reference is not None:
            kl_B = divergence(scored, reference, candidates.valid_BW)
        total = jnp.sum(micro["share_B"] * (loss_B + settings.kl * kl_B))
        group_BW, valid_BW = candidates.group_BW, candidates.valid_BW
        known_BW = jnp.where(group_BW, reward_BW, reward_BW[:, :1])
        shown = (
            loss_B,
            -scored.log_p_BW[:, 0],
            kl_B,
            jnp.mean(reward_BW, axis=-1, where=group_BW),
            jnp.sum(jnp.exp(fixed.log_p_BW) * reward_BW, axis=-1, where=valid_BW),
            jnp.all(known_BW == reward_BW[:, :1], axis=-1),
            candidates.hit_B,
            candidates.gain_BW[:, 0] > 0,
            *entropies(fixed, valid_BW),
        )
        return total, jax.lax.stop_gradient(jnp.stack([jnp.sum(each.astype(jnp.float32)) for each in shown]))


def rewards(scored: Scored, candidates: Candidates, items_B: jax.Array, settings: RlSettings) -> jax.Array:
    """float32 reward_BW by the reward that the settings name; 0 for what is not valid."""
    rank_BW = ranks(scored.log_p_BW, candidates.valid_BW)
    reward_BW = REWARDS[settings.reward].load()(candidates, rank_BW, items_B, settings)
    return jnp.where(candidates.valid_BW, reward_BW, 0.0)
