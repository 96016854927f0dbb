"""What tells one run from another, across versions of the code."""

import json
import pathlib
import types

import pytest

from tsrec_jax.errors import UserError
from tsrec_jax.pipeline.job import Job, training_identity
from tsrec_jax.pipeline.workdir import Workdir
from tsrec_jax.settings import default_config, load_saved, settings_of
from tsrec_jax.training.checkpoints import LISTED, differences, refuse_differences


def test_each_setting_that_differs_is_named_with_both_values():
    there, here = {"data": "ab", "train.epochs": 2.0, "gone": 1}, {"data": "ab", "train.epochs": 3.0}
    assert differences(there, here) == "gone was 1 and is now None; train.epochs was 2.0 and is now 3.0"
    assert not differences(here, dict(here))
    many = differences({}, {f"key{n}": n for n in range(LISTED + 2)})
    assert many.endswith("; and 2 more")
    with pytest.raises(UserError, match=r"place belongs to another run \(train.epochs was 2.0 .* use a new --workdir"):
        refuse_differences(pathlib.Path("place"), {"train.epochs": 2.0}, {"train.epochs": 3.0})


def test_a_run_goes_on_with_the_settings_that_it_recorded(tmp_path):
    given = settings_of(default_config()).changed({"seed": 5, "objective": "vocabulary", "index": {"sizes": (4, 4)}})
    (tmp_path / "config.json").write_text(json.dumps({"config": given.resolved()}))
    assert load_saved(tmp_path) == given
    assert given.templates.separator == ","


@pytest.mark.parametrize(
    "text",
    ["null", "3", "[]", "{}", "[" * 100_000, '{"config": 3}', '{"config": {"train": 3}}', '{"config": {"index": null}}',
     '{"config": {"study": {"arms": 3}}}', '{"config": {"study": {"arms": {"a": 3}}}}',
     '{"config": {"study": {"arms": {"a": {"train": 3}}}}}', '{"config": {"study": {"arms": {"a": null}}}}'],
)  # fmt: skip
def test_a_record_of_the_wrong_kind_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match="config"):
        load_saved(tmp_path)


def test_how_a_layer_is_computed_may_change_between_two_starts_and_in_which_type_may_not():
    dataset = types.SimpleNamespace(data_hash="ab", catalogue=types.SimpleNamespace(tokens=("<a_0>",)))
    begun = training_identity(settings_of(default_config()), dataset)
    for key, value, same in (("attention", "xla", True), ("remat", False, True), ("dtype", "bfloat16", False)):
        config = settings_of(default_config()).changed({"model": {key: value}})
        assert (training_identity(config, dataset) == begun) == same, key


def test_the_settings_of_a_dense_head_tell_runs_apart_only_where_there_is_one(tmp_path):
    """Their defaults have changed since some runs began."""
    dataset = types.SimpleNamespace(data_hash="ab", catalogue=types.SimpleNamespace(tokens=("<a_0>",)))
    workdir = Workdir(tmp_path)
    (tmp_path / "checkpoints/latest/5").mkdir(parents=True)

    def begins(weight, temperature):
        settings = settings_of(default_config()).changed({"dense": {"weight": weight, "temperature": temperature}})
        identity = training_identity(settings, dataset)
        finished = workdir.finished("train", identity)
        workdir.record(settings, identity, "ab")
        workdir.finish("train", identity, {"best_step": 5})
        return finished is not None

    assert [begins(0.0, 0.05), begins(0.0, 0.1)] == [False, True]
    (tmp_path / "config.json").unlink()
    assert not begins(0.5, 0.05)
    for weight, temperature, said in ((0.5, 0.1, "temperature was 0.05"), (0.0, 0.05, "weight was 0.5")):
        with pytest.raises(UserError, match=rf"\(dense\.{said}"):
            begins(weight, temperature)


def test_the_parts_of_a_teacher_tell_second_stages_apart_only_where_it_has_parts(tmp_path):
    """A stage that was finished before the setting was there stays finished."""
    dataset = types.SimpleNamespace(data_hash="ab", catalogue=types.SimpleNamespace(tokens=("<a_0>",)))

    def identity(**changes):
        settings = settings_of(default_config()).changed({"rl": {"steps": 5, **changes}})
        return Job(settings, Workdir(tmp_path), dataset, "").final_identity

    fewer = {"teacher_parts": ("ease",)}
    assert identity() == identity(**fewer) and not any(key.startswith("rl.teacher_parts") for key in identity())
    assert identity(teacher="fusion") != identity(teacher="fusion", **fewer)


def test_a_stage_recorded_by_a_hash_of_its_inputs_alone_is_not_finished(tmp_path):
    entry = {"inputs": "0123456789abcdef", "facts": {"best_step": 3}}  # as it was recorded at first
    (tmp_path / "stages.json").write_text(json.dumps({"train": entry}))
    workdir = Workdir(tmp_path)
    assert workdir.finished("train", {"seed": 1}) is None
    workdir.finish("train", {"seed": 1}, {"best_step": 5})
    assert workdir.finished("train", {"seed": 1}) == {"best_step": 5}
    assert workdir.finished("train", {"seed": 2}) is None


def test_a_stage_that_has_lost_a_file_is_not_finished(tmp_path):
    workdir, files = Workdir(tmp_path), [tmp_path / name for name in ("predictions.json", "predictions_before.json")]
    workdir.finish("evaluate", {}, {"rows": 3})
    files[0].touch()
    assert workdir.finished("evaluate", {}, *files) is None
    files[1].touch()
    assert workdir.finished("evaluate", {}, *files) == {"rows": 3}
