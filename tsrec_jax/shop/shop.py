"""The embedded default: a generated shop whose every item and purchase follows a stated grammar and process.

Items. Each has a category, a kind (four to a category) and a finish. Its SID names them level by level: `<a_i>` the
category, `<b_j>` the kind, `<c_k>` the finish. Some combinations are sold by two brands, and those items share a SID.

Purchases. A user has a favourite finish, drawn uniformly, and never changes it. The first item is drawn by popularity
among all items, those in the favourite finish counting TASTE times as much. Each next item comes, given the last one,
  with probability 0.5 from the kind that goes with the last item's kind,
  with probability 0.25 from the last item's category,
  with probability 0.15 from the last item's kind,
  with probability 0.1 from all items by popularity;
within the first three, items in the favourite finish count TASTE times as much as the others. The last item itself is
never bought twice in a row. What goes with a kind is written in the descriptions, so words predict purchases.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from tsrec_jax.data.catalogue import Catalogue, Item, TokenDescription
from tsrec_jax.data.interactions import Interactions

KINDS = {
    "kitchen": ("saucepan", "chopping board", "spice jar", "tea kettle"),
    "garden": ("watering can", "plant pot", "hand trowel", "bird feeder"),
    "office": ("pen holder", "desk lamp", "document tray", "wall clock"),
    "bathroom": ("soap dish", "towel rail", "mirror", "laundry basket"),
    "bedroom": ("night stand", "blanket box", "reading light", "coat hook"),
    "workshop": ("tool chest", "clamp", "work stool", "shelf bracket"),
    "travel": ("lunch box", "water bottle", "luggage tag", "camping mug"),
    "pets": ("feeding bowl", "grooming brush", "pet carrier", "scratching post"),
}
FINISHES = {
    "oak": "warm natural wood grain",
    "steel": "brushed metal that does not rust",
    "ceramic": "smooth glazed clay",
    "bamboo": "light fast growing cane",
    "copper": "reddish metal with a patina",
    "glass": "clear and easy to clean",
    "enamel": "bright coated iron",
    "rattan": "woven by hand",
    "marble": "cool veined stone",
    "walnut": "dark fine grained timber",
}
BRANDS = ("Alder", "Brook", "Cobalt", "Dunmore", "Elkhorn", "Fennel", "Garnet", "Hollis")
TASTE = 12.0
SHARES = {"goes with": 0.5, "category": 0.25, "kind": 0.15, "popularity": 0.1}
MAX_PURCHASES = 11  # so that no history is longer than ten and nothing a user bought is hidden from a model
COLLISION_SHARE = 0.04
MIN_USERS = 10


@dataclasses.dataclass(frozen=True)
class Shop:
    """A generated data set with the process behind it.

    Attributes:
      catalogue, splits, token_descriptions: as in a dataset folder.
      kinds_I, categories_I, finishes_I: int attribute of each item, as numbered in KINDS and FINISHES.
      goes_with: for each kind the kind that goes with it.
      popularity_I: float64, sums to 1.
    """

    catalogue: Catalogue
    splits: Mapping[str, Interactions]
    token_descriptions: Sequence[TokenDescription]
    kinds_I: np.ndarray
    categories_I: np.ndarray
    finishes_I: np.ndarray
    goes_with: np.ndarray
    popularity_I: np.ndarray

    @functools.cached_property
    def _transitions_ZII(self) -> np.ndarray:
        """P(next item | last item) for every favourite finish."""
        return np.stack([_transitions(self, finish) for finish in range(len(FINISHES))])

    @functools.cached_property
    def _first_ZI(self) -> np.ndarray:
        weights_ZI = self.popularity_I * np.where(self.finishes_I == np.arange(len(FINISHES))[:, None], TASTE, 1.0)
        return weights_ZI / weights_ZI.sum(axis=1, keepdims=True)

    def next_item_probabilities(self, history: Sequence[int]) -> np.ndarray:
        """P(next item | history), float64 of shape (I,), under the generating process.

        The favourite finish is inferred from the whole history by Bayes' rule, exactly.
        """
        log_posterior_Z = np.log(self._first_ZI[:, history[0]])
        for last, item in itertools.pairwise(history):
            log_posterior_Z = log_posterior_Z + np.log(self._transitions_ZII[:, last, item])
        posterior_Z = np.exp(log_posterior_Z - log_posterior_Z.max())
        return (posterior_Z / posterior_Z.sum()) @ self._transitions_ZII[:, history[-1]]


def _transitions(shop: Shop, finish: int) -> np.ndarray:
    taste_I = np.where(shop.finishes_I == finish, TASTE, 1.0)
    kinds_I, categories_I = shop.kinds_I, shop.categories_I
    parts = {
        "goes with": (shop.goes_with[kinds_I][:, None] == kinds_I) * taste_I,
        "category": (categories_I[:, None] == categories_I) * taste_I,
        "kind": (kinds_I[:, None] == kinds_I) * taste_I,
        "popularity": np.tile(shop.popularity_I, (len(kinds_I), 1)),
    }
    total_II = np.zeros((len(kinds_I), len(kinds_I)))
    for name, weights_II in parts.items():
        weights_II = weights_II.astype(np.float64)
        np.fill_diagonal(weights_II, 0.0)
        sums_I1 = weights_II.sum(axis=1, keepdims=True)
        # A kind with one item offers no other of its kind: popularity takes over.
        weights_II = np.where(sums_I1 > 0, weights_II, np.where(np.eye(len(kinds_I)) > 0, 0.0, shop.popularity_I))
        total_II += SHARES[name] * weights_II / weights_II.sum(axis=1, keepdims=True)
    return total_II


def make_shop(seed: int, num_items: int = 300, num_users: int = 900) -> Shop:
    """Generates a shop; equal arguments give equal shops.

    Args:
      seed: seed of everything random.
      num_items: from 64 to 320 combinations of kind and finish, and a few of them sold twice.
      num_users: users with 3 to 11 purchases each.

    Raises:
      ValueError: more items than the grammar has combinations, or too few of them or of users.
    """
    if num_users < MIN_USERS:
        raise ValueError(f"num_users={num_users}: at least {MIN_USERS} are needed for three splits")
    rng = np.random.default_rng(seed)
    kind_names = [(category, kind) for category, kinds in KINDS.items() for kind in kinds]
    doubles = round(num_items * COLLISION_SHARE)
    singles = num_items - doubles
    combinations = len(kind_names) * len(FINISHES)
    if not 2 * len(kind_names) <= singles <= combinations:
        raise ValueError(
            f"num_items={num_items}: the grammar has {combinations} combinations of kind and finish and needs two a "
            f"kind, so give {2 * len(kind_names) + 3} to {combinations}"
        )
    # Every kind gets at least two finishes, so that no cluster of kind is empty; the rest is drawn.
    order = [rng.permutation(len(FINISHES)) for _ in kind_names]
    pairs = [(kind, int(order[kind][place])) for place in range(len(FINISHES)) for kind in range(len(kind_names))]
    chosen = pairs[: 2 * len(kind_names)]
    rest = pairs[2 * len(kind_names) :]
    chosen += [rest[index] for index in rng.permutation(len(rest))[: singles - len(chosen)]]
    chosen += [chosen[index] for index in rng.choice(singles, doubles, replace=False)]
    chosen = [chosen[index] for index in rng.permutation(len(chosen))]
    goes_with = _cycle(len(kind_names), rng)

    kinds_I = np.array([kind for kind, _ in chosen])
    finishes_I = np.array([finish for _, finish in chosen])
    categories_I = kinds_I // 4
    ranks = rng.permutation(num_items)
    popularity_I = 1.0 / (ranks + 5.0) ** 0.8
    items = _items(chosen, kind_names, goes_with, rng)
    sids = tuple((f"<a_{kind // 4}>", f"<b_{kind}>", f"<c_{finish}>") for kind, finish in chosen)
    shop = Shop(
        catalogue=Catalogue(items, sids),
        splits={},
        token_descriptions=_descriptions(kind_names, goes_with, set(finishes_I.tolist())),
        kinds_I=kinds_I,
        categories_I=categories_I,
        finishes_I=finishes_I,
        goes_with=goes_with,
        popularity_I=popularity_I / popularity_I.sum(),
    )
    return dataclasses.replace(shop, splits=_histories(shop, num_users, rng))


def _cycle(count: int, rng: np.random.Generator) -> np.ndarray:
    """A random permutation that is one cycle, so that no kind goes with itself."""
    order = rng.permutation(count)
    following = np.empty(count, np.int64)
    following[order] = np.roll(order, -1)
    return following


def _items(
    chosen: Sequence[tuple[int, int]],
    kind_names: Sequence[tuple[str, str]],
    goes_with: np.ndarray,
    rng: np.random.Generator,
) -> tuple[Item, ...]:
    items = []
    seen: set[str] = set()
    for number, (kind, finish) in enumerate(chosen):
        category, name = kind_names[kind]
        material, feel = list(FINISHES.items())[finish]
        free = [brand for brand in BRANDS if f"{brand} {material} {name}" not in seen]
        brand = free[int(rng.integers(len(free)))]
        title = f"{brand} {material} {name}"
        seen.add(title)
        partner = kind_names[goes_with[kind]][1]
        description = (
            f"A {name} for the {category}, made of {material}, {feel}. It goes well with a {partner}. Made by {brand}."
        )
        items.append(Item(f"S{number:03d}", title, description, brand, category))
    return tuple(items)


def _descriptions(
    kind_names: Sequence[tuple[str, str]], goes_with: np.ndarray, finishes: set[int]
) -> list[TokenDescription]:
    descriptions = []
    for number, (category, kinds) in enumerate(KINDS.items()):
        description = f"Things for the {category}: {', '.join(kinds)}."
        descriptions.append(TokenDescription(f"<a_{number}>", description, (category, f"for the {category}", *kinds)))
    for kind, (category, name) in enumerate(kind_names):
        partner = kind_names[goes_with[kind]][1]
        description = f"Every {name} for the {category}. It goes well with a {partner}."
        descriptions.append(
            TokenDescription(f"<b_{kind}>", description, (name, category, f"goes well with a {partner}"))
        )
    for number, (material, feel) in enumerate(FINISHES.items()):
        if number in finishes:
            description = f"Things made of {material}, {feel}."
            descriptions.append(TokenDescription(f"<c_{number}>", description, (material, f"made of {material}", feel)))
    return descriptions


def _histories(shop: Shop, num_users: int, rng: np.random.Generator) -> dict[str, Interactions]:
    """Purchases of all users, every prefix a row, sorted by time and cut 8:1:1."""
    rows = []
    for user in range(num_users):
        finish = int(rng.integers(len(FINISHES)))
        bought = [int(rng.choice(len(shop.popularity_I), p=shop._first_ZI[finish]))]
        time = rng.uniform(0.0, 100.0)
        for _ in range(int(rng.integers(2, MAX_PURCHASES))):
            time += rng.exponential(2.0)
            item = int(rng.choice(len(shop.popularity_I), p=shop._transitions_ZII[finish, bought[-1]]))
            rows.append((time, f"U{user:04d}", tuple(bought), item))
            bought.append(item)
    rows.sort(key=lambda row: row[0])
    first, second = int(len(rows) * 0.8), int(len(rows) * 0.9)
    parts = {"train": rows[:first], "valid": rows[first:second], "test": rows[second:]}
    return {
        split: Interactions(
            tuple(user for _, user, _, _ in part),
            tuple(history for _, _, history, _ in part),
            np.array([target for _, _, _, target in part], np.int32),
        )
        for split, part in parts.items()
    }
