"""A model whose matrices are of eight bits is another model, and its search is as exact as any."""

import types

import jax
import numpy as np
import pytest

from tests.decoding.test_beam_search import assert_ranks, step_scores, textbook_beams
from tsrec_jax.decoding.beam_search import SearchSettings, beam_search
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.hf import KERNELS
from tsrec_jax.models.inference import InferenceModel
from tsrec_jax.models.int8 import Int8Rows
from tsrec_jax.models.layers import INPUT_AXES, parameter_shapes
from tsrec_jax.pipeline.search import ModelSearch
from tsrec_jax.settings import default_config, settings_of


def rounded(matrix_RD):
    """Rows of whole numbers up to 127, times a scale each."""
    scale_R1 = np.abs(matrix_RD).max(axis=1, keepdims=True) / np.float32(127)
    return np.round(matrix_RD / scale_R1) * scale_R1


def dequantised(model):
    """The decoder that a model of eight bits is: kernels are rounded for each output, tables for each token."""
    weights = {f"blocks/{name}": np.array(stacked) for name, stacked in model.blocks.stacked().items()}
    for name, stacked in weights.items():
        if name in KERNELS:
            inputs = np.prod(stacked.shape[1 : 1 + INPUT_AXES.get(name.removeprefix("blocks/"), 1)])
            for kernel in stacked:
                kernel[:] = rounded(kernel.reshape(inputs, -1).T).T.reshape(kernel.shape)
    weights |= {"embedding": rounded(np.array(model.embedding[...])), "final_norm": np.array(model.final_norm[...])}
    if model.head is not None:
        weights["head"] = rounded(np.array(model.head[...]))
    assert weights.keys() == parameter_shapes(model.config).keys()
    return Decoder(model.config, weights=weights, num_tokens=model.num_tokens)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_search_finds_the_best_sids_of_the_rounded_model(make_model, make_trie, prompts, padded, tied):
    model, trie = make_model(family="qwen2", tied=tied, layers=1), make_trie()
    found = beam_search(InferenceModel.of(model, "int8"), trie.arrays, *padded, SearchSettings(8))
    scores_BNC = step_scores(dequantised(model), trie, prompts)
    other_BNC = step_scores(model, trie, prompts)
    for row, scores_NC in enumerate(scores_BNC):
        wanted = textbook_beams(scores_NC, trie.sid_codes(), 8)
        assert_ranks(np.asarray(found.codes_BWC[row]), np.asarray(found.scores_BW[row]), wanted)
    assert np.abs(scores_BNC - other_BNC).max() > 1e-3  # rounding shows, or nothing was tested


def test_rows_are_off_by_half_a_scale_at_most_and_a_row_of_zeros_stays(make_model):
    matrix_RD = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32) * np.array([[1e-6, 1, 0, 30, 1e4]]).T
    held = Int8Rows.of(matrix_RD.astype(np.float32))
    again_RD = np.asarray(held.codes_RD) * np.asarray(held.scale_R)[:, None]
    assert (np.abs(again_RD - matrix_RD) <= np.asarray(held.scale_R)[:, None] * 0.501).all()
    assert (np.abs(np.asarray(held.codes_RD)).max(axis=1) == [127, 127, 0, 127, 127]).all()


def test_matrices_take_a_quarter_of_the_memory_and_the_setting_chooses_them(make_model):
    model = make_model()
    held = {}
    for weights in ("full", "int8"):
        settings = settings_of(default_config()).changed({"eval": {"weights": weights}})
        found = ModelSearch.of(types.SimpleNamespace(), settings, model).model
        held[weights] = sum(leaf.nbytes for leaf in jax.tree.leaves((found.layers, found.embedding_VD, found.head_VD)))
    assert 0.25 < held["int8"] / held["full"] < 0.32  # the norms and the scales of these short rows
