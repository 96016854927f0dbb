"""Tasks: which rows they make, where the loss starts, and that no answer stands in its own prompt."""

import dataclasses

import numpy as np
import pytest

from tsrec_jax.data.catalogue import TokenDescription
from tsrec_jax.data.prompts import PromptBuilder, Templates
from tsrec_jax.data.tasks import TasksSettings, build_examples
from tsrec_jax.data.tasks.augmented_sid import AugmentedSid
from tsrec_jax.data.tasks.distilled_sid import DistilledSid
from tsrec_jax.data.tasks.next_sid import NextSid
from tsrec_jax.data.tasks.task import TaskInputs
from tsrec_jax.errors import UserError

ROW_TASKS = ("next_sid", "next_title", "title_sid", "ts_align")
CONTINUED = {"next_sid": {"header": "Then.\n", "prompt": "Had: {history},", "completion": "{sid}"}}


def make_examples(dataset, split, builder, names, **tasks):
    table = TasksSettings(**{"next_sid": NextSid(user_sequences=False), **tasks})
    rank = np.array([4, 4, 2], np.int32)
    inputs = TaskInputs(
        dataset,
        split,
        builder,
        teacher=lambda _: lambda histories: np.tile(rank, (len(histories), 1)),
        nearest=lambda *_: (np.array([[3]] * 5), np.ones((5, 1))),
    )
    return build_examples({name: getattr(table, name) for name in names}, inputs)


@pytest.fixture
def builder(tokenizer):
    return PromptBuilder(tokenizer, Templates())


@pytest.fixture
def examples(dataset, builder):
    return make_examples(dataset, "train", builder, ROW_TASKS)


def texts(tokenizer, example):
    return (
        tokenizer.decode(example.tokens[: example.prompt_length]),
        tokenizer.decode(example.tokens[example.prompt_length :]),
    )


def test_every_task_makes_its_rows(examples):
    assert {task: len(rows) for task, rows in examples.items()} == {
        "next_sid": 4,
        "next_title": 4,
        "title_sid": 10,
        "ts_align": 18,
    }
    for task, rows in examples.items():
        assert {row.task for row in rows} == {task}
        assert {row.tokens.dtype for row in rows} == {np.dtype(np.int32)}
    keys = [row.key for rows in examples.values() for row in rows if row.task != "next_title"]
    assert len(set(keys)) == len(keys)
    assert [row.key for row in examples["next_sid"]] == [f"train/{number}" for number in range(4)]


def test_only_the_tasks_asked_for_are_made(dataset, builder):
    found = make_examples(dataset, "valid", builder, ("next_sid",))
    assert {task: [row.key for row in rows] for task, rows in found.items()} == {"next_sid": ["valid/0", "valid/1"]}


def test_rows_say_what_the_data_says(examples, tokenizer):
    assert texts(tokenizer, examples["next_sid"][2]) == (
        "Continue the shopping history.\nHistory: <a_2><b_7><c_1>,<a_10><b_1><c_3>,<a_9><b_2><c_0>\nNext:",
        "<a_9><b_1><c_3>\n<|end|>",
    )
    assert texts(tokenizer, examples["next_title"][3])[1] == " Étagère 木\n<|end|>"
    pairs = [texts(tokenizer, row) for row in examples["title_sid"]]
    assert ("Give the code of this item.\nTitle: Blue saw\nCode:", "<a_9><b_2><c_0>\n<|end|>") in pairs
    assert ("Name the item behind this code.\nCode: <a_9><b_2><c_0>\nTitle:", " Blue saw\n<|end|>") in pairs
    pairs = [texts(tokenizer, row) for row in examples["ts_align"]]
    assert ("Say what items with this code part share.\nPart: <a_9>\nShared:", " things of kind 1\n<|end|>") in pairs
    assert ("Find the code part of items like these.\nShared: things of kind 1\nPart:", "<a_9>\n<|end|>") in pairs


def test_the_answer_is_not_in_its_prompt(examples, tokenizer, catalogue):
    sid_ids = set(tokenizer.convert_tokens_to_ids(list(catalogue.tokens)))
    for task, rows in examples.items():
        for row in rows:
            prompt, completion = texts(tokenizer, row)
            answer = completion.removesuffix("\n<|end|>").strip()
            assert answer and answer not in prompt, (task, row.key)
    for row in [*examples["title_sid"], *examples["ts_align"]]:
        if row.key.endswith(("/title_to_sid", "/from_description")):
            assert not sid_ids & set(row.tokens[: row.prompt_length].tolist()), row.key


def test_training_and_search_use_the_same_prompt_ids(dataset, tokenizer, splits):
    for max_length in (512, 40):
        builder = PromptBuilder(tokenizer, Templates(), max_length)
        rows = make_examples(dataset, "train", builder, ("next_sid",))["next_sid"]
        histories = [[dataset.catalogue.sid(item) for item in history] for history in splits["train"].histories]
        prompts = builder.prompts_next_sid(histories, dataset.catalogue.num_levels)
        assert [row.tokens[: row.prompt_length].tolist() for row in rows] == prompts
    assert {len(row.tokens) for row in rows} == {40}


