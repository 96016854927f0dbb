"""Embeddings of the user's: what is not an array of floats, a row an item, is named in one line."""

import gzip
import re

import numpy as np
import pytest

from tsrec_jax.errors import UserError
from tsrec_jax.sid.given import kind_of_file, read_embeddings, refuse_equal


def cut(path):
    np.save(path, np.ones((3, 4)))
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: np.save(path, np.array([[1.0], "a"], object), allow_pickle=True), "holds Python objects"),
        (cut, "not a whole .npy file"),
        (lambda path: np.save(path, np.ones((3, 0))), "holds float64 of shape (3, 0)"),
        (lambda path: np.save(path, np.ones(3)), "needs floats of shape (3, features)"),
        (lambda path: np.save(path, np.ones((3, 4), np.complex64)), "holds complex64"),
        (lambda path: np.save(path, np.array([[1.0], [2.0], [1e300]])), "row 2 (of 1) is not finite in float32"),
        (lambda path: path.write_text("0.1 0.2\n0.3 0.4\n"), "is a text file, not an .npy file"),
        (lambda path: path.write_bytes(gzip.compress(b"x")), "is a gzip file"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, write, words):
    write(tmp_path / "x.npy")
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        read_embeddings(tmp_path / "x.npy", 3)
    assert "\n" not in str(caught.value) and "allow_pickle" not in str(caught.value)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_of_any_width_are_read(tmp_path, kind):
    np.save(tmp_path / "x.npy", np.array([[0.5, 1.0], [2.0, 4.0]], kind))
    x_ID = read_embeddings(tmp_path / "x.npy", 2)
    assert (x_ID.dtype, x_ID.tolist()) == (np.float32, [[0.5, 1.0], [2.0, 4.0]])


def test_text_whose_first_bytes_end_within_a_character_is_text(tmp_path):
    for shift in range(4):
        (tmp_path / "x.npy").write_text("a" * shift + "\N{EURO SIGN}" * 400, encoding="utf-8")
        assert kind_of_file(tmp_path / "x.npy") == "a text file"


def test_embeddings_that_are_all_equal_are_refused_where_there_are_several():
    with pytest.raises(UserError, match="all 3 items have the same embedding, so codes would say nothing; look at x"):
        refuse_equal(np.ones((3, 2), np.float32), "x")
    refuse_equal(np.ones((1, 2), np.float32), "x")
    refuse_equal(np.array([[1.0], [1.0], [2.0]], np.float32), "x")
