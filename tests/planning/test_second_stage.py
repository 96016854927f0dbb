"""What a second stage is said to compute and to hold, against what JAX traces and XLA compiles."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import pytest

from tests.planning.test_accounting import QUICK, traced_flops
from tests.rl.toy import make_trie
from tests.training.conftest import tiny_config
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.layers import parameter_shapes
from tsrec_jax.planning.accounting import MeshShape, StepShape, parameter_bytes
from tsrec_jax.planning.estimate import second_stage_line
from tsrec_jax.planning.feasibility import Setup
from tsrec_jax.planning.second_stage import SecondStageShape
from tsrec_jax.rl.settings import RlSettings
from tsrec_jax.rl.step import first_rl_step_and_state
from tsrec_jax.training.settings import TrainSettings

CONFIG = dataclasses.replace(tiny_config(), d_model=256, d_mlp=1024, vocab_rows=50_000)
STEP = StepShape(rows=8, sequence_length=128, loss_slots=64, sid_tokens=96, dtype="bfloat16")
SETUP = Setup(CONFIG, 50_000, STEP, MeshShape())
CODES = (32, 32, 32)


def told(**changes):
    """MiB of a device, and of the starting model in it."""
    line = second_stage_line(SETUP, SecondStageShape(STEP, RlSettings(**changes), 128, CODES, CODES))
    found = re.findall(r"([\d.]+) (GiB|MiB)", line)
    return [float(number) * (1024 if unit == "GiB" else 1) for number, unit in found]


def test_the_starting_model_is_held_in_the_compute_type_where_it_is_asked_for():
    total, reference = told()
    assert reference == pytest.approx(parameter_bytes(CONFIG, MeshShape()) / 2 / 2**20, rel=0.02)
    without, none = told(kl=0.0)
    assert none == 0 and without < total - 0.9 * reference
    assert told(objective="dpo", kl=0.0)[1] == reference


def test_fewer_prompts_or_candidates_at_a_time_take_less():
    whole = told(prompts=256)[0]
    assert told(prompts=256, accumulation=16)[0] < whole
    assert told(prompts=256, group=8, teacher="", reward="rule")[0] < whole


FACTS = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "tie_word_embeddings": True,
}
SHAPE = ModelConfig.from_hf(FACTS)
NARROW = ModelConfig.from_hf(FACTS | {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 1})
WIDE = (160, 160, 160)  # codes, beside which the narrow trunk is small


def wide_trie():
    codes_IC = np.random.default_rng(0).integers(0, WIDE, (1000, len(WIDE)))
    return Trie.from_codes(codes_IC, WIDE, [np.arange(first, first + 160, dtype=np.int32) for first in (16, 176, 336)])


def step_of(settings, length, remat, config=SHAPE, trie=None):
    """A step's shape, its program, and what that takes."""
    trie = (trie or make_trie()).arrays
    codes = tuple(len(level.token_ids_E) for level in trie.levels)
    weights = {name: jnp.zeros(shape) for name, (shape, _) in parameter_shapes(config).items()}
    model = Decoder(config, weights=weights, num_tokens=512, remat=remat)
    step, state = first_rl_step_and_state(model, trie, settings, TrainSettings(max_steps=1))
    taught = settings.teacher_items if settings.teachers else 0
    parts, rows = settings.accumulation, settings.prompts // settings.accumulation
    batch = {
        "tokens_BT": np.ones((parts, rows, length), np.int32),
        "segment_ids_BT": np.ones((parts, rows, length), np.int32),
        "lengths_B": np.full((parts, rows), length, np.int32),
        "target_BC": np.zeros((parts, rows, 3), np.int32),
        "items_B": np.ones((parts, rows), np.float32),
        "teacher_BMC": np.zeros((parts, rows, taught, 3), np.int32),
        "teacher_gain_BM": np.ones((parts, rows, taught), np.float32),
    }
    shape = SecondStageShape(StepShape(rows, length, 0, remat=remat), settings, length, codes, codes)
    return shape, step.update.func, (*step.update.args, state, batch)


@pytest.mark.parametrize(
    "settings",
    [
        RlSettings(prompts=4, group=6, teacher_items=3),
        RlSettings(prompts=4, group=6, teacher_items=3, kl=0.0, accumulation=2),
        RlSettings(prompts=4, group=6, teacher_items=3, kl=0.0, objective="sft"),
    ],
    ids=["with the starting model", "without, in parts", "of the target alone"],
)
def test_flops_are_the_matrix_products_of_the_traced_step(settings):
    shape, program, given = step_of(settings, length=16, remat=False)
    assert shape.flops(SHAPE) == traced_flops(program.trace(*given).jaxpr.jaxpr)


@pytest.mark.parametrize(
    ("settings", "length", "config", "trie"),
    [
        (RlSettings(prompts=16, group=12, teacher_items=10), 48, SHAPE, make_trie),
        (RlSettings(prompts=32, group=16, teacher_items=10, accumulation=8), 16, NARROW, wide_trie),
    ],
    ids=["mostly the trunk", "mostly scores, in parts"],
)
def test_memory_is_within_15_percent_of_what_xla_states(settings, length, config, trie):
    shape, program, given = step_of(settings, length, True, config, trie())
    found = program.lower(*given).compile(compiler_options=QUICK).memory_analysis()
    allocated = found.argument_size_in_bytes + found.temp_size_in_bytes
    assert shape.memory(config, MeshShape()) == pytest.approx(allocated, rel=0.15)
