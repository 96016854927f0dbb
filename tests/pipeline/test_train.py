"""What a training selects by, and what it refuses before it begins."""

import pathlib
import types

import pytest

from tests.training.conftest import tiny_config
from tsrec_jax.data.dataset import Dataset
from tsrec_jax.data.prompts import PromptBuilder, Templates
from tsrec_jax.data.tasks.task import TaskInputs
from tsrec_jax.data.text_rows import item_texts
from tsrec_jax.errors import UserError
from tsrec_jax.models.small_lm import train_tokenizer
from tsrec_jax.models.tokenizer import load_tokenizer
from tsrec_jax.pipeline import train
from tsrec_jax.settings import default_config, paper_config, settings_of
from tsrec_jax.shop.shop import make_shop


@pytest.mark.parametrize(("loss_rows", "searched"), [(5, 7), (0, 10**6)])
def test_validation_takes_rows_from_all_over_the_split(tmp_path, monkeypatch, loss_rows, searched):
    shop = make_shop(seed=1, num_items=70, num_users=40)
    train_tokenizer(item_texts(shop.catalogue.items), tmp_path, vocab_size=600)
    tokenizer = load_tokenizer(tmp_path)
    tokenizer.add_tokens(list(shop.catalogue.tokens))
    builder = PromptBuilder(tokenizer, Templates())
    taken = {}
    monkeypatch.setattr(train, "Drift", lambda *_: None)
    monkeypatch.setattr(
        train,
        "packed_batches",
        lambda examples, *_, **__: taken.update(loss=[each.tokens.tolist() for each in examples]) or [],
    )
    monkeypatch.setattr(builder, "prompts_next_sid", lambda histories, _levels: taken.update(searched=histories) or [])
    dataset = Dataset("shop", tmp_path, shop.catalogue, shop.splits, {}, "")
    parts = types.SimpleNamespace(dataset=dataset, builder=builder, mesh=None, model=None, base_vocab_size=0, trie=None)
    config = paper_config()
    config.train.valid_rows, config.train.valid_beam_rows = loss_rows, searched
    settings = settings_of(config)
    train._validation(settings, parts, 8, types.SimpleNamespace(slots=64, paths=None, items=None))

    valid = shop.splits["valid"]
    last = len(valid) - 1
    numbers = [0, last // 4, last // 2, 3 * last // 4, last] if loss_rows else range(len(valid))
    examples = settings.tasks.next_sid.examples(TaskInputs(dataset, "valid", builder))
    assert taken["loss"] == [examples[number].tokens.tolist() for number in numbers]
    wanted = valid.spread(searched)
    assert taken["searched"] == [[shop.catalogue.sid(item) for item in history] for history in wanted.histories]
    assert len(wanted) == min(searched, len(valid)) and wanted.histories[-1] == valid.histories[-1]


def test_a_dense_head_learns_among_the_items_of_train():
    shop = make_shop(seed=1, num_items=70, num_users=40)
    few = shop.splits["train"].take([0, 1])
    dataset = Dataset("shop", pathlib.Path(), shop.catalogue, {"train": few}, {}, "")
    settings = settings_of(default_config()).changed({"dense": {"weight": 0.3}})
    loss = train._loss(settings, dataset, types.SimpleNamespace(mix=settings.tasks, paths=None))
    there = {shop.catalogue.sid(item) for item in (*few.targets, *few.histories[0], *few.histories[1])}
    assert loss.weight == 0.3
    assert loss.known_I.tolist() == [shop.catalogue.sid(item) in there for item in range(70)]


def test_rows_that_do_not_fill_their_groups_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    settings = settings_of(default_config()).changed(
        {"train": {"batch_tokens": 3 * 64, "sequence_length": 64, "rows_per_group": 2}}
    )
    examples = types.SimpleNamespace(examples={}, slots=16, sid_tokens=0)
    monkeypatch.setattr(train, "training_data", lambda *_: examples)
    model = types.SimpleNamespace(config=tiny_config(), attention="xla")
    dataset = types.SimpleNamespace(catalogue=None)
    parts = types.SimpleNamespace(
        dataset=dataset, builder=None, base_vocab_size=0, mesh=None, model=model, tokenizer=range(64)
    )
    workdir = types.SimpleNamespace(path=tmp_path / "run")
    job = types.SimpleNamespace(settings=settings, workdir=workdir, vectors=None)
    with pytest.raises(UserError, match=r"3 rows of a micro-batch do not divide .* use config.train.batch_tokens=256"):
        train._train(job, parts, range(0))
    assert not (tmp_path / "run").exists()
