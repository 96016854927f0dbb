"""A run with adapters by the command line: what it writes for PEFT is the model it exports, or it says why not."""

import types

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.pipeline.small import SMALL
from tests.serving.test_peft_folder import merged_by_peft
from tests.training.conftest import tiny_config
from tsrec_jax.main import main
from tsrec_jax.pipeline.export import beyond_peft
from tsrec_jax.settings import default_config, settings_of

ADAPTERS = [
    "--config.train.freeze=trunk",
    "--config.train.adapter.rank=2",
    "--config.sid_init.head=plain",
    "--config.objective=constrained",
    "--config.rl.steps=1",
    "--config.rl.prompts=16",
    "--config.rl.group=4",
]


def test_the_folder_for_peft_is_the_model_that_was_trained_improved_and_exported(tmp_path):
    assert main(["run", "--config=quickstart", f"--workdir={tmp_path}", *SMALL, *ADAPTERS]) == 0
    exported, base = (load_file(tmp_path / name / "model.safetensors") for name in ("export", "pretrained"))
    merged, _ = merged_by_peft(tmp_path / "pretrained", tmp_path / "adapter")
    assert set(merged) == set(exported)
    moved = [name for name, value in exported.items() if not np.array_equal(value, base[name])]
    assert sum("_proj" in name for name in moved) >= 7  # every kernel has learned
    for name, value in exported.items():
        np.testing.assert_allclose(merged[name], value, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("changes", "layers", "scaled", "file", "said"),
    [
        ({}, 2, None, "base", ""),
        ({"model": {"random": True}}, 2, None, "base", "config.model.random=True"),
        ({}, 1, None, "base", "config.model.num_layers leaves layers out"),
        ({"sid_init": {"head": "scaled"}}, 2, 1.0, "base", "config.sid_init.head='scaled'"),
        ({}, 2, None, "base.gguf", "is not a folder of transformers"),
    ],
)
def test_what_peft_cannot_load_is_named(monkeypatch, tmp_path, changes, layers, scaled, file, said):
    config = tiny_config()
    monkeypatch.setattr("tsrec_jax.pipeline.export.read_config", lambda _: config)
    (tmp_path / file).touch()
    model = types.SimpleNamespace(config=tiny_config(layers=layers), sid_scale=scaled)
    faults = beyond_peft(settings_of(default_config()).changed(changes), model, str(tmp_path / file))
    assert len(faults) == bool(said) and said in "".join(faults)
