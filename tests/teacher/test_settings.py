"""Settings: the defaults work, and a value that cannot work is named by its key."""

import pytest

from tsrec_jax.errors import UserError
from tsrec_jax.teacher.settings import DescribeSettings


def test_the_default_asks_no_model():
    assert not DescribeSettings().asks_a_model


@pytest.mark.parametrize(("changes", "words"), [
    ({"backend": "ofline"}, "config.describe.backend='ofline' is not one of .*; did you mean 'offline'"),
    ({"backend": "gemini"}, "config.describe.model is empty"),
    ({"backend": "file"}, "config.describe.path is empty"),
    ({"items_per_token": 0}, "config.describe.items_per_token=0 must be above 0"),
    ({"concurrency": -1}, "config.describe.concurrency=-1"),
    ({"timeout_seconds": float("nan")}, "config.describe.timeout_seconds=nan"),
    ({"requests_per_minute": -1.0}, "config.describe.requests_per_minute=-1.0 must be 0 or more"),
    ({"input_price": float("inf")}, "config.describe.input_price=inf"),
    ({"answer_format": "xml"}, "config.describe.answer_format='xml' is not one of schema, object, text"),
])  # fmt: skip
def test_a_value_that_cannot_work_is_named(changes, words):
    with pytest.raises(UserError, match=words):
        DescribeSettings(**changes)
