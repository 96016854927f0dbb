"""The watch on the loss: what counts as beyond use, and what does not."""

import math

import pytest

from tsrec_jax.training.watch import IN_A_ROW, WARM_UP, WINDOW, LossWatch


def values(loss, **changes):
    return {"loss": loss, "grad_norm": 1.0, "update_norm": 0.1, **changes}


def fed(losses, factor=10.0, before=()):
    """The watch after these losses, and the first trouble with its step; steps count from 1."""
    watch = LossWatch(factor, before)
    for step, loss in enumerate(losses, 1):
        trouble = watch.add(step, values(loss))
        if trouble:
            return watch, trouble
    return watch, None


@pytest.mark.parametrize("name", ["loss", "grad_norm", "update_norm"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_trouble_at_once(name, bad):
    trouble = LossWatch(0.0).add(7, values(2.0) | {name: bad})
    assert trouble.step == 7
    assert trouble.words == f"{name} is {bad} at step 7"


def test_losses_far_above_the_usual_one_are_an_explosion_that_began_with_the_first_of_them():
    _, trouble = fed([2.0] * 30 + [21.0] * IN_A_ROW)
    assert trouble.step == 31
    assert "exploded at step 33" in trouble.words
    assert "where 2 was usual" in trouble.words


def test_a_single_odd_batch_is_none_but_its_state_is_not_worth_keeping():
    watch, trouble = fed([2.0] * 30 + [21.0] * (IN_A_ROW - 1))
    assert trouble is None
    assert not watch.calm
    watch, trouble = fed([2.0] * 30 + [21.0, 21.0, 2.0, 21.0, 21.0, 2.0])
    assert trouble is None
    assert watch.calm


def test_the_first_losses_have_no_measure():
    assert fed([2.0] * (WARM_UP - 1) + [21.0] * IN_A_ROW)[1] is None
    assert fed([2.0] * WARM_UP + [21.0] * IN_A_ROW)[1] is not None


def test_the_measure_follows_the_losses():
    assert fed([30.0] * WINDOW + [0.5] * WINDOW + [20.0] * IN_A_ROW)[1].step == 2 * WINDOW + 1


def test_a_factor_of_0_never_stops():
    assert fed([2.0] * 30 + [1e9] * 10, factor=0.0)[1] is None


def test_a_resumed_watch_judges_like_one_that_went_on():
    losses = [2.0] * 30 + [21.0, 21.0]
    watch, _ = fed(losses)
    assert fed([21.0], before=watch.losses)[1].words.startswith("the loss has exploded at step 1")
    assert fed([21.0], before=watch.losses[:-1])[1] is None
