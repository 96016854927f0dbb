"""The table of growing costs on a miniature."""

import dataclasses

import numpy as np
import pytest

from benchmarks import train_growth
from benchmarks.growth.cell import Cell, measure, packed_batch
from tests.training.conftest import tiny_config
from tsrec_jax.planning.accounting import StepShape, step_memory

STEP = StepShape(rows=2, sequence_length=128, loss_slots=16)


def test_a_cell_states_what_its_step_took_and_what_was_estimated():
    config = dataclasses.replace(tiny_config(), vocab_rows=896)
    facts = measure(Cell(config.to_hf(), STEP, repeats=1))
    assert set(facts) == {"compile_seconds", "step_seconds", "tokens_per_second", "estimated_bytes", "peak_bytes"}
    assert facts["estimated_bytes"] == step_memory(config, STEP).total
    assert facts["tokens_per_second"] == pytest.approx(2 * 128 / facts["step_seconds"])
    assert facts["compile_seconds"] > 0


def test_batches_are_full_of_whole_examples():
    batch = packed_batch(tiny_config(), STEP)
    assert batch["segment_ids_BT"].min() == 1
    assert batch["segment_ids_BT"].max() == 2
    np.testing.assert_array_equal(batch["positions_BT"][0, 0, 60:68], [60, 61, 62, 63, 0, 1, 2, 3])
    assert batch["loss_index_GP"].max() < 128


def test_a_cpu_gets_multiples_of_the_first_line_and_an_accelerator_absolute_figures():
    one = {"compile_seconds": 4.0, "step_seconds": 0.5, "tokens_per_second": 512.0, "estimated_bytes": 0.75 * 2**30,
           "peak_bytes": 2**30, "mfu": 0.45}  # fmt: skip
    two = {**one, "tokens_per_second": 256.0, "peak_bytes": 3 * 2**30}
    results, facts = {"base": one, "16 layers": two}, {"commit": "abc"}
    page = train_growth.report(results, False, facts)
    assert "| 16 layers | 0.50 | 3.00 | 1.00 | 0.25 |" in page
    assert "512" not in page
    page = train_growth.report(results, True, facts)
    assert "| base | 512 | 0.500 | 45.0% | 1.00 | 0.75 | 4.0 |" in page
    assert "commit `abc`" in page
