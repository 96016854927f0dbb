"""What a step's metrics become in the log."""

import numpy as np
import pytest

from tsrec_jax.training import meter as meter_module
from tsrec_jax.training.meter import Meter


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [0.0]
    monkeypatch.setattr(meter_module.time, "perf_counter", lambda: now[0])
    return now


def metrics(**more):
    return {
        "loss": np.float32(2.5),
        "grad_norm": np.float32(1.0),
        "tokens": np.int32(90),
        "examples": np.int32(6),
        "padding_share": np.float32(0.1),
        "part_sums": np.array([30.0, 0.0], np.float32),
        "part_counts": np.array([10.0, 0.0], np.float32),
        **more,
    }


def slow_batches(clock, seconds):
    while True:
        clock[0] += seconds
        yield {}


def test_every_scalar_of_the_step_is_logged_under_its_name_and_losses_by_task():
    values = Meter(("a", "b"), 0, 10).add(1, metrics(**{"grad_norm/new_rows": np.float32(0.25)}))
    assert values["grad_norm/new_rows"] == 0.25
    assert values["padding_share"] == pytest.approx(0.1)
    assert (values["loss/a"], values["loss_tokens/a"], values["loss_tokens/b"]) == (3.0, 10.0, 0.0)
    assert "loss/b" not in values
    assert not {"part_sums", "part_counts"} & set(values)


def test_rates_are_means_over_the_steps_since_the_last_row_and_leave_out_compilation_and_pauses(clock):
    meter = Meter(("a", "b"), 4, 100)
    batches = slow_batches(clock, 0.5)
    clock[0] += 50.0  # compiles
    meter.add(5, metrics())
    for step in (6, 7):
        meter.next_of(batches)
        clock[0] += 1.5
        meter.add(step, metrics())
    clock[0] += 20.0  # validates
    meter.pause()
    clock[0] += 5.0
    meter.add(8, metrics(tokens=np.int32(270)))
    rates = meter.rates()
    assert rates["step_seconds"] == pytest.approx(3.0)
    assert rates["tokens_per_second"] == pytest.approx((90 + 90 + 270) / 9.0)
    assert rates["examples_per_second"] == pytest.approx(18 / 9.0)
    assert rates["input_wait_share"] == pytest.approx(1.0 / 9.0)
    clock[0] += 2.0
    meter.add(9, metrics())
    assert meter.rates()["step_seconds"] == pytest.approx(2.0)


def test_mfu_and_memory_are_logged_where_the_device_is_known_and_only_there(clock, monkeypatch):
    class Device:
        device_kind = "TPU v5 lite"

        def memory_stats(self):
            return {"peak_bytes_in_use": 3 * 2**30}

    meter = Meter(("a", "b"), 0, 100, step_flops=197e12)
    clock[0] += 4.0
    meter.add(1, metrics())
    assert not {"mfu", "device_memory_gib"} & set(meter.rates())
    monkeypatch.setattr(meter_module.jax, "devices", lambda: [Device()] * 2)
    monkeypatch.setattr(meter_module.jax, "local_devices", lambda: [Device()] * 2)
    monkeypatch.setattr(meter_module.jax, "device_count", lambda: 2)
    clock[0] += 4.0
    values = meter.add(2, metrics())
    rates = meter.rates()
    assert rates["mfu"] == pytest.approx(1 / 8)
    assert rates["device_memory_gib"] == 3.0
    assert "MFU 12.5%" in meter.line(2, values | rates)
