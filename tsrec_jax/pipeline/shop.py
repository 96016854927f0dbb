"""The embedded shop of a run that names no data: its folder, and how well it can be predicted at best."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

from tsrec_jax.baselines.ranking import rank_sids
from tsrec_jax.data.dataset import Dataset, write_dataset
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.target_ranks import find_targets
from tsrec_jax.data.text_folder import read_texts
from tsrec_jax.errors import UserError
from tsrec_jax.settings import Settings
from tsrec_jax.shop.shop import Shop, make_shop

NAME = "shop"


def is_embedded(settings: Settings) -> bool:
    """Whether the run uses the embedded shop: neither a folder nor raw data is named."""
    return not settings.dataset.path and not settings.prepare.source


def embedded_shop(settings: Settings) -> Shop:
    """The generated shop of these settings; the same settings give the same shop.

    Raises:
      UserError: no shop can have these sizes.
    """
    try:
        return make_shop(seed=settings.seed, num_items=settings.shop.num_items, num_users=settings.shop.num_users)
    except ValueError as error:
        raise UserError(f"config.shop: {error}") from None


def shop_folder(settings: Settings, path: pathlib.Path) -> pathlib.Path:
    """The shop as a dataset folder, `shop/` in the workdir, written if it is missing.

    Raises:
      UserError: `path` holds another shop.
    """
    folder, shop = path / "shop", embedded_shop(settings)
    if not folder.exists():
        write_dataset(NAME, shop.catalogue, shop.splits, shop.token_descriptions, folder)
    there = read_texts(folder)
    if there.items != shop.catalogue.items or there.splits != shop.splits:
        raise UserError(f"{folder}: a shop of another seed, num_items or num_users; give another --workdir")
    return folder


def upper_bound(settings: Settings, dataset: Dataset, rows: Interactions, metrics: Sequence[str]) -> dict[str, float]:
    """SID-level metrics of the embedded shop's own process: SIDs ranked by their true probability."""
    shop, numbers_I = embedded_shop(settings), dataset.catalogue.sid_numbers_I
    ranked = []
    for history in rows.histories:
        of_sids_I = np.bincount(numbers_I, weights=shop.next_item_probabilities(history))[numbers_I]
        ranked += rank_sids(of_sids_I[None], dataset.catalogue, settings.eval.beams)
    return find_targets(ranked, rows.targets, dataset.catalogue).means(metrics)["sid"]
