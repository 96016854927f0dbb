"""The rate of requests and the waits after failures, in virtual time."""

import itertools
import threading

import pytest

from tsrec_jax.teacher.pace import LONGEST_WAIT, Clock, Pace, PaceEnded


def test_no_minute_holds_more_requests_than_allowed(virtual_time):
    pace = Pace(30, virtual_time.clock)
    starts = []
    for _ in range(70):
        pace.await_turn()
        starts.append(virtual_time.seconds)
    assert all(later - earlier >= 2.0 - 1e-9 for earlier, later in itertools.pairwise(starts))
    assert starts[-1] == pytest.approx(138.0)


def test_the_rate_holds_over_all_threads():
    """In real time: 12 starts at 600 a minute by 6 threads last at least 1.1 seconds."""
    pace, starts, clock = Pace(600, Clock()), [], Clock()

    def work():
        for _ in range(2):
            pace.await_turn()
            starts.append(clock.now())

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    starts.sort()
    assert len(starts) == 12
    assert starts[-1] - starts[0] > 1.05


def test_without_a_limit_nobody_waits(virtual_time):
    pace = Pace(0, virtual_time.clock)
    for _ in range(100):
        pace.await_turn()
    assert virtual_time.seconds == 0


def test_a_pause_holds_for_the_next_request_and_an_earlier_one_does_not_shorten_it(virtual_time):
    pace = Pace(0, virtual_time.clock)
    pace.pause_all(30)
    pace.pause_all(5)
    pace.await_turn()
    assert virtual_time.seconds == 30


def test_waits_grow_with_failures_up_to_a_limit_and_differ(virtual_time):
    pace = Pace(0, virtual_time.clock)
    for failures in range(1, 10):
        pace.back_off(failures)
    for failures, wait in enumerate(virtual_time.waits, 1):
        middle = min(2 ** (failures - 1), LONGEST_WAIT)
        assert 0.66 * middle < wait < 1.34 * middle
    pace.back_off(1)
    assert virtual_time.waits[0] != virtual_time.waits[-1]


def test_a_stop_ends_every_wait():
    pace = Pace(0.001, Clock())
    pace.await_turn()
    ended = []

    def work(wait):
        with pytest.raises(PaceEnded):
            wait()
        ended.append(1)

    threads = [threading.Thread(target=work, args=(wait,)) for wait in (pace.await_turn, lambda: pace.back_off(7))]
    for thread in threads:
        thread.start()
    pace.stop()
    for thread in threads:
        thread.join(5)
    assert ended == [1, 1]
