"""Size-constrained assignment of rows to codes at the least total cost, in JAX.

Entropic optimal transport (Sinkhorn scaling; Cuturi, 2013) finds prices of the codes under which every row that takes
its cheapest code leaves the codes nearly even. What is left over moves along shortest augmenting paths (successive
shortest paths, as in Ahuja, Magnanti and Orlin, "Network Flows", 1993): a choice by prices is optimal for the sizes it
has, and each shortest path keeps it so, hence the result is the least cost and not an approximation of it.

Axis letters: I rows, E codes (F: the code that a row moves to).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

TEMPERATURES = (0.1, 0.03, 0.01)  # of the transport, as shares of the mean gap between a row's mean and least cost
SCALINGS = 30  # Sinkhorn scalings at each temperature
ROUNDING = 1e-6  # differences below this share of the largest cost are rounding errors


class _Flow(NamedTuple):
    """Who holds what, and what it costs to move.

    codes_I: code of each row. spare_E: True where a code holds one row less than most. sizes_E: rows of each code,
    spare places counted. moves_EF: least cost of moving one row from code e to code f; inf where e has none.
    """

    codes_I: jax.Array
    spare_E: jax.Array
    sizes_E: jax.Array
    moves_EF: jax.Array


def transport_prices(cost_IE: jax.Array, prices_E: jax.Array | None = None) -> jax.Array:
    """Prices under which rows that take the code of least cost + price fill the codes nearly evenly.

    Args:
      cost_IE: float32.
      prices_E: float32, of a similar problem: only the last temperature is run then. None: all of them, from zero.

    Returns:
      float32 prices_E, the least of them 0.
    """
    cost_IE = cost_IE - cost_IE.min(axis=1, keepdims=True)
    # Where every row's costs are equal there is no gap, and any temperature gives the same prices: all zero.
    mean = cost_IE.mean()
    gap = jnp.where(mean * TEMPERATURES[-1] > jnp.finfo(jnp.float32).tiny, mean, 1.0)
    log_share = jnp.log(cost_IE.shape[0] / cost_IE.shape[1])
    temperatures = TEMPERATURES if prices_E is None else TEMPERATURES[-1:]
    prices_E = jnp.zeros(cost_IE.shape[1], jnp.float32) if prices_E is None else prices_E

    def scaling(prices_E: jax.Array, temperature: jax.Array) -> tuple[jax.Array, None]:
        log_plan_IE = jax.nn.log_softmax(-(cost_IE + prices_E) / temperature, axis=1)
        return prices_E + temperature * (jax.nn.logsumexp(log_plan_IE, axis=0) - log_share), None

    schedule = gap * jnp.repeat(jnp.array(temperatures, jnp.float32), SCALINGS)
    prices_E, _ = jax.lax.scan(scaling, prices_E, schedule)
    return prices_E - prices_E.min()


@jax.jit
def balanced_assignment(cost_IE: jax.Array, prices_E: jax.Array | None = None) -> jax.Array:
    """Codes of least total cost such that every code takes floor(I / E) or ceil(I / E) rows.

    Args:
      cost_IE: float32, finite.
      prices_E: float32, from `transport_prices`; they decide the time taken, not the result. None: they are computed.

    Returns:
      int32 codes_I.
    """
    rows, codes = cost_IE.shape
    cost_IE = cost_IE - cost_IE.min(axis=1, keepdims=True)  # changes no choice; keeps float32 sums small
    prices_E = transport_prices(cost_IE) if prices_E is None else prices_E
    capacity = -(-rows // codes)
    tolerance = ROUNDING * cost_IE.max()
    codes_I = jnp.argmin(cost_IE + prices_E, axis=1).astype(jnp.int32)
    # Codes x capacity - I places stay empty, one a code: as if a row that costs nothing took the cheapest of them.
    spare_E = jnp.argsort(jnp.argsort(prices_E)) < codes * capacity - rows
    sizes_E = jnp.zeros(codes, jnp.int32).at[codes_I].add(1) + spare_E
    moves_EF = jax.ops.segment_min(cost_IE - jnp.take_along_axis(cost_IE, codes_I[:, None], axis=1), codes_I, codes)
    flow = _Flow(codes_I, spare_E, sizes_E, moves_EF.at[jnp.arange(codes), jnp.arange(codes)].set(jnp.inf))

    def uneven(flow: _Flow) -> jax.Array:
        return (flow.sizes_E > capacity).any()

    return jax.lax.while_loop(uneven, lambda flow: _augment(flow, cost_IE, capacity, tolerance), flow).codes_I


def _moves(cost_IE: jax.Array, codes_I: jax.Array, code: jax.Array, chunk: int) -> jax.Array:
    """For each other code the least cost of moving one row of `code` there; its rows are read `chunk` at a time."""
    holds_I = codes_I == code
    place_I = jnp.cumsum(holds_I) - 1

    def read(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        moves_F, start = state
        within_I = holds_I & (place_I >= start) & (place_I < start + chunk)
        rows = jnp.nonzero(within_I, size=chunk, fill_value=len(codes_I))[0]
        cost_RF = cost_IE.at[rows].get(mode="fill", fill_value=jnp.inf)
        own_R = jnp.where(rows < len(codes_I), cost_RF[:, code], 0.0)
        return jnp.minimum(moves_F, (cost_RF - own_R[:, None]).min(axis=0)), start + chunk

    start = (jnp.full(cost_IE.shape[1], jnp.inf), jnp.zeros((), place_I.dtype))
    moves_F, _ = jax.lax.while_loop(lambda state: state[1] < holds_I.sum(), read, start)
    return moves_F.at[code].set(jnp.inf)


def _augment(flow: _Flow, cost_IE: jax.Array, capacity: int, tolerance: jax.Array) -> _Flow:
    """Moves one row's worth along the shortest path from a code that has too many to one that has room."""
    codes = len(flow.sizes_E)
    spare_moves_EF = jnp.where(flow.spare_E[:, None] & ~flow.spare_E, 0.0, jnp.inf)
    length_E, parent_E = _shortest(jnp.minimum(flow.moves_EF, spare_moves_EF), flow.sizes_E > capacity, tolerance)
    end = jnp.argmin(jnp.where(flow.sizes_E < capacity, length_E, jnp.inf))

    def step(state: tuple[_Flow, jax.Array]) -> tuple[_Flow, jax.Array]:
        flow, to = state
        code = parent_E[to]
        by_spare = spare_moves_EF[code, to] < flow.moves_EF[code, to]
        cheapest = jnp.argmin(jnp.where(flow.codes_I == code, cost_IE[:, to] - cost_IE[:, code], jnp.inf))
        row = jnp.where(by_spare, len(flow.codes_I), cheapest)
        spare_E = jnp.where(by_spare, flow.spare_E.at[code].set(False).at[to].set(True), flow.spare_E)
        return flow._replace(codes_I=flow.codes_I.at[row].set(to, mode="drop"), spare_E=spare_E), code

    moved, start = jax.lax.while_loop(lambda state: parent_E[state[1]] >= 0, step, (flow, end.astype(jnp.int32)))
    moved = moved._replace(sizes_E=flow.sizes_E.at[start].add(-1).at[end].add(1))

    def renew(state: tuple[_Flow, jax.Array]) -> tuple[_Flow, jax.Array]:
        flow, code = state
        flow = flow._replace(moves_EF=flow.moves_EF.at[code].set(_moves(cost_IE, flow.codes_I, code, capacity)))
        return flow, jnp.where(code == start, codes, parent_E[code])

    return jax.lax.while_loop(lambda state: state[1] < codes, renew, (moved, end.astype(jnp.int32)))[0]


def _shortest(moves_EF: jax.Array, source_E: jax.Array, tolerance: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Bellman and Ford's path lengths from the sources, and the code before each on its path (-1 at a source)."""

    def relax(state):
        length_E, parent_E, _ = state
        through_EF = length_E[:, None] + moves_EF
        best_F = through_EF.min(axis=0)
        shorter_F = best_F < length_E - tolerance
        parent_F = jnp.where(shorter_F, jnp.argmin(through_EF, axis=0).astype(jnp.int32), parent_E)
        return jnp.where(shorter_F, best_F, length_E), parent_F, shorter_F.any()

    length_E = jnp.where(source_E, 0.0, jnp.inf)
    parent_E = jnp.full(len(source_E), -1, jnp.int32)
    length_E, parent_E, _ = jax.lax.while_loop(lambda state: state[2], relax, (length_E, parent_E, jnp.array(True)))
    return length_E, parent_E
