"""Which finished words of a workdir are those of the settings."""

import json

import pytest

from tsrec_jax.data.catalogue import Catalogue, Item
from tsrec_jax.errors import UserError
from tsrec_jax.pipeline.describe import describe_tokens
from tsrec_jax.teacher.settings import DescribeSettings

TITLES = ("steel drill", "wooden drill", "steel clamp", "wooden clamp")
SIDS = tuple((f"<a_{number // 2}>", f"<b_{number % 2}>") for number in range(4))
CATALOGUE = Catalogue(tuple(Item(str(number), title) for number, title in enumerate(TITLES)), SIDS)


def described(folder, **settings):
    return describe_tokens(DescribeSettings(**settings), folder, CATALOGUE, numbered=False)


@pytest.mark.parametrize("older", [("describe.unit", "describe.least_items"), ("describe.least_items",), ()])
def test_words_of_tokens_made_before_there_were_paths_are_taken(tmp_path, capsys, older):
    words = described(tmp_path)
    identity = tmp_path / "describe" / "identity.json"
    recorded = json.loads(identity.read_text())
    recorded |= {key: value for key, value in (("describe.unit", "token"), ("describe.least_items", 2)) if key in older}
    identity.write_text(json.dumps(recorded))
    assert described(tmp_path, least_items=5) == words
    assert "finished before, skipped" in capsys.readouterr().out


def test_words_of_paths_take_no_place_of_words_of_tokens_and_answers_that_can_be_copied_are_named(tmp_path):
    described(tmp_path)
    with pytest.raises(UserError, match=r"describe\.unit was None and is now 'path'\); use a new.*began with$"):
        described(tmp_path, unit="path")
    (tmp_path / "describe" / "teacher_answers.jsonl").write_text("{}")
    with pytest.raises(UserError, match=r"num_keywords was 20 and is now 3.*copy .*teacher_answers\.jsonl"):
        described(tmp_path, num_keywords=3)
