"""The table of several catalogues' SIDs."""

import numpy as np

from benchmarks.sids_and_words import compare_table
from tests.sid.test_quality import report


def test_each_catalogue_has_a_row_and_what_is_not_known_is_said():
    unique = report(np.array([[0, 0], [0, 1], [0, 2], [1, 0], [1, 2]], np.int32))
    assert compare_table({"unique": unique}).endswith(", none |")
    assert compare_table({"ours": report(), "theirs": report()}).count("0.2000") == 2
