"""The sentence-transformers encoder: what it asks of the package, and what it says where there is none."""

import sys
import types

import numpy as np
import pytest

from tsrec_jax.errors import UserError
from tsrec_jax.sid.sentence_encoder import sentence_encoder


class Encoder:
    """Stands in for the package's class."""

    def __init__(self, name, device):
        if name == "absent":
            raise OSError("no such\n model")
        self.max_seq_length = 40

    def encode(self, texts, show_progress_bar):
        assert show_progress_bar is False
        return np.array([[len(text), self.max_seq_length] for text in texts], np.float64)


@pytest.fixture
def package(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", types.SimpleNamespace(SentenceTransformer=Encoder))


@pytest.mark.parametrize(("max_tokens", "read"), [(16, 16), (64, 40)])
def test_vectors_are_float32_and_texts_are_cut_at_the_smaller_limit(package, max_tokens, read):
    x_ID = sentence_encoder("model", max_tokens)(["ab", "abc"])
    assert x_ID.dtype == np.float32
    assert x_ID.tolist() == [[2, read], [3, read]]


def test_a_model_that_cannot_be_loaded_is_named(package):
    with pytest.raises(UserError, match=r"config\.index\.model='absent'.*no such model"):
        sentence_encoder("absent", 8)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"tsrec_jax\[sentence_transformers\]"):
        sentence_encoder("model", 8)
