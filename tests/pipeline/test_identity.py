"""What tells one run from another, across versions of the code."""

import json
import pathlib
import types

import pytest

from tsrec_jax.configuration import default_config, load_saved, validate
from tsrec_jax.errors import UserError
from tsrec_jax.pipeline.identity import differences, refuse_differences
from tsrec_jax.pipeline.run import training_identity
from tsrec_jax.training.checkpoints import LISTED


def test_each_setting_that_differs_is_named_with_both_values():
    there, here = {"data": "ab", "train.epochs": 2.0, "gone": 1}, {"data": "ab", "train.epochs": 3.0}
    assert differences(there, here) == "gone was 1 and is now None; train.epochs was 2.0 and is now 3.0"
    assert not differences(here, dict(here))
    many = differences({}, {f"key{n}": n for n in range(LISTED + 2)})
    assert many.endswith("; and 2 more")
    with pytest.raises(UserError, match=r"place belongs to another run \(train.epochs was 2.0 .* use a new --workdir"):
        refuse_differences(pathlib.Path("place"), {"train.epochs": 2.0}, {"train.epochs": 3.0})


def test_a_setting_newer_than_a_record_was_its_default_then():
    assert not differences({}, {"tasks.distilled_sid.throughout": False})
    assert differences({}, {"tasks.distilled_sid.throughout": True}).endswith("was False and is now True")


def test_a_setting_whose_default_changed_was_what_the_code_did_before_it_could_be_set():
    assert not differences({}, {"sid_init.centred": False})
    assert differences({}, {"sid_init.centred": True}) == "sid_init.centred was False and is now True"


def test_a_run_older_than_a_setting_goes_on_as_it_began(tmp_path):
    saved = default_config().to_dict()
    saved["seed"] = 5
    del saved["sid_init"]["centred"]
    (tmp_path / "config.json").write_text(json.dumps({"config": saved}))
    config = load_saved(tmp_path)
    assert (config.seed, config.sid_init.centred) == (5, False)
    assert default_config().sid_init.centred


@pytest.mark.parametrize(
    "text",
    ["null", "3", "[]", "{}", "[" * 100_000, '{"config": 3}', '{"config": {"train": 3}}', '{"config": {"index": null}}',
     '{"config": {"run": {"arms": 3}}}', '{"config": {"run": {"arms": {"a": 3}}}}',
     '{"config": {"run": {"arms": {"a": {"train": 3}}}}}', '{"config": {"study": {"arms": {"a": null}}}}'],
)  # fmt: skip
def test_a_record_of_the_wrong_kind_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match="config"):
        validate(load_saved(tmp_path))


def test_how_a_layer_is_computed_may_change_between_two_starts_and_in_which_type_may_not():
    dataset = types.SimpleNamespace(data_hash="ab", catalogue=types.SimpleNamespace(tokens=("<a_0>",)))
    begun = training_identity(default_config(), dataset)
    for key, value, same in (("attention", "xla", True), ("remat", False, True), ("dtype", "bfloat16", False)):
        config = default_config()
        config.model[key] = value
        assert (training_identity(config, dataset) == begun) == same, key
