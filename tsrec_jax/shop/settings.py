"""Settings of the embedded shop."""

from __future__ import annotations

import dataclasses

from tsrec_jax.section import Section, setting


@dataclasses.dataclass(frozen=True)
class ShopSettings(Section, key="shop"):
    """The embedded shop, where neither a dataset folder nor raw data is named."""

    num_items: int = setting(300, "number of items in the catalogue", above=0)
    num_users: int = setting(900, "number of users who buy there", above=0)
