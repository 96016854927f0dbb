"""What cannot run is refused, and what is proposed instead can."""

import dataclasses
import re

import pytest

from tests.planning.test_accounting import shape_of
from tests.training.conftest import tiny_config
from tsrec_jax.errors import UserError
from tsrec_jax.planning.accounting import MeshShape, StepShape
from tsrec_jax.planning.chips import CHIPS, GIB
from tsrec_jax.planning.feasibility import Setup, mesh_faults, refuse_memory, refuse_mesh
from tsrec_jax.planning.second_stage import SecondStageShape
from tsrec_jax.rl.settings import RlSettings

STEP = StepShape(rows=8, sequence_length=512, loss_slots=128)


def setup_of(mesh, step=STEP, base=None):
    return Setup(base or tiny_config(), num_tokens=70, step=step, mesh=MeshShape(*mesh))


def changed_as_told(setup, message):
    """The setup with the changes that a message proposes."""
    facts = dict(re.findall(r"config\.(?:\w+)\.(\w+)=(\w+)", message))
    mesh = {key: int(facts.pop(key)) for key in ("data", "fsdp", "tensor") if key in facts}
    step = {}
    if "batch_tokens" in facts:
        step["rows"] = int(facts["batch_tokens"]) // (setup.step.accumulation * setup.step.sequence_length)
    return dataclasses.replace(
        setup, mesh=dataclasses.replace(setup.mesh, **mesh), step=dataclasses.replace(setup.step, **step)
    )


def test_a_mesh_that_divides_everything_is_taken():
    refuse_mesh(setup_of((2, 2, 2)))


def test_heads_that_the_tensor_axis_does_not_divide_are_refused_with_the_nearest_mesh():
    setup = setup_of((1, 1, 4))  # 2 kv heads
    with pytest.raises(UserError, match=r"heads of k \(2\) by tensor=4") as refused:
        refuse_mesh(setup)
    proposed = changed_as_told(setup, str(refused.value))
    assert proposed.mesh.devices == 4
    assert proposed.mesh.tensor == 2
    assert not mesh_faults(proposed)


def test_a_batch_that_does_not_divide_is_refused_with_a_mesh_and_a_batch():
    setup = setup_of((4, 1, 1), dataclasses.replace(STEP, rows=6))
    with pytest.raises(
        UserError, match="6 rows of a micro-batch do not divide over rows_per_group x data x fsdp = 1 x 4"
    ) as refused:
        refuse_mesh(setup)
    mesh, batch = str(refused.value).split("; use ")[1].split(" or ")
    assert not mesh_faults(changed_as_told(setup, mesh))
    assert changed_as_told(setup, batch).step.rows == 8


def test_groups_of_rows_stay_whole():
    setup = setup_of((2, 1, 1), dataclasses.replace(STEP, rows_per_group=8))
    with pytest.raises(UserError, match="rows_per_group x data x fsdp = 8 x 2") as refused:
        refuse_mesh(setup)
    assert not mesh_faults(changed_as_told(setup, str(refused.value)))


def test_where_no_mesh_of_so_many_devices_works_the_message_says_so():
    with pytest.raises(UserError, match="fewer devices"):
        refuse_mesh(setup_of((1, 7, 7)))


def test_the_table_is_rounded_up_to_what_the_mesh_divides():
    assert setup_of((1, 1, 1)).model.vocab_rows == 128
    assert setup_of((1, 2, 2)).model.vocab_rows == 512


def test_what_does_not_fit_is_refused_with_the_settings_that_lower_it():
    setup = setup_of((1, 1, 1), StepShape(16, 1024, 256, remat=False), shape_of(layers=30, vocabulary=131_072))
    needed = setup.memory().total / GIB
    chip = dataclasses.replace(CHIPS["v5e"], memory_gib=needed)
    with pytest.raises(UserError, match=f"needs about {needed:.1f} GiB on each device, and 90% of a v5e") as refused:
        refuse_memory(setup, chip)
    ways = ("config.mesh.fsdp", "config.train.accumulation", "config.train.loss_chunk=32", "config.model.remat=True")
    assert all(way in str(refused.value) for way in ways)
    saved = dataclasses.replace(setup, step=dataclasses.replace(setup.step, loss_chunk=32, remat=True))
    assert saved.fits(chip)
    refuse_memory(saved, chip)
    with pytest.raises(UserError) as refused:
        refuse_memory(saved, dataclasses.replace(chip, memory_gib=0.01))
    assert not any(way in str(refused.value) for way in ways[2:]), "what is set already is not proposed"
    assert "a smaller model" in str(refused.value)


def test_a_second_stage_that_does_not_fit_is_refused_where_the_training_fits():
    setup = setup_of((1, 1, 1), StepShape(16, 256, 64), shape_of(layers=2))
    codes = (256, 256, 256)
    stage = SecondStageShape(setup.step, RlSettings(prompts=256), 256, codes, codes)
    between = (setup.memory().total + stage.memory(setup.model, setup.mesh)) / 2
    chip = dataclasses.replace(CHIPS["v5e"], memory_gib=between / GIB / 0.9)
    assert setup.fits(chip) and not setup.fits(chip, stage)
    refuse_memory(setup, chip)
    with pytest.raises(UserError, match=r"the second stage needs about .* config.rl.accumulation, config.rl.kl=0"):
        refuse_memory(setup, chip, stage)
    less = dataclasses.replace(stage, settings=RlSettings(prompts=256, accumulation=32, kl=0.0))
    refuse_memory(setup, dataclasses.replace(chip, memory_gib=64), less)
