"""What `plan` says of the memory of a second stage."""

import dataclasses
import re

import pytest

from tests.training.conftest import tiny_config
from tsrec_jax.planning.accounting import MeshShape, StepShape, parameter_bytes
from tsrec_jax.planning.estimate import second_stage_line
from tsrec_jax.planning.feasibility import Setup
from tsrec_jax.rl.settings import RlSettings

CONFIG = dataclasses.replace(tiny_config(), d_model=256, d_mlp=1024, vocab_rows=50_000)
STEP = StepShape(rows=8, sequence_length=128, loss_slots=64, sid_tokens=96, dtype="bfloat16")
SETUP = Setup(CONFIG, 50_000, STEP, MeshShape())


def told(**changes):
    """MiB of a device, and of the starting model in it."""
    line = second_stage_line(SETUP, RlSettings(**changes), levels=3)
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
