"""Tiny decoders and checkpoint folders for the model tests."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.models.reference import GOLDEN, tiny_facts
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.layers import parameter_shapes
from tsrec_jax.models.sharding import named_sharding


@pytest.fixture
def make_model():
    """Decoders with normal(0, 0.3) weights, so that tokens matter; settings of `reference.CASES`, overridable."""

    def make(case="llama_tied", mesh=None, dtype="float32", remat=True, **settings):
        config = ModelConfig.from_hf(tiny_facts(case) | settings)
        rng = np.random.default_rng(0)
        weights = {
            name: jax.device_put(
                (rng.normal(0.0, 0.3, shape) + name.endswith("norm")).astype(np.float32), named_sharding(mesh, *axes)
            )
            for name, (shape, axes) in parameter_shapes(config).items()
        }
        return Decoder(config, dtype=dtype, remat=remat, weights=weights)

    return make


@pytest.fixture
def golden():
    """(config facts, weights by HF key, tokens_BT, logits_BTV) of a case, as transformers computed them."""

    def read(case):
        with np.load(GOLDEN / f"{case}.npz") as file:
            weights = {key.removeprefix("weights/"): file[key] for key in file.files if key.startswith("weights/")}
            return json.loads(str(file["config"])), weights, file["tokens_BT"], file["logits_BTV"]

    return read


@pytest.fixture
def write_checkpoint(tmp_path):
    """Writes a Hugging Face folder, in as many safetensors shards as asked for."""

    def write(facts, weights, shards=1, name="checkpoint"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(facts))
        if shards == 1:
            save_file(weights, folder / "model.safetensors")
            return folder
        places = {key: f"model-{index % shards}.safetensors" for index, key in enumerate(weights)}
        for file in sorted(set(places.values())):
            save_file({key: weights[key] for key in weights if places[key] == file}, folder / file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
        return folder

    return write
