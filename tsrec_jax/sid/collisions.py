"""Items that share a SID: keep it, give them other codes on the last level, or number them on an additional level.

Axis letters: I items, C levels, E codes of the last level, N items of one node or new items.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from tsrec_jax.sid.assignment import transport_prices


def collision_groups(codes_IC: np.ndarray) -> list[np.ndarray]:
    """Item indices of every SID that several items carry, in the order of their first items."""
    _, inverse_I, counts_N = np.unique(codes_IC, axis=0, return_inverse=True, return_counts=True)
    inverse_I = inverse_I.ravel()
    order_I = np.argsort(inverse_I, kind="stable")
    groups = np.split(order_I, np.cumsum(counts_N)[:-1])
    return sorted((group for group in groups if len(group) > 1), key=lambda group: group[0])


def reassign_last_level(codes_IC: np.ndarray, cost_IE: np.ndarray) -> np.ndarray:
    """Gives the items of every node with a collision different codes on the last level.

    As in the reference, Sinkhorn scaling over all items keeps the level's codes evenly used: it prices the codes, and
    each node takes the assignment of least cost with these prices. A node with more items than codes keeps collisions,
    spread as evenly as possible. Nodes without a collision keep their codes.

    Args:
      codes_IC: int32 codes.
      cost_IE: float32 cost of each last-level code for each item.

    Returns:
      int32 codes of the same shape.
    """
    codes_IC = codes_IC.copy()
    num_codes = cost_IE.shape[1]
    nodes = {tuple(codes_IC[group[0], :-1].tolist()) for group in collision_groups(codes_IC)}
    if not nodes:
        return codes_IC
    from scipy.optimize import linear_sum_assignment  # here, so that a service, which never needs it, starts sooner

    priced_IE = cost_IE + np.asarray(jax.jit(transport_prices)(jnp.asarray(cost_IE)))
    for members_N in _members(codes_IC[:, :-1], nodes):
        for start in range(0, len(members_N), num_codes):
            part_N = members_N[start : start + num_codes]
            codes_IC[part_N, -1] = linear_sum_assignment(priced_IE[part_N])[1]
    return codes_IC


def _members(prefixes: np.ndarray, nodes: set[tuple[int, ...]]) -> list[np.ndarray]:
    members: dict[tuple[int, ...], list[int]] = {node: [] for node in sorted(nodes)}
    for item, prefix in enumerate(map(tuple, prefixes.tolist())):
        if prefix in members:
            members[prefix].append(item)
    return [np.array(items) for items in members.values()]


def number_collisions(codes_IC: np.ndarray) -> np.ndarray:
    """Adds a level: 0 for the first item of a SID, 1 for the second, and so on (as TIGER does, arXiv 2305.05065)."""
    extra_I1 = np.zeros((len(codes_IC), 1), np.int32)
    for group in collision_groups(codes_IC):
        extra_I1[group, 0] = np.arange(len(group))
    return np.concatenate([codes_IC, extra_I1], axis=1)


def code_newcomers(policy: str, old_IC: np.ndarray, new_IC: np.ndarray, cost_NE: np.ndarray | None) -> np.ndarray:
    """Settles the collisions of new items; no old item's codes are changed.

    Args:
      policy: `IndexSettings.collisions`.
      old_IC: int32 codes of the old items, with the extra level if the policy adds one.
      new_IC: int32 codes of the new items from the codebooks alone.
      cost_NE: for `sinkhorn`, float32 cost of each last-level code for each new item.

    Returns:
      int32 codes of the new items: unchanged (`none`), each with the cheapest last code that is free in its node
      (`sinkhorn`; the cheapest of all if none is free), or with the next number of its SID (`extra_level`).
    """
    if policy == "none":
        return new_IC
    if policy == "extra_level":
        count: dict[tuple[int, ...], int] = {}
        for sid in map(tuple, old_IC.tolist()):
            count[sid[:-1]] = max(count.get(sid[:-1], 0), sid[-1] + 1)
        numbers = []
        for sid in map(tuple, new_IC.tolist()):
            numbers.append(count.get(sid, 0))
            count[sid] = numbers[-1] + 1
        return np.concatenate([new_IC, np.array(numbers, np.int32).reshape(-1, 1)], axis=1)
    if cost_NE is None:
        raise ValueError(f"the policy {policy!r} needs costs")
    taken: dict[tuple[int, ...], set[int]] = {}
    for sid in map(tuple, old_IC.tolist()):
        taken.setdefault(sid[:-1], set()).add(sid[-1])
    settled_IC = new_IC.copy()
    for row, prefix in enumerate(map(tuple, new_IC[:, :-1].tolist())):
        used = taken.setdefault(prefix, set())
        order_E = np.argsort(cost_NE[row], kind="stable")
        settled_IC[row, -1] = next((code for code in order_E.tolist() if code not in used), int(order_E[0]))
        used.add(int(settled_IC[row, -1]))
    return settled_IC
