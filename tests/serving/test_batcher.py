import logging
import math
import threading
import time

import pytest

from tests.serving.fakes import FakeRecommender
from tsrec_jax.errors import UserError
from tsrec_jax.serving.answers import Request
from tsrec_jax.serving.batcher import Batcher, BatchFailed, BatchSettings, Closed, Expired, QueueFull

LATER = 1e9


def ask(number, **options):
    return Request((f"B{number:03d}",), **options)


@pytest.fixture
def recommender():
    return FakeRecommender()


@pytest.fixture
def make_batcher(recommender):
    """make_batcher(**settings): on the fake recommender; all are closed at the end and must then have ended."""
    made = []

    def make(max_batch=4, max_queue=100, max_wait=0.02, **options):
        made.append(Batcher(recommender.answer, BatchSettings(max_batch, max_queue, max_wait), **options))
        return made[-1]

    yield make
    recommender.gate.set()
    for batcher in made:
        batcher.close()
        assert ended(batcher)


def ended(batcher, seconds=10.0):
    limit = time.monotonic() + seconds
    while batcher.alive and time.monotonic() < limit:
        time.sleep(0.002)
    return not batcher.alive


def hold(recommender, batcher):
    """Has the worker compute a first request until the gate opens, so that what follows waits."""
    recommender.gate.clear()
    recommender.computing.clear()
    ticket = batcher.submit(ask(29), LATER)
    assert recommender.computing.wait(10)
    return ticket


def test_requests_that_come_together_are_computed_together_and_in_order(recommender, make_batcher):
    batcher = make_batcher()
    first = hold(recommender, batcher)
    tickets = [batcher.submit(ask(number), LATER) for number in range(10)]
    assert batcher.depth == 10
    recommender.gate.set()
    found = [ticket.future.result(10) for ticket in tickets]
    assert [answered.answer for answered in found] == [recommender.alone(ask(number)) for number in range(10)]
    assert first.future.result().answer == recommender.alone(ask(29))
    assert [len(batch) for batch in recommender.batches] == [1, 4, 4, 2]
    assert [request for batch in recommender.batches[1:] for request in batch] == [ask(n) for n in range(10)]
    assert [answered.batch_size for answered in found] == [4] * 8 + [2] * 2


def test_a_request_waits_for_others_but_not_longer_than_it_was_told(recommender, make_batcher):
    batcher = make_batcher(max_wait=0.25)
    started = time.monotonic()
    alone = batcher.submit(ask(1), LATER).future.result(10)
    assert 0.2 <= time.monotonic() - started < 5
    assert 0.2 <= alone.waited < 5 and alone.batch_size == 1


def test_a_full_batch_does_not_wait(recommender, make_batcher):
    batcher = make_batcher(max_wait=30.0)
    tickets = [batcher.submit(ask(number), LATER) for number in range(4)]
    assert {ticket.future.result(10).batch_size for ticket in tickets} == {4}


def test_no_request_is_lost_or_gets_the_answer_of_another(recommender, make_batcher):
    batcher = make_batcher(max_queue=10_000, max_wait=0.001)
    wrong = []

    def client(seed):
        for number in range(100):
            request = Request((f"B{seed:03d}", f"B{number % 30:03d}"), k=1 + number % 5)
            if batcher.submit(request, LATER).future.result(20).answer != recommender.alone(request):
                wrong.append(request)

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sum(len(batch) for batch in recommender.batches) == 1200
    assert max(len(batch) for batch in recommender.batches) == 4


def test_a_full_queue_refuses_and_says_when_to_come_back(recommender, make_batcher):
    batcher = make_batcher(max_queue=3)
    hold(recommender, batcher)
    tickets = [batcher.submit(ask(number), LATER) for number in range(3)]
    for refusing in (batcher.refuse_if_full, lambda: batcher.submit(ask(3), LATER)):
        with pytest.raises(QueueFull) as refused:
            refusing()
        assert refused.value.retry_after == 1
    recommender.gate.set()
    assert [ticket.future.result(10).answer for ticket in tickets] == [recommender.alone(ask(n)) for n in range(3)]
    batcher.refuse_if_full()


def test_the_time_to_come_back_grows_with_the_queue_and_the_time_of_a_batch(recommender, make_batcher):
    recommender.seconds = 0.6
    batcher = make_batcher(max_queue=12, max_wait=0.0)
    batcher.submit(ask(0), LATER).future.result(10)
    hold(recommender, batcher)
    for number in range(12):
        batcher.submit(ask(number), LATER)
    with pytest.raises(QueueFull) as refused:
        batcher.refuse_if_full()
    assert refused.value.retry_after == 2  # three batches of 0.6 s
    recommender.seconds = 0.0


def test_an_expired_request_is_not_computed_and_the_others_of_its_batch_are(recommender, make_batcher):
    batcher = make_batcher()
    hold(recommender, batcher)
    late = batcher.submit(ask(1), time.monotonic() + 0.01)
    fine = batcher.submit(ask(2), LATER)
    time.sleep(0.02)
    recommender.gate.set()
    with pytest.raises(Expired):
        late.future.result(10)
    assert fine.future.result(10).answer == recommender.alone(ask(2))
    assert recommender.batches[1:] == [[ask(2)]]


