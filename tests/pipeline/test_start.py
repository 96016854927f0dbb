"""The loss before the first step: of which rows it is, and that a training measures it once."""

import dataclasses
import types

import jax
import numpy as np
import pytest
from flax import nnx

from tsrec_jax.data.dataset import Dataset
from tsrec_jax.data.interactions import spread
from tsrec_jax.data.prompts import PromptBuilder, Templates
from tsrec_jax.data.text_rows import item_texts
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.sid_outputs import give_outputs
from tsrec_jax.models.small_lm import lm_config, train_tokenizer
from tsrec_jax.models.tokenizer import load_tokenizer
from tsrec_jax.pipeline import batches, start
from tsrec_jax.pipeline.recommender_parts import level_sizes
from tsrec_jax.pipeline.sid_tokens import add_sid_tokens
from tsrec_jax.pipeline.workdir import Workdir
from tsrec_jax.settings import default_config, settings_of
from tsrec_jax.shop.shop import make_shop

SCALES = np.array([0.3, 1.7, 2.9], np.float32)


@pytest.fixture
def tokenised(monkeypatch):
    """The histories that were made prompts of, in calls."""
    calls, tokenise = [], PromptBuilder.prompts

    def prompts(self, template, texts):
        calls.append(len(texts))
        return tokenise(self, template, texts)

    monkeypatch.setattr(PromptBuilder, "prompts", prompts)
    return calls


@pytest.fixture
def measured(monkeypatch):
    """The examples' tokens of each loss that was measured; neither a loss nor a scale is computed."""
    taken = []
    monkeypatch.setattr(start, "FITTED_ROWS", 16)
    monkeypatch.setattr(start, "packed_batches", lambda examples, *_: [row.tokens.tolist() for row in examples])
    monkeypatch.setattr(
        start, "sid_losses", lambda _, rows, *__: taken.append(rows) or {"constrained": 1.5, "vocabulary": 2.5}
    )
    monkeypatch.setattr(start, "sid_places", lambda *_: types.SimpleNamespace(best_scales=lambda _: SCALES))
    return taken


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("parts")
    shop = make_shop(seed=1, num_items=70, num_users=40)
    train_tokenizer(item_texts(shop.catalogue.items), tmp_path / "tokenizer", vocab_size=600)
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    shape = ModelConfig.from_hf(lm_config(tokenizer, 64, 1))
    base = add_sid_tokens(tokenizer, shop.catalogue.tokens)
    shape = dataclasses.replace(shape, vocab_rows=len(tokenizer))
    model = Decoder(shape, dtype="float32", param_dtype="float32", rngs=nnx.Rngs(0))
    return types.SimpleNamespace(
        dataset=Dataset("shop", tmp_path, shop.catalogue, shop.splits, {}, ""),
        tokenizer=tokenizer,
        builder=PromptBuilder(tokenizer, Templates()),
        model=give_outputs(model, "scaled", level_sizes(shop.catalogue)),
        base_vocab_size=base,
        mesh=None,
    )


def job(folder, **train):
    changes = {"sid_init": {"head": "scaled"}, "tasks": {"next_sid": {"user_sequences": False}}, "train": train}
    settings = settings_of(default_config()).changed(changes)
    return types.SimpleNamespace(settings=settings, workdir=Workdir(folder), identity={"train": train})


def test_it_is_of_the_rows_of_the_validations_and_no_others_are_tokenised(tmp_path, parts, tokenised, measured):
    found = start.start_of(job(tmp_path, valid_rows=5), parts, 8, 64)
    assert (found.facts["split"], found.facts["constrained"], found.facts["vocabulary"]) == ("valid", 1.5, 2.5)
    assert tokenised == [start.FITTED_ROWS, 5]
    rows = parts.dataset.splits["valid"].spread(5)
    tokens, first = parts.dataset.catalogue.tokens_IC[rows.targets], parts.base_vocab_size
    sids = [[token for token in row if token >= first][-tokens.shape[1] :] for row in measured[0]]
    assert sids == (first + tokens).tolist()


def test_user_sequences_are_taken_whole(parts):
    settings = settings_of(default_config())
    given = settings, parts.dataset, "valid", PromptBuilder(parts.tokenizer, settings.templates)
    every, some = (batches.spread_examples(*given, count) for count in (0, 7))
    wanted = [every[number].tokens.tolist() for number in spread(len(every), 7)]
    assert settings.tasks.next_sid.user_sequences and [row.tokens.tolist() for row in some] == wanted


def test_a_training_that_is_resumed_measures_nothing_and_begins_with_the_same_model(
    tmp_path, parts, tokenised, measured
):
    one = start.start_of(job(tmp_path), parts, 8, 64)
    del tokenised[:], measured[:]
    other = start.start_of(job(tmp_path), parts, 8, 64)
    assert not tokenised and not measured and other.facts == one.facts
    for before, after in zip(*(jax.tree.leaves(nnx.state(each.model)) for each in (one, other)), strict=True):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(other.model.sid_scale[...], SCALES)
    start.start_of(job(tmp_path, epochs=3.0), parts, 8, 64)  # another training
    assert len(measured) == 1
