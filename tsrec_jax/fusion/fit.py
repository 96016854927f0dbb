"""The weights of a fusion, fitted on rows of the selection split.

First a conditional logit: among the items that the parts and the model list for a row, the target is chosen with a
probability of exp(score) over the sum of all. From there the same weights climb a smooth NDCG: the rank of the target
is 1 plus the sum over the others of sigmoid(score - score of the target). Rows whose target nobody lists are ignored: a
target added to the candidates would stand out from the others by its low scores.

To measure a fusion on the rows it is fitted on, the users are split into two halves, and each half is scored with the
weights fitted on the other. The parts' own settings and the model's checkpoint were chosen on both halves, so the
figure is optimistic.

Axis letters: B rows, N candidates, F features; the last one is the model's log P(SID | history), where there is one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import optimize

from tsrec_jax.baselines.ranking import CHUNK
from tsrec_jax.baselines.tables import ItemTables, held_weights
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.errors import UserError
from tsrec_jax.fusion.fusion import Fusion, Part, Scale

LISTED = 20  # how many of each part's best items are candidates
SCALED_ON = 256  # rows on which the constants of the features are measured
LEAST = 1e-3  # weight of the model: with 0 the parts alone would make the score, as in a fusion without the model
HOLD = 0.1  # share of the penalty that holds the weights of the smooth NDCG near those of the logit
STEPS = 200


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The items to choose among.

    Attributes:
      items_BN: int32, each item once per row, -1 after the last.
      features_BNF: float32, the features of the parts, then whether the history holds the item and the dense head's
        feature, if these take part.
    """

    items_BN: np.ndarray
    features_BNF: np.ndarray


@dataclasses.dataclass(frozen=True)
class Weights:
    """Fitted weights.

    Attributes:
      features_F3: float32, w, v and u of every feature.
      model: weight of the model's log-probability; 0 where there is none.
      at_bound: whether that is the smallest allowed weight.
    """

    features_F3: np.ndarray
    model: float
    at_bound: bool


def scaled_parts(tables: Mapping[str, ItemTables], rows: Interactions) -> tuple[Part, ...]:
    """The parts with the constants of their features, measured on some of the rows."""
    histories = rows.spread(SCALED_ON).histories
    return tuple(Part(name, own, Scale.of(own.scores(histories))) for name, own in tables.items())


def candidates(
    parts: Sequence[Part],
    rows: Interactions,
    others: Sequence[Sequence[int]],
    held_sids_I: np.ndarray | None = None,
    dense: Callable[[range], np.ndarray] | None = None,
) -> Candidates:
    """The best items of every part, and further ones.

    Args:
      parts: the parts with their constants.
      rows: the histories.
      others: for each row further items, such as those of the model's beams.
      held_sids_I: the number of each item's SID, for the feature of whether the history holds the item
        (`held_weights`); None: no such feature.
      dense: maps numbers of rows to the dense head's float32 log-probabilities (B, I), which are one more feature.
    """
    listed, features = [], []
    for start in range(0, len(rows), CHUNK):
        histories = rows.histories[start : start + CHUNK]
        scores = [part.tables.scores(histories) for part in parts]
        log_p_BI = [] if dense is None else [dense(range(start, start + len(histories)))]
        own = None if held_sids_I is None else held_weights(histories, held_sids_I, 1.0)
        best = [np.argpartition(-x, min(LISTED, x.shape[1]) - 1, axis=1)[:, :LISTED] for x in (*scores, *log_p_BI)]
        for row in range(len(histories)):
            items_N = np.unique([item for each in (*(top[row] for top in best), others[start + row]) for item in each])
            items_N = items_N.astype(np.int32)
            forms = [
                form for part, x in zip(parts, scores, strict=True) for form in part.scale.features(x[row, items_N])
            ]
            forms += [] if own is None else [np.isin(items_N, own.col[own.row == row]).astype(np.float32)]
            forms += [x_BI[row, items_N] for x_BI in log_p_BI]
            listed.append(items_N)
            features.append(np.stack(forms, axis=-1))
    width = max(map(len, listed))
    items_BN = np.full((len(listed), width), -1, np.int32)
    features_BNF = np.zeros((len(listed), width, features[0].shape[-1]), np.float32)
    for row, (items_N, x_NF) in enumerate(zip(listed, features, strict=True)):
        items_BN[row, : len(items_N)], features_BNF[row, : len(items_N)] = items_N, x_NF
    return Candidates(items_BN, features_BNF)


def halves(users: Sequence[str]) -> np.ndarray:
    """int (B), 0 or 1: the half of each row, the same for all rows of a user."""
    number = {user: place for place, user in enumerate(dict.fromkeys(users))}
    return np.array([number[user] % 2 for user in users])


