"""Sizes by rule, and sizes that cannot hold a catalogue."""

import math

import pytest

from tsrec_jax.errors import UserError
from tsrec_jax.sid.sizes import MOST_SIZES, SIDS_AN_ITEM, fitting_sizes, refuse_too_few


@pytest.mark.parametrize(
    ("items", "sizes"),
    [
        (1, (8,) * 3),
        (80, (8,) * 3),
        (1204, (32,) * 3),
        (3686, (64,) * 3),
        (12_101, (128,) * 3),
        (50_000, MOST_SIZES),
        (4_194_304, MOST_SIZES),
        (4_194_305, (256,) * 4),
    ],
)
def test_a_level_has_about_as_many_codes_as_its_codes_have_items(items, sizes):
    assert fitting_sizes(items) == sizes


def test_the_rule_always_leaves_room():
    assert all(math.prod(fitting_sizes(items)) >= SIDS_AN_ITEM * items for items in range(1, 3000))


def test_fewer_sids_than_items_are_refused_with_sizes_that_would_do():
    with pytest.raises(UserError, match=r"\(4, 4, 4\) makes 4x4x4 = 64 SIDs for 65 items.*sizes=\(8, 8, 8\) would do"):
        refuse_too_few((4, 4, 4), 65, "sinkhorn")
    with pytest.raises(UserError, match="collisions=extra_level"):
        refuse_too_few((64,), 65, "none")
    refuse_too_few((4, 4, 4), 64, "sinkhorn")
    refuse_too_few((4, 4, 4), 10_000, "extra_level")  # where a level of its own numbers the items of a code