def test_a_queue_of_expired_requests_only_is_emptied_and_the_worker_goes_on(recommender, make_batcher):
    batcher = make_batcher()
    hold(recommender, batcher)
    tickets = [batcher.submit(ask(number), 0.0) for number in range(6)]
    recommender.gate.set()
    for ticket in tickets:
        with pytest.raises(Expired):
            ticket.future.result(10)
    assert batcher.submit(ask(7), LATER).future.result(10).answer == recommender.alone(ask(7))


def test_a_withdrawn_request_frees_its_place_and_is_not_computed(recommender, make_batcher):
    batcher = make_batcher(max_queue=2)
    hold(recommender, batcher)
    gone, kept = batcher.submit(ask(1), LATER), batcher.submit(ask(2), LATER)
    batcher.withdraw(gone)
    batcher.withdraw(gone)
    assert batcher.depth == 1
    other = batcher.submit(ask(3), LATER)
    recommender.gate.set()
    assert kept.future.result(10).answer == recommender.alone(ask(2))
    assert other.future.result(10).answer == recommender.alone(ask(3))
    batcher.withdraw(kept)
    assert kept.future.result().answer == recommender.alone(ask(2))
    assert ask(1) not in [request for batch in recommender.batches for request in batch]


def test_closing_refuses_new_requests_and_finishes_all_that_were_accepted(recommender, make_batcher):
    batcher = make_batcher()
    first = hold(recommender, batcher)
    tickets = [first, *(batcher.submit(ask(number), LATER) for number in range(9))]
    batcher.close()
    for refusing in (batcher.refuse_if_full, lambda: batcher.submit(ask(3), LATER)):
        with pytest.raises(Closed):
            refusing()
    assert batcher.alive
    recommender.gate.set()
    assert len([ticket.future.result(10) for ticket in tickets]) == 10
    assert ended(batcher)


def test_closing_does_not_wait_for_company(make_batcher):
    batcher = make_batcher(max_wait=60.0)
    ticket = batcher.submit(ask(1), LATER)
    batcher.close()
    assert ticket.future.result(5).batch_size == 1
    assert ended(batcher, 5)


def test_closing_an_idle_batcher_ends_it(make_batcher):
    batcher = make_batcher()
    batcher.close()
    assert ended(batcher, 5)


def test_a_failed_batch_fails_its_requests_with_no_word_of_the_cause_and_the_next_is_fine(
    recommender, make_batcher, caplog
):
    sizes = []
    batcher = make_batcher(on_batch=lambda size, seconds: sizes.append(size))
    first = hold(recommender, batcher)
    recommender.failures = [RuntimeError("a secret of the device")]
    recommender.gate.set()
    with caplog.at_level(logging.ERROR), pytest.raises(BatchFailed) as failed:
        first.future.result(10)
    assert "secret" not in str(failed.value) and "log" in str(failed.value)
    assert "a secret of the device" in caplog.text
    assert batcher.submit(ask(1), LATER).future.result(10).answer == recommender.alone(ask(1))
    assert sizes == [1, 1]


def test_too_few_answers_fail_the_batch_rather_than_pair_up_wrongly(caplog):
    broken = Batcher(lambda requests: [], BatchSettings(4))
    with caplog.at_level(logging.ERROR), pytest.raises(BatchFailed):
        broken.submit(ask(1), LATER).future.result(10)
    assert "0 answers for 1 requests" in caplog.text
    broken.close()


def test_an_item_removed_after_the_check_fails_only_the_request_that_names_it(recommender, make_batcher):
    batcher = make_batcher()
    hold(recommender, batcher)
    tickets = [batcher.submit(ask(number), LATER) for number in (1, 2, 3)]
    recommender.catalogue.remove("B002")
    recommender.gate.set()
    with pytest.raises(UserError, match="B002"):
        tickets[1].future.result(10)
    for ticket, number in ((tickets[0], 1), (tickets[2], 3)):
        assert ticket.future.result(10).answer == recommender.alone(ask(number))


@pytest.mark.parametrize("wrong", [(0, 1, 0.0), (1, 0, 0.0), (1, 1, -0.1), (1, 1, math.nan), (1, 1, math.inf)])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError, match="at least"):
        BatchSettings(*wrong)


def test_a_thread_that_fails_leaves_nobody_waiting_and_is_told_and_logged(recommender, make_batcher, caplog):
    told = threading.Event()
    batcher = make_batcher(max_batch=1, on_batch=lambda size, seconds: 1 / 0, on_failure=told.set)
    tickets = [hold(recommender, batcher), batcher.submit(ask(1), LATER), batcher.submit(ask(2), LATER)]
    recommender.gate.set()
    for ticket in tickets:
        with pytest.raises(BatchFailed, match="thread"):
            ticket.future.result(10)
    assert told.wait(10) and ended(batcher)
    with pytest.raises(Closed):
        batcher.submit(ask(3), LATER)
    assert "nothing is answered any more" in caplog.text and "ZeroDivisionError" in caplog.text
