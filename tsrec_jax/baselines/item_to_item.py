"""A table of how strongly each item of a history suggests every other item: the form of EASE and nearest neighbours.

Axis letters: B rows, I items, N the items that an item suggests.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from tsrec_jax.baselines.choosing import best_with_seen, choose_seen
from tsrec_jax.baselines.counts import FALLBACK, fit_popularity
from tsrec_jax.baselines.tables import ItemTables, Seen, Term
from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.interactions import Interactions

KEPT = 200  # N, how many of an item's strongest weights are kept; keeping all of EASE's ranks no better
BLOCK = 512  # items whose weights for all others are in memory at a time
HISTORY_START = {"history_decay": 0.5}
HISTORY_GRIDS = {"history_decay": (0.0, 0.3, 0.7, 0.85, 1.0)}


@dataclasses.dataclass(frozen=True)
class ItemToItem:
    """A weighted mean of a table's rows for the items of the history, plus a little popularity.

    Attributes:
      tables: see `FittedTables`; one table, and what the items of the history gain by being in it.
      facts: see `Fitted`.
    """

    tables: ItemTables
    facts: Mapping[str, Any]

    def scores(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """float32 scores_BI."""
        return self.tables.scores(histories)


def strongest(rows: Callable[[int, int], np.ndarray], num_items: int) -> tuple[np.ndarray, np.ndarray]:
    """int32 columns_IN and float32 weights_IN: each item's KEPT weights of largest absolute value; its own counts as 0.

    Args:
      rows: maps (start, end) to float32 (end - start, I), the weights of a block of items.
      num_items: I.
    """
    count = min(KEPT, num_items)
    columns_IN, weights_IN = np.zeros((num_items, count), np.int32), np.zeros((num_items, count), np.float32)
    for start in range(0, num_items, BLOCK):
        end = min(start + BLOCK, num_items)
        block_BI = np.array(rows(start, end), np.float32)
        block_BI[np.arange(end - start), np.arange(start, end)] = 0
        columns_IN[start:end] = np.argpartition(-np.abs(block_BI), count - 1, axis=1)[:, :count]
        weights_IN[start:end] = np.take_along_axis(block_BI, columns_IN[start:end], axis=1)
    return columns_IN, weights_IN


def table_of(columns_IN: np.ndarray, weights_IN: np.ndarray) -> sparse.csr_matrix:
    """float32 table_II, sparse, from what `strongest` found.

    It is scaled so that the items' largest weights have a mean of 1, the scale that the weights of `seen` assume.
    """
    num_items, count = columns_IN.shape
    scale = weights_IN.max(axis=1).mean()
    if scale > 0:
        weights_IN = weights_IN / scale
    ends_I = np.arange(num_items + 1) * count
    table_II = sparse.csr_matrix((weights_IN.reshape(-1), columns_IN.reshape(-1), ends_I), shape=(num_items, num_items))
    table_II.eliminate_zeros()
    return table_II


def choose(
    name: str,
    catalogue: Catalogue,
    train: Interactions,
    select: Interactions,
    start: Mapping[str, float],
    grids: Mapping[str, Sequence[float]],
    table: Callable[[Mapping[str, float]], sparse.csr_matrix],
    report: Callable[[str], None],
) -> ItemToItem:
    """Chooses the table's own settings and the history's by NDCG@10 on `select`; each own setting is computed once.

    Args:
      name: name of the baseline, for the report.
      catalogue, train, select: see `Fit`.
      start, grids: those of the table's own settings, as in `best_settings`.
      table: maps the table's own settings to table_II.
      report: receives a line that says what was chosen.

    Raises:
      UserError: `select` holds no rows.
    """
    bias_I = np.float32(FALLBACK) * fit_popularity(catalogue, train, select, 0, report).share_I
    made: dict[tuple[float, ...], sparse.csr_matrix] = {}

    def unseen(settings: Mapping[str, float]) -> ItemTables:
        own = {key: settings[key] for key in start}
        if (key := tuple(own.values())) not in made:
            made[key] = table(own)
        return ItemTables(bias_I, (Term(settings["history_decay"], made[key]),))

    choice = best_with_seen(
        {**start, **HISTORY_START},
        {**grids, **HISTORY_GRIDS},
        lambda settings: choose_seen(unseen(settings).scores, select, catalogue, settings["history_decay"]),
    )
    report(choice.said(name))
    tables, settings = unseen(choice.settings), choice.settings
    seen = Seen(settings["seen"], settings["history_decay"], catalogue.sid_numbers_I)
    facts = {**choice.facts, "parameters": tables.terms[0].table.nnz + len(bias_I)}
    return ItemToItem(dataclasses.replace(tables, seen=seen), facts)
