"""The loss of the second stage, in the form that a training step takes (`training.step.Loss`)."""

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


@dataclasses.dataclass(frozen=True, eq=False)
class RlLoss:
    """Mean over the prompts of the objective and of kl x the divergence from the starting model.

    In addition to the prompts, a batch holds `candidates` and, if needed, `reference`: the starting model's `Scored`.

    Attributes:
      trie: the valid SIDs.
      settings: the objective, the reward and the weights.
    """

    trie: TrieArrays
    settings: RlSettings

    @property
    def terms(self) -> tuple[str, ...]:
        """The terms of the loss, each without its weight; the divergence if there is a reference."""
        return ("objective", "nll", *(("kl",) if self.settings.keeps_reference else ()))

    @property
    def parts(self) -> tuple[str, ...]:
        """The terms of the loss, then the reported figures about the candidates."""
        found = ("reward", "expected_reward", "target_in_group") if self.settings.compares else ()
        taught = ("teacher_has_target",) if self.settings.teachers else ()
        return (*self.terms, *found, *taught, *(f"entropy_{level}" for level in range(len(self.trie.levels))))

    def weigh(self, batch: Batch) -> tuple[Batch, jax.Array]:
        """Adds the share of each prompt and counts the prompts."""
        micros, rows = batch["lengths_B"].shape
        share = jnp.full((micros, rows), 1.0 / (micros * rows))
        return {**batch, "share_B": share}, jnp.full(len(self.parts), float(micros * rows))

    def __call__(self, model: Decoder, micro: Batch) -> tuple[jax.Array, jax.Array]:
        """The loss of the prompts of a micro-batch and the sums of its parts."""
        settings, candidates = self.settings, micro["candidates"]
        reference: Scored | None = micro["reference"] if settings.keeps_reference else None
        trie = jax.tree.map(jnp.asarray, self.trie)
        scored = score_candidates(model, trie, micro["tokens_BT"], micro["lengths_B"], candidates.codes_BWC)
        fixed = jax.lax.stop_gradient(scored)
        reward_BW = rewards(fixed, candidates, micro["items_B"], settings)
        reference_BW = None if reference is None else reference.log_p_BW
        loss_B = OBJECTIVES[settings.objective].load()(
            Terms(scored.log_p_BW, reference_BW, reward_BW, candidates, settings)
        )
        valid_BW = candidates.valid_BW
        kl_B = jnp.zeros_like(loss_B)
        if reference is not None:
            kl_B = divergence(scored if settings.kl else fixed, reference, valid_BW)
        total = jnp.sum(micro["share_B"] * (loss_B + settings.kl * kl_B))
        # The mean reward is that of the SIDs that the model has found, the target only where it is one of them.
        own_BW = candidates.group_BW & (candidates.hit_B[:, None] | (jnp.arange(valid_BW.shape[1]) > 0))
        values_B = {
            "objective": loss_B,
            "nll": -scored.log_p_BW[:, 0],
            "kl": kl_B,
            "reward": jnp.sum(reward_BW, axis=-1, where=own_BW) / jnp.maximum(jnp.sum(own_BW, axis=-1), 1),
            "expected_reward": jnp.sum(jnp.exp(fixed.log_p_BW) * reward_BW, axis=-1, where=valid_BW),
            "target_in_group": candidates.hit_B,
            "teacher_has_target": candidates.gain_BW[:, 0] > 0,
            **{f"entropy_{level}": own_B for level, own_B in enumerate(entropies(fixed, valid_BW))},
        }
        return total, jax.lax.stop_gradient(
            jnp.stack([jnp.sum(values_B[name].astype(jnp.float32)) for name in self.parts])
        )


def rewards(scored: Scored, candidates: Candidates, items_B: jax.Array, settings: RlSettings) -> jax.Array:
    """float32 reward_BW from the reward that the settings name; 0 for candidates that are not valid."""
    rank_BW = ranks(scored.log_p_BW, candidates.group_BW)
    reward_BW = REWARDS[settings.reward].load()(candidates, rank_BW, items_B, settings)
    return jnp.where(candidates.valid_BW, reward_BW, 0.0)
