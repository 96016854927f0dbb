"""The search on the whole catalogue of Industrial against the score of every SID in it."""

import numpy as np
import pytest

from tests.decoding.test_beam_search import assert_ranks, best_sids, step_scores
from tsrec_jax.data.dataset import read_dataset
from tsrec_jax.decoding.beam_search import SearchSettings
from tsrec_jax.decoding.generate import Searcher
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.inference import InferenceModel
from tsrec_jax.models.layers import parameter_shapes

ORDINARY = 32
PROMPTS = [[3, 14, 15, 9, 2], [26, 5, 3, 5, 8, 9, 7, 9]]


@pytest.fixture(scope="module")
def trie(shared_data):
    catalogue = read_dataset(shared_data / "Industrial_and_Scientific").catalogue
    return Trie.of_catalogue(catalogue, ORDINARY)


@pytest.fixture(scope="module")
def model():
    facts = {
        "model_type": "llama",
        "vocab_size": 640,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
    }
    config = ModelConfig.from_hf(facts)
    rng = np.random.default_rng(0)
    weights = {
        name: rng.normal(0.0, 0.5, shape).astype(np.float32) for name, (shape, _) in parameter_shapes(config).items()
    }
    weights["head"] *= 6  # sure enough that some answers are proven
    return Decoder(config, weights=weights, num_tokens=ORDINARY + 560)


def test_proven_answers_and_exact_ones_are_the_best_of_all_sids(model, trie):
    assert (trie.num_sids, trie.prefixes(1), trie.prefixes(2)) == (3670, 48, 2295)
    totals_BN = step_scores(model, trie, PROMPTS).sum(axis=-1)
    searcher = Searcher(InferenceModel.of(model), trie, SearchSettings(50), batch_size=2, buckets=(16,))
    proven = 0
    for found, totals_N in zip(searcher.run(PROMPTS), totals_BN, strict=True):
        count = int((found.scores_W > found.dropped).sum())
        proven += count
        if count:
            assert_ranks(found.codes_WC[:count], found.scores_W[:count], best_sids(trie, totals_N, count), gap=1e-2)
    assert proven, "the test needs answers that fifty beams prove"
    for found, totals_N in zip(searcher.run_exact(PROMPTS, 50), totals_BN, strict=True):
        assert_ranks(found.codes_WC[:50], found.scores_W[:50], best_sids(trie, totals_N, 50), gap=1e-2)
