"""The base model of a training: what was pretrained, or its shape alone."""

import dataclasses

import jax
import numpy as np
from flax import nnx

from tests.training.conftest import tiny_config
from tsrec_jax.data.catalogue import Catalogue, Item, TokenDescription
from tsrec_jax.data.dataset import Dataset
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.tasks.task import TaskInputs
from tsrec_jax.data.tasks.ts_align import TsAlign
from tsrec_jax.data.token_words import shuffled_words
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.hf import save_hf
from tsrec_jax.models.small_lm import train_tokenizer
from tsrec_jax.models.tokenizer import load_tokenizer
from tsrec_jax.pipeline.recommender_parts import base_model, load_parts, words_for_rows
from tsrec_jax.settings import default_config, settings_of


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


def test_shuffled_words_are_those_of_the_rows_and_of_the_alignment_task(tmp_path):
    train_tokenizer(["a steel pan with a lid", "oak spoon", "glass bowl"] * 20, tmp_path, vocab_size=300)
    save_hf(Decoder(dataclasses.replace(tiny_config(), vocab_rows=300), rngs=nnx.Rngs(7)), tmp_path)
    items = tuple(Item(f"p{n}", "thing") for n in range(4))
    catalogue = Catalogue(items, tuple((f"<a_{n // 2}>", f"<b_{n % 2}>") for n in range(4)))
    said = iter(("steel", "oak", "glass", "pan", "lid", "bowl"))
    descriptions = [TokenDescription(token, next(said), ("x",)) for token in catalogue.level_tokens[0]]
    descriptions += [TokenDescription(token, next(said), ("x",), prefix=(start,)) for start, token in catalogue.sids]
    words = {w.name: dataclasses.replace(w, keywords=(w.description,)) for w in descriptions}
    rows = Interactions(("u",), ((0,),), np.array([1], np.int32))
    dataset = Dataset("Toy", tmp_path, catalogue, {"train": rows}, words, "")
    config = settings_of(default_config())

    def assembled(data, mode):
        return load_parts(config.changed({"sid_init": {"mode": mode}}), data, tmp_path)

    found = assembled(dataset, "sa_shuffled")
    shuffled = shuffled_words(catalogue, words, config.seed)
    assert found.dataset.token_descriptions == shuffled != words
    assert assembled(dataset, "sa").dataset.token_descriptions == words
    named = assembled(dataclasses.replace(dataset, token_descriptions=shuffled), "sa")
    np.testing.assert_array_equal(found.model.embedding[...], named.model.embedding[...])
    plain = assembled(dataset, "sa")
    assert not np.allclose(found.model.embedding[...], plain.model.embedding[...])
    for assembly in (found, plain):
        examples = TsAlign().examples(TaskInputs(assembly.dataset, "train", assembly.builder))
        written = {row.key: assembly.tokenizer.decode(row.tokens) for row in examples}
        for name, said_of in assembly.dataset.token_descriptions.items():
            assert f"Shared: {said_of.description}\nPart:{name}" in written[f"token/{name}/from_description"]


def test_a_keyword_never_gives_a_row_the_embedding_of_a_control_token(tmp_path):
    train_tokenizer(["a steel pan with a lid", "</s"] * 20, tmp_path, vocab_size=300)
    tokenizer = load_tokenizer(tmp_path)
    catalogue = Catalogue((Item("p", "pan"),), (("<a_0>", "<b_0>"),))
    clusters = {
        "<a_0>": TokenDescription("<a_0>", "pans", (f"pan{tokenizer.eos_token}", "lid")),
        "<b_0>": TokenDescription("<b_0>", "lids", ("steel lid", "pan")),
    }
    dataset = Dataset("Toy", tmp_path, catalogue, {}, clusters, "")
    _, (odd, plain) = words_for_rows(settings_of(default_config()), dataset, tokenizer)
    assert plain == tokenizer("steel lid pan", add_special_tokens=False)["input_ids"]
    assert tokenizer.eos_token_id not in odd
    assert tokenizer.decode(odd) == f"pan{tokenizer.eos_token} lid"