def test_a_completion_longer_than_the_limit_keeps_one_token_to_start_from(dataset, tokenizer):
    builder = PromptBuilder(tokenizer, Templates(), max_length=8)
    row = make_examples(dataset, "train", builder, ("next_title",))["next_title"][0]
    assert (len(row.tokens), row.prompt_length) == (8, 1)
    assert tokenizer.decode(row.tokens) == "ue saw\n<|end|>"


def test_tokens_without_words_make_no_alignment_rows(dataset, builder):
    del dataset.token_descriptions["<a_9>"]
    rows = make_examples(dataset, "train", builder, ("ts_align",))["ts_align"]
    assert len(rows) == 16
    assert not any("<a_9>" in row.key for row in rows)


def test_a_described_path_is_aligned_as_the_tokens_a_sid_begins_with(dataset, builder, tokenizer):
    path = TokenDescription("<b_2>", "blue things", ("blue",), ("<a_9>",))
    dataset = dataclasses.replace(dataset, token_descriptions={path.name: path})
    rows = make_examples(dataset, "train", builder, ("ts_align",))["ts_align"]
    assert [texts(tokenizer, row) for row in rows] == [
        ("Say what items with this code part share.\nPart: <a_9><b_2>\nShared:", " blue things\n<|end|>"),
        ("Find the code part of items like these.\nShared: blue things\nPart:", "<a_9><b_2>\n<|end|>"),
    ]


def test_a_user_sequence_is_its_rows_laid_over_each_other(dataset, tokenizer):
    builder = PromptBuilder(tokenizer, Templates.from_mapping(CONTINUED))
    rows = make_examples(dataset, "train", builder, ("next_sid",))["next_sid"]
    whole = make_examples(dataset, "train", builder, ("next_sid",), next_sid=NextSid())["next_sid"]
    assert len(whole) == 3
    first, second = rows[:2]
    (chain,) = [row for row in whole if row.key.startswith("train/0,1/")]
    end = len(builder.end)
    assert chain.tokens.tolist() == second.tokens[:-end].tolist()  # ends with its last SID
    assert chain.prompt_length == first.prompt_length
    assert chain.tokens[: len(first.tokens) - end].tolist() == first.tokens[:-end].tolist()


def test_histories_that_are_added_are_learned_as_sequences(dataset, tokenizer):
    builder = PromptBuilder(tokenizer, Templates.from_mapping(CONTINUED))
    settings = {
        "augmented_sid": AugmentedSid(copies=2),
        "distilled_sid": DistilledSid(copies=4, history_length=2, targets=1, random_items=0.0),
    }
    found = make_examples(dataset, "train", builder, settings, **settings)
    counts = {task: len(rows) for task, rows in found.items()}
    assert counts == {"augmented_sid": 6, "distilled_sid": 16}
    for task, rows in found.items():
        assert {row.task for row in rows} == {task}
        assert len({row.key for row in rows}) == len(rows)
    assert {texts(tokenizer, row)[1] for row in found["distilled_sid"]} == {dataset.catalogue.sid(n) for n in (2, 4)}
    assert all(len(row.ranked) == 0 for row in found["augmented_sid"])
    tokens = np.array(dataset.catalogue.tokens)
    ranked = {"".join(tokens[row.ranked]) for row in found["distilled_sid"]}
    assert ranked == {"".join(dataset.catalogue.sid(item) for item in (4, 4, 2))}
    with pytest.raises(UserError, match=r"are to be learned at once.*distilled_sid.targets"):
        short = PromptBuilder(tokenizer, builder.templates, max_length=dataset.catalogue.num_levels)
        make_examples(dataset, "train", short, ("distilled_sid",), **settings)
    hard_labels = dataclasses.replace(settings["distilled_sid"], soft_labels=False)
    hard = make_examples(dataset, "train", builder, ("distilled_sid",), distilled_sid=hard_labels)
    assert [row.tokens.tolist() for row in hard["distilled_sid"]] == [
        row.tokens.tolist() for row in found["distilled_sid"]
    ]
    assert all(len(row.ranked) == 0 for row in hard["distilled_sid"])


def test_a_prompt_that_cannot_be_continued_is_refused(dataset, builder):
    with pytest.raises(UserError, match=r"templates.next_sid.prompt=.*Next:.* cannot be continued"):
        make_examples(dataset, "train", builder, ("next_sid",), next_sid=NextSid())


def test_ts_align_without_descriptions_is_refused(dataset, builder):
    with pytest.raises(
        UserError, match=r"Shop\.description_keywords\.json is not there.*config.tasks.ts_align.weight=0"
    ):
        make_examples(dataclasses.replace(dataset, token_descriptions={}), "train", builder, ("ts_align",))


def test_a_task_is_called_by_one_name_in_the_table_in_its_key_and_in_messages():
    for field in dataclasses.fields(TasksSettings):
        task = getattr(TasksSettings(), field.name)
        assert task.key == f"tasks.{field.name}"
        assert task.config_key("weight") == f"config.tasks.{field.name}.weight"
