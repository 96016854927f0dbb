"""The estimate: tokens by the stated rule of thumb, money only where prices are given."""

import pytest

from tsrec_jax.teacher.cost import Plan, cost_of, estimate_tokens
from tsrec_jax.teacher.settings import DescribeSettings


def test_tokens_follow_the_rule_of_thumb():
    assert estimate_tokens(["x" * 400, "x" * 401], 20) == (201, 2 * (140 + 80))
    assert estimate_tokens([], 20) == (0, 0)


def test_prices_are_for_a_million_tokens_and_unknown_ones_give_no_cost():
    assert cost_of(DescribeSettings(input_price=0.1, output_price=0.4), 2_000_000, 500_000) == pytest.approx(0.4)
    assert cost_of(DescribeSettings(), 2_000_000, 500_000) is None


def test_the_plan_reads_as_a_sentence():
    text = str(Plan("openai", "m", 560, 60, 1234567, 110000, 1.234))
    assert "560 questions" in text and "60 answered on disk, 500 to ask" in text
    assert "1,234,567 input and 110,000 output tokens" in text and "about 1.23 at the prices given" in text
    assert "no prices given" in str(Plan("openai", "m", 560, 0, 10, 10, None))
    assert "asks no model" in str(Plan("offline", "", 560, 0, 0, 0, None))
