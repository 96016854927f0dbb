import json

import numpy as np
import pytest

from tests.evaluation.catalogues import catalogue_of
from tsrec_jax.errors import UserError
from tsrec_jax.evaluation.predictions import Predictions, compare_files, read_predictions, write_predictions

CATALOGUE = catalogue_of([(n, 0) for n in range(12)])
SIDS = list(CATALOGUE.items_of_sid)


def write(path, ranks, users=None):
    """Predictions in which the target of each row, SID 0, stands at the given rank; a user a row by default."""
    lists = [[*SIDS[1 : rank + 1], SIDS[0], *SIDS[rank + 1 :]] for rank in ranks]
    users = [f"u{n}" for n in range(len(ranks))] if users is None else users
    write_predictions(path, Predictions(users, [SIDS[0]] * len(ranks), lists))
    return path


def test_predictions_come_back_as_written(tmp_path):
    path = tmp_path / "p.json"
    written = Predictions(["u", "v"], SIDS[:2], [SIDS[:3], SIDS[3:5]])
    write_predictions(path, written)
    assert read_predictions(path) == written
    assert json.loads(path.read_text())[0] == {"user": "u", "output": SIDS[0], "predict": SIDS[:3]}
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.json"]


def test_a_small_difference_in_every_row_is_significant_though_rows_vary(tmp_path):
    """Pairing is what sees it: the rows differ from one another far more than the systems do."""
    ranks = np.random.default_rng(0).integers(0, 9, 60)
    better, worse = write(tmp_path / "a.json", ranks), write(tmp_path / "b.json", ranks + 1)
    found = compare_files(better, worse, CATALOGUE)
    assert (found.level, found.metric) == ("sid", "NDCG@10")
    assert found.difference == pytest.approx(found.first_mean - found.second_mean)
    assert 0 < found.users.interval[0] < found.difference < found.users.interval[1]
    assert found.users.p_value < 0.01
    back = compare_files(worse, better, CATALOGUE)
    assert back.difference == pytest.approx(-found.difference)
    assert back.users.p_value < 0.01


def test_the_p_value_is_two_sided(tmp_path):
    """30 rows for the one and 18 for the other of 200: the normal approximation gives 0.081."""
    first = write(tmp_path / "a.json", [0] * 30 + [5] * 170)
    second = write(tmp_path / "b.json", [5] * 30 + [0] * 18 + [5] * 152)
    assert compare_files(first, second, CATALOGUE, metric="HR@1").users.p_value == pytest.approx(0.081, abs=0.025)


def test_rows_of_one_user_count_as_one_piece_of_evidence(tmp_path):
    """40 rows in favour look like much, but two users had them."""
    ranks = [0] * 40, [5] * 40
    widths = []
    for users in (None, ["u"] * 20 + ["v"] * 20):
        files = [
            write(tmp_path / f"{n}.json", [*row, 9, 0], users and [*users, "w", "x"]) for n, row in enumerate(ranks)
        ]
        low, high = compare_files(*files, CATALOGUE).users.interval
        widths.append(high - low)
    assert widths[1] > 3 * widths[0]


def test_noise_is_not_significant(tmp_path):
    rng = np.random.default_rng(1)
    files = [write(tmp_path / f"{name}.json", rng.integers(0, 11, 60)) for name in "ab"]
    found = compare_files(*files, CATALOGUE, metric="HR@5")
    assert found.users.interval[0] < 0 < found.users.interval[1]
    assert found.users.p_value > 0.05


def test_a_system_does_not_differ_from_itself(tmp_path):
    path = write(tmp_path / "a.json", [0, 3, 5])
    found = compare_files(path, path, CATALOGUE)
    assert (found.difference, found.users.p_value) == (0.0, 1.0)


def test_files_of_other_rows_or_other_forms_are_refused(tmp_path):
    path = write(tmp_path / "a.json", [0, 1])
    for other in (write(tmp_path / "b.json", [0]), write(tmp_path / "b.json", [0, 1], ["u0", "u0"])):
        with pytest.raises(UserError, match="same users and targets"):
            compare_files(path, other, CATALOGUE)
    with pytest.raises(UserError, match=r"d\.json: not there"):
        compare_files(path, tmp_path / "d.json", CATALOGUE)


GOOD = {"user": "u", "output": SIDS[0], "predict": SIDS[:3]}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("{", ": not valid JSON .*; not a predictions file; .* once it is deleted"),
        ("[]", ": .* no list with at least one row"),
        ({"a": 1}, ": .* no list with at least one row"),
        ([GOOD, {"output": SIDS[0]}], ", row 2: not a row of a predictions file"),
        ([GOOD, "x"], ", row 2: not a row of a predictions file"),
        ([{key: GOOD[key] for key in ("output", "predict")}], ", row 1: has no user, .* delete the file and run"),
        ([GOOD | {"predict": 3}], ", row 1: .* predict a list of texts"),
        ([GOOD | {"predict": [3]}], ", row 1: .* predict a list of texts"),
        ([GOOD | {"user": 7}], ", row 1: user and output must be texts"),
        ([GOOD | {"predict": [SIDS[1], SIDS[1]]}], ", row 1: a SID stands twice"),
        ([GOOD | {"output": "<z_9>"}], ", row 1: SID '<z_9>' is not in the catalogue"),
        ([GOOD, GOOD | {"predict": ["<z_9>"]}], ", row 2: SID '<z_9>' is not in the catalogue"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_row(tmp_path, rows, said):
    path = tmp_path / "p.json"
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    with pytest.raises(UserError, match=rf"^{path}{said}"):
        compare_files(path, path, CATALOGUE)
