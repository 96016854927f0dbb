"""Size-constrained assignment of rows to codes at the least total cost.

Entropic optimal transport (Sinkhorn scaling; Cuturi, 2013) finds prices of the codes under which the codes are nearly
even if every row takes its cheapest code. The surplus rows move along shortest augmenting paths (successive shortest
paths, as in Ahuja, Magnanti and Orlin, "Network Flows", 1993): a choice by prices is optimal for the sizes that result,
and each shortest path keeps it so, hence the result has exactly the least cost, not approximately.

Axis letters: I rows, E codes (F: the code that a row moves to).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

TEMPERATURES = (0.1, 0.03, 0.01)  # of the transport, as shares of the mean gap between a row's mean and least cost
SCALINGS = 30  # number of Sinkhorn scalings at each temperature
ROUNDING = 1e-6  # differences below this share of the largest cost are rounding errors


def transport_prices(cost_IE: jax.Array, prices_E: jax.Array | None = None) -> jax.Array:
    """Prices under which rows that take the code of least cost + price fill the codes nearly evenly.

    Args:
      cost_IE: float32.
      prices_E: float32, prices of a similar problem to start from, with the last temperature only. None: start from
        zero, with all temperatures.

    Returns:
      float32 prices_E, the lowest being 0.
    """
    cost_IE = cost_IE - cost_IE.min(axis=1, keepdims=True)
    # If each row's costs are all equal, there is no gap, and any temperature gives the same prices: all zero.
    mean = cost_IE.mean()
    gap = jnp.where(mean * TEMPERATURES[-1] > jnp.finfo(jnp.float32).tiny, mean, 1.0)
    log_share = jnp.log(cost_IE.shape[0] / cost_IE.shape[1])
    temperatures = TEMPERATURES if prices_E is None else TEMPERATURES[-1:]
    start_E = jnp.zeros(cost_IE.shape[1], jnp.float32) if prices_E is None else prices_E

    def scaling(prices_E: jax.Array, temperature: jax.Array) -> tuple[jax.Array, None]:
        log_plan_IE = jax.nn.log_softmax(-(cost_IE + prices_E) / temperature, axis=1)
        return prices_E + temperature * (jax.nn.logsumexp(log_plan_IE, axis=0) - log_share), None

    schedule = gap * jnp.repeat(jnp.array(temperatures, jnp.float32), SCALINGS)
    end_E, _ = jax.lax.scan(scaling, start_E, schedule)
    return end_E - end_E.min()


def balanced_assignment(cost_IE: jax.Array, prices_E: jax.Array | None = None) -> np.ndarray:
    """Codes of least total cost such that every code takes floor(I / E) or ceil(I / E) rows.

    Args:
      cost_IE: float32, finite.
      prices_E: float32, from `transport_prices`; they affect the time taken, not the result. None: they are computed.

    Returns:
      int32 codes_I.
    """
    rows, codes = cost_IE.shape
    above_IE, found_E, codes_I = map(np.asarray, _priced(cost_IE, prices_E))
    capacity = -(-rows // codes)
    # Codes x capacity - I places stay empty, one each of the cheapest codes: as if rows without costs took them.
    spare_E = np.argsort(np.argsort(found_E, kind="stable")) < codes * capacity - rows
    flow = _Flow(above_IE, codes_I.copy(), spare_E, capacity, ROUNDING * above_IE.max())
    while (flow.sizes_E > capacity).any():
        flow.augment()
    return flow.codes_I


@jax.jit
def _priced(cost_IE: jax.Array, prices_E: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Costs minus each row's least (which changes no choice and keeps float32 sums small), prices, cheapest codes."""
    cost_IE = cost_IE - cost_IE.min(axis=1, keepdims=True)
    prices_E = transport_prices(cost_IE) if prices_E is None else prices_E
    return cost_IE, prices_E, jnp.argmin(cost_IE + prices_E, axis=1).astype(jnp.int32)


