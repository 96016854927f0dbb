"""A catalogue of five items, interactions, descriptions, and a byte-level tokenizer that knows the SID tokens."""

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tsrec_jax.data.catalogue import Catalogue, Item, TokenDescription
from tsrec_jax.data.dataset import Dataset, write_dataset
from tsrec_jax.data.interactions import Interactions


@pytest.fixture
def catalogue():
    """Items p1 and p5 share a SID; code numbers are out of order in the items, and 10 follows 9."""
    return Catalogue(
        (
            Item("p1", "Red drill", "A drill. It is red.", "Acme", "Tools, Drills"),
            Item("p2", "Blue saw", "Cuts wood", "", "Tools"),
            Item("p3", 'Glue, "strong" 5"', "", "Stick & Co", ""),
            Item("42", "Étagère 木", "Shelf of 木", "", "Furniture"),
            Item("p5", "Red drill XL", "", "Acme", ""),
        ),
        (
            ("<a_9>", "<b_1>", "<c_3>"),
            ("<a_9>", "<b_2>", "<c_0>"),
            ("<a_10>", "<b_1>", "<c_3>"),
            ("<a_2>", "<b_7>", "<c_1>"),
            ("<a_9>", "<b_1>", "<c_3>"),
        ),
    )


@pytest.fixture
def splits():
    return {
        "train": Interactions(
            ("u1", "u1", "u2", "u3"), ((0,), (0, 1), (3, 2, 1), (1, 4)), np.array([1, 2, 0, 3], np.int32)
        ),
        "valid": Interactions(("u2", "u4"), ((3, 2, 1, 0), (2, 2)), np.array([4, 3], np.int32)),
        "test": Interactions(("u1",), ((0, 1, 2),), np.array([3], np.int32)),
    }


@pytest.fixture
def token_descriptions(catalogue):
    return {
        token: TokenDescription(token, f"things of kind {number}", (f"word{number}", "two words"))
        for number, token in enumerate(catalogue.tokens)
    }


@pytest.fixture
def dataset(tmp_path, catalogue, splits, token_descriptions):
    return Dataset("Shop", tmp_path / "none", catalogue, splits, token_descriptions, "0" * 64)


@pytest.fixture
def folder(tmp_path, catalogue, splits, token_descriptions):
    """A correct dataset folder."""
    write_dataset("Shop", catalogue, splits, token_descriptions.values(), tmp_path / "shop")
    return tmp_path / "shop"


@pytest.fixture
def tokenizer(catalogue):
    """Bytes are ids 0 to 255 in the order of their printed form; 256 joins a newline to an H; 257 ends a text; SID
    tokens follow from 258 in catalogue order."""
    vocabulary = {character: number for number, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary["ĊH"] = 256
    inner = Tokenizer(models.BPE(vocabulary, [("Ċ", "H")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>")
    tokenizer.add_tokens(list(catalogue.tokens))
    return tokenizer
