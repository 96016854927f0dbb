"""From a config to examples, where a task needs more than the dataset: likeness of texts, and a fitted teacher."""

import collections
import dataclasses

import numpy as np
import pytest

from tsrec_jax.baselines import knn
from tsrec_jax.baselines.run import fit_baseline
from tsrec_jax.data.dataset import read_dataset, write_dataset
from tsrec_jax.data.prompts import PromptBuilder, Templates
from tsrec_jax.data.text_rows import item_texts
from tsrec_jax.errors import UserError
from tsrec_jax.models.small_lm import train_tokenizer
from tsrec_jax.models.tokenizer import load_tokenizer
from tsrec_jax.pipeline.batches import PLACES, batches_of, training_data
from tsrec_jax.pipeline.sid_tokens import add_sid_tokens
from tsrec_jax.settings import default_config, settings_of
from tsrec_jax.shop.shop import make_shop
from tsrec_jax.sid.whiten import fit_whitening


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop") / "shop"
    shop = make_shop(seed=1, num_items=70, num_users=40)
    write_dataset("shop", shop.catalogue, shop.splits, shop.token_descriptions, folder)
    return read_dataset(folder)


@pytest.fixture(scope="module")
def prompts(dataset, tmp_path_factory):
    """A builder of prompts that are SIDs alone, its tokenizer, and that one's size before it had any."""
    folder = tmp_path_factory.mktemp("model")
    train_tokenizer(item_texts(dataset.catalogue.items), folder, vocab_size=600)
    tokenizer = load_tokenizer(folder)
    base_vocab_size = add_sid_tokens(tokenizer, dataset.catalogue.tokens)
    bare = {"header": "", "prompt": "{history}", "completion": "{sid}"}
    templates = Templates.from_mapping({**Templates().to_mapping(), "separator": "", "next_sid": bare})
    return PromptBuilder(tokenizer, templates), tokenizer, base_vocab_size


def only_distilled(**settings):
    config = default_config()
    for task in ("next_sid", "next_title", "title_sid", "augmented_sid"):
        config.tasks[task].rate = 0.0
    config.tasks.ts_align.weight = 0.0
    distilled = {"history_length": 4, "targets": 1, "random_items": 0.0, "soft_labels": False}
    config.tasks.distilled_sid.update({"rate": 1.0, **distilled, **settings})
    return settings_of(config)


def test_a_teacher_fitted_on_train_is_learned_from(dataset, prompts):
    builder, tokenizer, base_vocab_size = prompts
    config = only_distilled(teacher="popularity", copies=6)
    data = training_data(config, dataset, builder, base_vocab_size)
    rows = data.examples["distilled_sid"]
    assert data.top_k == 1
    train, valid = dataset.splits["train"], dataset.splits["valid"]
    assert len(rows) == 6 * len(train)
    learned = collections.Counter(tokenizer.decode(row.tokens[row.prompt_length :]) for row in rows)
    shares = fit_baseline("popularity", dataset, train, valid, 0, print).share_I
    known = {dataset.catalogue.sid(item): shares[item] for item in range(dataset.catalogue.num_items)}
    least = sorted(known.values(), reverse=True)[PLACES - 1]
    assert len(learned) <= PLACES and all(known[sid] >= least for sid in learned)
    assert known[learned.most_common(1)[0][0]] == max(shares)


def test_a_ranking_that_is_learned_as_a_whole_has_room_in_the_batches(dataset, prompts):
    builder, _, base_vocab_size = prompts
    config = only_distilled(teacher="popularity", copies=1, soft_labels=True)
    config = config.changed({"train": {"sequence_length": 64, "rows_per_group": 2}})
    data = training_data(config, dataset, builder, base_vocab_size)
    assert data.top_k == PLACES
    batch = batches_of(config, data, data.examples, rows=4).batch(1)
    assert batch["sid_target_probs_BTK"].shape == (1, 4, 64, PLACES)
    np.testing.assert_allclose(batch["sid_target_probs_BTK"][batch["sid_task_BT"] >= 0].sum(axis=-1), 1.0, rtol=1e-6)
    assert ((batch["sid_target_probs_BTK"] > 0).sum(axis=-1) == PLACES).any()


def test_a_teacher_that_cannot_be_fitted_is_refused(dataset, prompts):
    builder, _, base_vocab_size = prompts
    none = dataset.splits["valid"].take([])
    without = dataclasses.replace(dataset, splits={**dataset.splits, "valid": none})
    with pytest.raises(UserError, match="the selection split holds no rows"):
        training_data(only_distilled(), without, builder, base_vocab_size)


def test_a_teacher_among_vectors_takes_those_of_the_run_and_is_refused_without(dataset, prompts, monkeypatch):
    builder, _, base_vocab_size = prompts
    vectors_ID = np.random.default_rng(0).normal(size=(dataset.catalogue.num_items, 8)).astype(np.float32)
    config = only_distilled(teacher="knn", copies=1)
    with pytest.raises(UserError, match="knn: it needs vectors of the items"):
        training_data(config, dataset, builder, base_vocab_size)
    seen = []
    monkeypatch.setattr(knn, "fit_whitening", lambda x_ID, count: seen.append(x_ID) or fit_whitening(x_ID, count))
    training_data(config, dataset, builder, base_vocab_size, lambda: vectors_ID)
    np.testing.assert_array_equal(seen[0], vectors_ID)
