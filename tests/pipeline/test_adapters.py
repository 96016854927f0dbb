"""What a run with adapters writes for PEFT, or why it does not."""

import types

import pytest

from tests.training.conftest import tiny_config
from tsrec_jax.pipeline.export import beyond_peft
from tsrec_jax.settings import default_config, settings_of


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