class _Flow:
    """Which code has which rows, and what moves cost. In NumPy: a path touches few codes, with little arithmetic.

    Attributes:
      codes_I: code of each row.
      spare_E: whether a code has a place that stays empty.
      sizes_E: number of rows of each code, its empty place counted as a row.
      moves_EF: least cost of moving one row from code e to code f; inf if e has no rows.
    """

    def __init__(
        self, cost_IE: np.ndarray, codes_I: np.ndarray, spare_E: np.ndarray, capacity: int, tolerance: float
    ) -> None:
        codes = cost_IE.shape[1]
        self.codes_I, self.spare_E = codes_I, spare_E
        self.sizes_E = np.bincount(codes_I, minlength=codes) + spare_E
        self._cost_IE, self._capacity, self._tolerance = cost_IE, capacity, tolerance
        ordered = np.argsort(codes_I, kind="stable")
        self._members = np.split(ordered, np.cumsum(np.bincount(codes_I, minlength=codes))[:-1])
        self.moves_EF = np.full((codes, codes), np.inf, np.float32)
        for code in range(codes):
            self._renew(code, np.arange(codes) != code)

    def augment(self) -> None:
        """Moves one row (or empty place) along the shortest path from a code with too many to one with room."""
        spare_moves_EF = np.where(self.spare_E[:, None] & ~self.spare_E, np.float32(0.0), np.float32(np.inf))
        length_E, parent_E = _shortest(
            np.minimum(self.moves_EF, spare_moves_EF), self.sizes_E > self._capacity, self._tolerance
        )
        end = to = int(np.argmin(np.where(self.sizes_E < self._capacity, length_E, np.inf)))
        steps = []
        while (code := int(parent_E[to])) >= 0:
            if spare_moves_EF[code, to] < self.moves_EF[code, to]:
                self.spare_E[code], self.spare_E[to] = False, True
            else:
                members = self._members[code]
                steps.append((members[np.argmin(self._cost_IE[members, to] - self._cost_IE[members, code])], code, to))
            to = code
        self.sizes_E[to] -= 1
        self.sizes_E[end] += 1
        for row, code, to in steps:
            self._move(row, code, to)

    def _move(self, row: int, code: int, to: int) -> None:
        """Moves a row, and updates the cost of moving a row from either code."""
        cost_E = self._cost_IE[row]
        self.codes_I[row] = to
        self._members[code] = self._members[code][self._members[code] != row]
        # In the order of rows: of equal rows the first one moves, whatever moved before.
        self._members[to] = np.insert(self._members[to], np.searchsorted(self._members[to], row), row)
        self._renew(code, (cost_E - cost_E[code] <= self.moves_EF[code]) & np.isfinite(self.moves_EF[code]))
        others_E = np.arange(len(cost_E)) != to
        self.moves_EF[to] = np.where(others_E, np.minimum(self.moves_EF[to], cost_E - cost_E[to]), np.inf)

    def _renew(self, code: int, which_E: np.ndarray) -> None:
        """Computes the least cost of moving one row from `code` to each of some other codes."""
        members, others = self._members[code], np.flatnonzero(which_E)
        cost_RF = self._cost_IE[members[:, None], others] - self._cost_IE[members, code][:, None]
        self.moves_EF[code, others] = cost_RF.min(axis=0, initial=np.float32(np.inf))


def _shortest(moves_EF: np.ndarray, source_E: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Path lengths from the sources (Bellman-Ford), and the code before each one on its path (-1 at a source)."""
    length_E = np.where(source_E, np.float32(0.0), np.float32(np.inf))
    parent_E = np.full(len(source_E), -1, np.int32)
    shorter = np.flatnonzero(source_E)
    while len(shorter):  # a path gets shorter only through codes whose own path just did
        through_SF = length_E[shorter, None] + moves_EF[shorter]
        best_F = through_SF.min(axis=0)
        found = np.flatnonzero(best_F < length_E - tolerance)
        parent_E[found] = shorter[through_SF[:, found].argmin(axis=0)]
        length_E[found] = best_F[found]
        shorter = found
    return length_E, parent_E
