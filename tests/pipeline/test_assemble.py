"""The base model of a training: what was pretrained, or its shape alone."""

import jax
import numpy as np
from flax import nnx

from tests.training.conftest import tiny_config
from tsrec_jax.data.catalogue import Catalogue, Item, TokenDescription
from tsrec_jax.data.dataset import Dataset
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.hf import save_hf
from tsrec_jax.models.tokenizer import load_tokenizer
from tsrec_jax.pipeline.assemble import base_model, keyword_ids
from tsrec_jax.settings import default_config, settings_of
from tsrec_jax.shop.shop_lm import train_tokenizer


def weights(model):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model))]


def test_a_random_base_has_the_shape_of_the_pretrained_one_and_none_of_its_weights(tmp_path):
    pretrained = Decoder(tiny_config(), rngs=nnx.Rngs(7))
    save_hf(pretrained, tmp_path / "base")
    config = settings_of(default_config())
    loaded = base_model(config, tmp_path / "base", None)
    for one, other in zip(weights(loaded), weights(pretrained), strict=True):
        np.testing.assert_array_equal(one, other)
    config = config.changed({"model": {"random": True}})
    drawn, again = base_model(config, tmp_path / "base", None), base_model(config, tmp_path / "base", None)
    other_seed = base_model(config.changed({"seed": 43}), tmp_path / "base", None)
    assert [leaf.shape for leaf in weights(drawn)] == [leaf.shape for leaf in weights(loaded)]
    matrices = [n for n, leaf in enumerate(weights(drawn)) if leaf.std() > 0]
    assert len(matrices) == 8  # the table and seven kernels
    for number in matrices:
        one = weights(drawn)[number]
        np.testing.assert_array_equal(one, weights(again)[number])
        assert abs(np.corrcoef(one.ravel(), weights(loaded)[number].ravel())[0, 1]) < 0.2
        assert (one != weights(other_seed)[number]).any()
    config = config.changed({"model": {"num_layers": 1}})
    assert base_model(config, tmp_path / "base", None).config.num_layers == 1


def test_a_keyword_never_gives_a_row_the_embedding_of_a_control_token(tmp_path):
    train_tokenizer(["a steel pan with a lid", "</s"] * 20, tmp_path, vocab_size=300)
    tokenizer = load_tokenizer(tmp_path)
    catalogue = Catalogue((Item("p", "pan"),), (("<a_0>", "<b_0>"),))
    clusters = {
        "<a_0>": TokenDescription("<a_0>", "pans", (f"pan{tokenizer.eos_token}", "lid")),
        "<b_0>": TokenDescription("<b_0>", "lids", ("steel lid", "pan")),
    }
    dataset = Dataset("Toy", tmp_path, catalogue, {}, clusters, "")
    odd, plain = keyword_ids(settings_of(default_config()), dataset, tokenizer)
    assert plain == tokenizer("steel lid pan", add_special_tokens=False)["input_ids"]
    assert tokenizer.eos_token_id not in odd
    assert tokenizer.decode(odd) == f"pan{tokenizer.eos_token} lid"
