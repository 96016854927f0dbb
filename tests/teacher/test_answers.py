"""The check of a model's answer: what is taken, and every reason for which it is not."""

import json

import pytest

from tsrec_jax.data.catalogue import TokenDescription
from tsrec_jax.teacher.answers import BadAnswer, parse_answer

GOOD = {"description": "Tools.", "keywords": ["drill", "saw"]}


@pytest.mark.parametrize("text", [
    json.dumps(GOOD),
    f"```json\n{json.dumps(GOOD)}\n```",
    f"Sure:\n```\n{json.dumps(GOOD, indent=2)}\n```\nAnything else?",
])  # fmt: skip
def test_bare_and_fenced_json_is_taken(text):
    assert parse_answer(text, "<a_1>") == TokenDescription("<a_1>", "Tools.", ("drill", "saw"))


def test_keywords_are_stripped_and_repeats_left_out():
    text = json.dumps({"description": " Two\n words ", "keywords": [" drill  bit", "Drill bit", "", "saw "]})
    assert parse_answer(text, "<a_1>") == TokenDescription("<a_1>", "Two words", ("drill bit", "saw"))


FAULTS = {
    "  ": "the answer is empty",
    "I cannot.": "not valid JSON",
    '{"description": "Too': "not valid JSON",
    "[1]": "is a list where an object",
    '{"keywords": ["x"]}': "'description' is missing",
    '{"description": "x"}': "'keywords' is missing",
    '{"description": 1, "keywords": ["x"]}': "the description is a int",
    '{"description": "x", "keywords": "x, y"}': "not a list of texts",
    '{"description": "x", "keywords": ["x", 1]}': "not a list of texts",
    '{"description": " ", "keywords": ["x"]}': "the description is empty",
    '{"description": "x", "keywords": []}': "the list of keywords is empty",
    '{"description": "x", "keywords": ["", " "]}': "the list of keywords is empty",
    '{"description": "Items of <a_1>", "keywords": ["x"]}': "names the token itself",
    '{"description": "x", "keywords": ["<a_1>"]}': "names the token itself",
    '{"description": "x", "keywords": ' + "[" * 100_000: "not valid JSON",
    '{"description": "half \\ud83d", "keywords": ["x"]}': "half of a surrogate pair",
    '{"description": "x", "keywords": ["x", "\\udc00"]}': "half of a surrogate pair",
}


@pytest.mark.parametrize("text", FAULTS, ids=lambda text: text[:60])
def test_a_bad_answer_is_refused_with_its_reason(text):
    with pytest.raises(BadAnswer, match=FAULTS[text]):
        parse_answer(text, "<a_1>")
