"""The candidates of a batch of prompts: the target, what the model's search proposes, and a teacher's best.

Axis letters as in `terms`, U distinct SIDs.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from tsrec_jax.decoding.beam_search import SearchSettings, beam_search
from tsrec_jax.decoding.trie import TrieArrays
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.inference import InferenceModel
from tsrec_jax.rl.scores import leaf_slots
from tsrec_jax.rl.terms import Candidates
from tsrec_jax.training.step import Batch


@dataclasses.dataclass(frozen=True, eq=False)
class SidVectors:
    """Vectors of the SIDs, found by their slots.

    Attributes:
      slots_U: int32 leaf slots of the SIDs, rising.
      vectors_UD: float32, for each SID the mean of the unit vectors of the items that carry it.
    """

    slots_U: np.ndarray
    vectors_UD: np.ndarray

    def of(self, trie: TrieArrays, codes_BWC: jax.Array) -> jax.Array:
        """float32 (B, W, D)."""
        place_BW = jnp.searchsorted(jnp.asarray(self.slots_U), leaf_slots(trie, codes_BWC))
        return jnp.asarray(self.vectors_UD)[jnp.minimum(place_BW, len(self.slots_U) - 1)]


def propose(
    model: Decoder,
    trie: TrieArrays,
    micro: Batch,
    key: jax.Array,
    *,
    group: int,
    sampled: bool = False,
    vectors: SidVectors | None = None,
) -> Candidates:
    """The candidates of each prompt, from the search of the evaluation; the same key gives the same ones.

    Args:
      model: the decoder that proposes.
      trie: the valid SIDs.
      micro: `tokens_BT`, `lengths_B`, `target_BC`, `teacher_BMC` and `teacher_gain_BM` of `batches.PromptBatches`.
      key: the key for all random draws.
      group: beams of the search; 0: nothing is searched.
      sampled: whether they are drawn at random instead of being the best.
      vectors: vectors of the SIDs, for `likeness_BW`.
    """
    of_search, of_candidates = jax.random.split(key)
    target_B1C = micro["target_BC"][:, None]
    beams_BWC, found_BW = target_B1C[:, :0], jnp.zeros((len(target_B1C), 0), bool)
    if group:
        found = beam_search(
            InferenceModel.of(model),
            trie,
            micro["tokens_BT"],
            micro["lengths_B"],
            SearchSettings(group, "constrained"),
            noise=of_search if sampled else None,
        )
        beams_BWC, found_BW = found.codes_BWC, found.scores_BW > -jnp.inf
    codes_BWC = jnp.concatenate([target_B1C, beams_BWC, micro["teacher_BMC"]], axis=1)
    beams, width = beams_BWC.shape[1], codes_BWC.shape[1]
    ones_B1 = jnp.ones((len(codes_BWC), 1), bool)
    gain_BM = micro["teacher_gain_BM"]
    alive_BW = jnp.concatenate([ones_B1, found_BW, gain_BM > 0], axis=1)
    codes_BWC = jnp.where(alive_BW[..., None], codes_BWC, target_B1C)
    same_BWW = jnp.all(codes_BWC[:, :, None] == codes_BWC[:, None], axis=-1)
    earlier_WW = jnp.arange(width)[:, None] > jnp.arange(width)
    valid_BW = alive_BW & ~jnp.any(same_BWW & earlier_WW & alive_BW[:, None], axis=-1)
    is_beam_W = (jnp.arange(width) > 0) & (jnp.arange(width) <= beams)
    hit_B = jnp.any(same_BWW[:, 0] & alive_BW & is_beam_W, axis=-1)
    # A beam that is the target serves as the target; if there is none, the last beam is replaced by it.
    beam_BW = is_beam_W & valid_BW
    last_B1 = jnp.max(jnp.where(beam_BW, jnp.arange(width), 0), axis=-1, keepdims=True)
    gives_way_BW = ~hit_B[:, None] & (jnp.arange(width) == last_B1)
    group_BW = (beam_BW & ~gives_way_BW) | (jnp.arange(width) == 0)
    gain_BW = jnp.sum(jnp.where(same_BWW[..., 1 + beams :], gain_BM[:, None], 0.0), axis=-1)
    likeness_BW = jnp.zeros(valid_BW.shape)
    if vectors is not None:
        vectors_BWD = vectors.of(trie, codes_BWC)
        length_B1 = jnp.linalg.norm(vectors_BWD[:, :1], axis=-1)
        likeness_BW = jnp.sum(vectors_BWD * vectors_BWD[:, :1], axis=-1) / jnp.maximum(length_B1, 1e-12)
    random_BW = jax.random.uniform(of_candidates, valid_BW.shape)
    return Candidates(codes_BWC, valid_BW, group_BW, gain_BW, hit_B, random_BW, likeness_BW)
