"""The arithmetic of a request against what JAX traces of the search."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.planning.test_accounting import shape_of, traced_flops
from tsrec_jax.decoding.beam_search import SearchSettings, beam_search
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.inference import InferenceModel, make_prefix
from tsrec_jax.models.layers import parameter_shapes
from tsrec_jax.planning.search_flops import search_flops

SIZES = (6, 5, 7)


@pytest.mark.parametrize(("normaliser", "shared"), [("constrained", 0), ("vocabulary", 3)])
def test_flops_are_the_matrix_products_of_the_traced_search(normaliser, shared):
    config = shape_of(layers=3, vocabulary=64)
    weights = {name: np.zeros(shape, np.float32) for name, (shape, _) in parameter_shapes(config).items()}
    model = InferenceModel.of(Decoder(config, weights=weights))
    codes_IC = np.random.default_rng(0).integers(0, SIZES, (90, 3))
    ends = 40 + np.cumsum(SIZES)
    ids = [np.arange(end - size, end, dtype=np.int32) for end, size in zip(ends, SIZES, strict=True)]
    trie = Trie.from_codes(codes_IC, SIZES, ids)
    prefix = make_prefix(model, (1, 2, 3)) if shared else None
    traced = beam_search.trace(
        model,
        trie.arrays,
        jnp.zeros((1, 8), jnp.int32),
        jnp.array([8], jnp.int32),
        SearchSettings(beams=10, normaliser=normaliser),
        prefix,
    )
    found = search_flops(
        config,
        prompt=8,
        shared=shared,
        codes=SIZES,
        widths=[level.width for level in trie.arrays.levels],
        beams=10,
        whole_vocabulary=normaliser == "vocabulary",
    )
    assert found == traced_flops(traced.jaxpr.jaxpr)
