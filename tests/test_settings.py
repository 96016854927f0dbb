"""The settings: the config that is made of them, the page that documents them, and nothing below the command line
that takes anything else."""

import ast
import json
import pathlib

import pytest

from tsrec_jax.errors import UserError
from tsrec_jax.settings import Settings, default_config, flat, paper_config, settings_of, update
from tsrec_jax.settings_page import settings_page
from tsrec_jax.sid.settings import IndexSettings
from tsrec_jax.training.settings import TrainSettings

ROOT = pathlib.Path(__file__).resolve().parents[1]
AT_THE_EDGE = {"settings.py", "command_flags.py"}  # of the package: where a config becomes settings


def test_the_page_of_the_settings_is_made_of_them():
    page = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert page == settings_page(), "docs/config.md is not what `tsrec config > docs/config.md` writes"


def test_nothing_below_the_command_line_sees_a_config():
    package = ROOT / "tsrec_jax"
    for path in package.rglob("*.py"):
        if (path.name in AT_THE_EDGE and path.parent == package) or "configs" in path.parts:
            continue
        names = {
            name
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
        }
        assert not any("ml_collections" in name for name in names), path


def test_the_objective_decides_the_form_of_the_examples_where_it_is_left_open():
    default, paper = settings_of(default_config()), settings_of(paper_config())
    assert (default.constrained, default.tasks.next_sid.user_sequences, default.templates.separator) == (True, True, "")
    assert (paper.constrained, paper.tasks.next_sid.user_sequences, paper.templates.separator) == (False, False, ",")
    assert default.changed({"objective": "vocabulary"}).templates == paper.templates
    kept = default.changed({"objective": "vocabulary", "templates": {"separator": "; "}})
    assert (kept.templates.separator, kept.changed({"objective": "constrained"}).templates.separator) == ("; ", "; ")


def test_settings_made_in_code_are_the_default_recipe_and_keep_what_they_were_made_with():
    assert Settings() == settings_of(default_config())
    assert Settings(seed=7).changed({"train": {"epochs": 2.0}}).seed == 7


def test_what_is_recorded_of_settings_is_what_was_decided_and_makes_the_same_settings_again():
    """A choice left to the objective is recorded as the same choice made by hand."""
    for config, by_hand in ((default_config(), True), (paper_config(), False)):
        settings = settings_of(config)
        said = settings.changed({"tasks": {"next_sid": {"user_sequences": by_hand}}})
        assert said.resolved() == settings.resolved()
        assert None not in flat(settings.resolved()).values()
        again = default_config()
        update(again, json.loads(json.dumps(settings.resolved())))
        assert settings_of(again) == settings


def test_a_change_is_checked_and_leaves_the_rest():
    settings = settings_of(default_config())
    assert settings.changed({"train": {"epochs": 2}}).train.epochs == 2.0
    assert settings.changed({}) == settings
    for changes, words in (
        ({"train": {"epoch": 2.0}}, "did you mean train.epochs"),
        ({"train": {"epochs": "two"}}, "is not of type float"),
        ({"train": 3}, "not a section"),
        ({"train": {"held_out": 2.0}}, "between 0 and 1"),
        ({"sid_init": {"mode": "saa"}}, "did you mean 'sa'"),
        ({"tasks": {"augmented_sid": {"copies": 0}}}, "config.tasks.augmented_sid.copies=0 must be above 0"),
        ({"index": {"text_fields": "title"}}, "'index.text_fields': 'title' is not of type tuple"),
        ({"index": {"hidden": ("a",)}}, r"config.index.hidden\[0\]='a' must be a whole number"),
        ({"index": {"hidden": [8, 1.5]}}, r"config.index.hidden\[1\]=1.5 must be a whole number"),
        ({"index": {"sizes": (True,)}}, r"config.index.sizes\[0\]=True must be a whole number"),
        ({"prepare": {"ratios": ("x",)}}, r"config.prepare.ratios\[0\]='x' must be a number"),
        ({"prepare": {"ratios": (1, 2.0, float("nan"))}}, r"config.prepare.ratios\[2\]=nan must be finite"),
        ({"sid_init": {"levels": (0.5,)}}, r"config.sid_init.levels\[0\]=0.5 must be a whole number"),
        ({"study": {"curves": (3,)}}, r"config.study.curves\[0\]=3 must be a text"),
        ({"run": {"stages": ("trian",)}}, r"config.run.stages\[0\]='trian' is not one of .* did you mean 'train'"),
    ):
        with pytest.raises(UserError, match=words):
            settings.changed(changes)


def test_weights_are_chosen_by_a_dense_head_only_where_there_is_one():
    by_head = {"train": {"select_by": "dense_hr@10", "valid_beam_rows": 0}}
    with pytest.raises(UserError, match=r"config.train.select_by='dense_hr@10' .* set config.dense.weight"):
        settings_of(default_config()).changed(by_head)
    assert settings_of(default_config()).changed({**by_head, "dense": {"weight": 0.5}}).train.valid_beam_rows == 0


def test_a_dense_head_is_not_left_behind_by_the_second_stage():
    with pytest.raises(UserError, match=r"config.rl.steps=5 .* set config.dense.weight=0"):
        settings_of(default_config()).changed({"rl": {"steps": 5}, "dense": {"weight": 0.5}})


def test_adapters_that_nothing_would_train_are_refused():
    lora = {"train": {"freeze": "trunk", "adapter": {"rank": 2}}}
    as_it_is = {**lora, "model": {"path": "export", "trained": True}}
    for changes in (as_it_is, {**lora, "fusion": {"model": False, "parts": ("hybrid",)}}):
        with pytest.raises(UserError, match="adapters that nothing trains"):
            settings_of(default_config()).changed(changes)
    assert settings_of(default_config()).changed({**as_it_is, "rl": {"steps": 5}}).train.adapter.rank == 2


def test_a_section_made_in_code_is_checked_in_the_same_way():
    for section, changes, words in (
        (IndexSettings, {"text_fields": "title"}, "config.index.text_fields='title' must be a tuple"),
        (IndexSettings, {"text_fields": ()}, "config.index.text_fields is empty"),
        (TrainSettings, {"epochs": True}, "config.train.epochs=True must be a number"),
        (TrainSettings, {"max_steps": 2.0}, "config.train.max_steps=2.0 must be a whole number"),
        (TrainSettings, {"wandb_project": None}, "config.train.wandb_project=None must be a text"),
        (TrainSettings, {"keep": 1}, "config.train.keep=1 must be 2 or more"),
    ):
        with pytest.raises(UserError, match=words):
            section(**changes)
    assert TrainSettings(epochs=3).epochs == 3