def fit_weights(
    found: Candidates,
    rows: Interactions,
    chosen: np.ndarray,
    sids_I: np.ndarray,
    common_I: np.ndarray,
    mean_log_length: float,
    l2: float,
    log_p_BN: np.ndarray | None = None,
) -> Weights:
    """Fits the weights on some rows.

    Args:
      found: candidates of all rows.
      rows: the rows.
      chosen: numbers of the rows to fit on.
      sids_I: the number of each item's SID. Other items with the target's SID are not wrong answers: a SID is ranked by
        the best of its items.
      common_I: c of `Fusion`.
      mean_log_length: m of `Fusion`.
      l2: penalty on the sum of the squared weights, relative to the sum over the rows.
      log_p_BN: float32 log P(SID of the candidate | history); None: no model takes part.

    Raises:
      UserError: no row has its target among the candidates.
    """
    items_BN, targets_B1 = found.items_BN[chosen], rows.targets[chosen][:, None]
    target_BN = items_BN == targets_B1
    there_BN = target_BN | ((items_BN >= 0) & (sids_I[items_BN] != sids_I[targets_B1]))
    known = target_BN.any(axis=1)
    if not known.any():
        raise UserError("the fusion lists the target of none of the selection rows, so no weight can be fitted")
    there_BN, target_BN, x_BNF = there_BN[known], target_BN[known], found.features_BNF[chosen][known]
    lengths_B = np.array([len(rows.histories[row]) for row in chosen])[known]
    centred_B11 = (np.log1p(lengths_B) - mean_log_length)[:, None, None].astype(np.float32)
    common_BN1 = common_I[items_BN[known]][..., None]
    x_BNF = np.concatenate([x_BNF, x_BNF * centred_B11, x_BNF * common_BN1], axis=-1)
    bounds: list[tuple[float | None, float | None]] = [(None, None)] * x_BNF.shape[-1]
    spread = 1.0
    if log_p_BN is not None:
        own_BN = np.where(there_BN, log_p_BN[chosen][known], 0)
        spread = float(own_BN[there_BN].std()) or 1.0
        x_BNF = np.concatenate([x_BNF, (own_BN / spread)[..., None].astype(np.float32)], axis=-1)
        bounds.append((LEAST, None))
    problem = _Problem(x_BNF, there_BN, target_BN, l2)
    start = np.array([0.0 if low is None else 1.0 for low, _ in bounds])
    logit = _minimum(problem.logit, start, bounds)
    weights = _minimum(lambda w: problem.smooth_ndcg(w, logit), logit, bounds)
    features = found.features_BNF.shape[-1]
    features_F3 = weights[: 3 * features].reshape(3, features).T.astype(np.float32)
    if log_p_BN is None:
        return Weights(features_F3, 0.0, False)
    return Weights(features_F3, float(weights[-1]) / spread, bool(weights[-1] <= LEAST))


def fusion_of(
    parts: tuple[Part, ...],
    weights: Weights,
    held: bool,
    dense: bool,
    common_I: np.ndarray,
    sids_I: np.ndarray,
    mean_log_length: float,
    facts: Mapping[str, Any],
) -> Fusion:
    """The fusion from weights fitted to `candidates`, in nats as is the model's log-probability if it takes part."""
    weights_F3, own = weights.features_F3 / np.float32(weights.model or 1.0), 2 * len(parts)
    held_3, dense_3 = weights_F3[own] if held else None, weights_F3[-1] if dense else None
    return Fusion(parts, weights_F3[:own], held_3, dense_3, common_I, sids_I, mean_log_length, facts)


@dataclasses.dataclass(frozen=True)
class _Problem:
    """The objectives to minimise, with their gradients."""

    x_BNF: np.ndarray
    there_BN: np.ndarray
    target_BN: np.ndarray
    l2: float

    def logit(self, w_F: np.ndarray) -> tuple[float, np.ndarray]:
        rows = len(self.x_BNF)
        score_BN = np.where(self.there_BN, self.x_BNF @ w_F, -np.inf)
        top_B1 = score_BN.max(axis=1, keepdims=True)
        share_BN = np.exp(score_BN - top_B1)
        sum_B1 = share_BN.sum(axis=1, keepdims=True)
        loss = (top_B1 + np.log(sum_B1)).sum() - score_BN[self.target_BN].sum() + self.l2 * (w_F @ w_F)
        gradient = np.tensordot(share_BN / sum_B1 - self.target_BN, self.x_BNF, axes=2) + 2 * self.l2 * w_F
        return loss / rows, gradient / rows

    def smooth_ndcg(self, w_F: np.ndarray, held_F: np.ndarray) -> tuple[float, np.ndarray]:
        rows, hold = len(self.x_BNF), HOLD * self.l2
        score_BN = self.x_BNF @ w_F
        ahead_BN = 1 / (1 + np.exp(-np.clip(score_BN - score_BN[self.target_BN][:, None], -50, 50)))
        ahead_BN[self.target_BN | ~self.there_BN] = 0
        rank_B = 1 + ahead_BN.sum(axis=1)
        slope_B = np.log(2) / (np.log1p(rank_B) ** 2 * (1 + rank_B))
        pull_BN = slope_B[:, None] * ahead_BN * (1 - ahead_BN)
        pull_BN[self.target_BN] = -pull_BN.sum(axis=1)
        away_F = w_F - held_F
        loss = -(1 / np.log2(1 + rank_B)).sum() + hold * (away_F @ away_F)
        gradient = np.tensordot(pull_BN, self.x_BNF, axes=2) + 2 * hold * away_F
        return loss / rows, gradient / rows


def _minimum(problem: Any, start: np.ndarray, bounds: Sequence[tuple[float | None, float | None]]) -> np.ndarray:
    return optimize.minimize(problem, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS}).x
