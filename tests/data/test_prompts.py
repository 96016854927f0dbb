"""Prompts: golden token ids, separate tokenisation, cutting, and templates that are refused."""

import pytest

from tsrec_jax.data.prompts import PromptBuilder, Templates
from tsrec_jax.errors import UserError

NEWLINE, COMMA, END = 198, 11, 257
HISTORY = ("<a_9><b_1><c_3>", "<a_9><b_2><c_0>")
HISTORY_IDS = [259, 261, 266, COMMA, 259, 262, 264]


@pytest.fixture
def short():
    """The byte Q and a newline, then H, the history and `>`: ids 48 198, 39 ... 29."""
    return Templates.from_mapping({"next_sid": {"header": "Q\n", "prompt": "H{history}>"}})


def test_a_prompt_and_its_completion_have_these_ids(tokenizer, short):
    builder = PromptBuilder(tokenizer, short)
    assert builder.prompts_next_sid([HISTORY], levels=3) == [[48, NEWLINE, 39, *HISTORY_IDS, 29]]
    assert builder.completions("next_sid", ["<a_10><b_1><c_3>"]) == [[260, 261, 266, NEWLINE, END]]


def test_the_wording_is_every_prompt_without_its_input(short):
    assert short.wording()[0] == "Q\nH>"
    assert len(short.wording()) == len(Templates().by_name)
    assert not any("{" in text for text in short.wording())


def test_header_and_prompt_are_tokenised_separately(tokenizer, short):
    joined = tokenizer("Q\nH", add_special_tokens=False)["input_ids"]
    assert joined == [48, 256]
    assert PromptBuilder(tokenizer, short).prompts("next_sid", [""])[0][:3] == [48, NEWLINE, 39]


def test_the_default_wording_of_every_task(tokenizer):
    builder = PromptBuilder(tokenizer, Templates())
    sid = "<a_9><b_1><c_3>"
    history = builder.history(HISTORY)
    texts = {
        "next_sid": (f"Continue the shopping history.\nHistory: {history}\nNext:", sid, f"{sid}\n<|end|>"),
        "next_title": (f"Name what is bought next.\nHistory: {history}\nTitle:", "Red drill", " Red drill\n<|end|>"),
        "title_to_sid": ("Give the code of this item.\nTitle: Red drill\nCode:", sid, f"{sid}\n<|end|>"),
        "sid_to_title": (f"Name the item behind this code.\nCode: {sid}\nTitle:", "Red drill", " Red drill\n<|end|>"),
        "token_to_description": (
            "Say what items with this code part share.\nPart: <a_9>\nShared:",
            "Red {things}",
            " Red {things}\n<|end|>",
        ),
        "description_to_token": (
            "Find the code part of items like these.\nShared: Red {things}\nPart:",
            "<a_9>",
            "<a_9>\n<|end|>",
        ),
    }
    inputs = {
        "next_sid": history,
        "next_title": history,
        "title_to_sid": "Red drill",
        "sid_to_title": sid,
        "token_to_description": "<a_9>",
        "description_to_token": "Red {things}",
    }
    assert set(texts) == set(Templates().by_name)
    for task, (prompt, answer, completion) in texts.items():
        assert tokenizer.decode(builder.prompts(task, [inputs[task]])[0]) == prompt
        assert tokenizer.decode(builder.completions(task, [answer])[0]) == completion


def test_many_prompts_equal_the_same_prompts_one_by_one(tokenizer):
    builder = PromptBuilder(tokenizer, Templates())
    histories = [HISTORY, HISTORY[:1], HISTORY * 5]
    one_by_one = [builder.prompts_next_sid([history], 3)[0] for history in histories]
    assert builder.prompts_next_sid(histories, 3) == one_by_one
    assert builder.prompts_next_sid([], 3) == []


def test_a_long_prompt_keeps_its_end_and_leaves_room_for_the_answer(tokenizer, short):
    whole = PromptBuilder(tokenizer, short).prompts_next_sid([HISTORY], 3)[0]
    cut = PromptBuilder(tokenizer, short, max_length=12).prompts_next_sid([HISTORY], 3)[0]
    assert cut == whole[-7:]


def test_no_special_token_of_the_tokenizer_enters_a_prompt(tokenizer, short):
    plain = PromptBuilder(tokenizer, short).prompts_next_sid([HISTORY], 3)
    tokenizer.add_bos_token = True
    tokenizer.bos_token = "<|end|>"
    assert PromptBuilder(tokenizer, short).prompts_next_sid([HISTORY], 3) == plain
    assert END not in plain[0]


def test_templates_survive_their_mapping():
    changed = Templates.from_mapping({"separator": " ", "sid_to_title": {"prompt": "{sid} is"}})
    assert changed.separator == " "
    assert changed["sid_to_title"].prompt == "{sid} is"
    assert changed["sid_to_title"].header == Templates()["sid_to_title"].header
    assert changed["next_sid"] == Templates()["next_sid"]
    assert Templates.from_mapping(changed.to_mapping()) == changed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"next_item": {"prompt": "x"}}, r"templates\.next_item: no such task; the tasks are next_sid"),
        ({"next_sid": {"promt": "x"}}, r"templates\.next_sid\.promt: fields are header, prompt and completion"),
        ({"next_sid": "History: {history}"}, r"templates\.next_sid: needs texts"),
        ({"next_sid": {"prompt": 3}}, r"templates\.next_sid: needs texts"),
        ({"next_sid": {"prompt": "History:"}}, r"templates\.next_sid\.prompt: takes exactly .*\{history\}, has none"),
        ({"title_to_sid": {"prompt": "{title} {sid}"}}, r"templates\.title_to_sid\.prompt: .*has \['sid', 'title'\]"),
        ({"next_title": {"header": "{history}"}}, r"templates\.next_title\.header: takes no placeholder"),
        ({"next_title": {"completion": "{title"}}, r"templates\.next_title\.completion: expected '}'"),
        ({"next_sid": {"completion": " {sid}"}}, r"templates\.next_sid\.completion: must be \{sid\} alone"),
    ],
)
def test_unusable_templates_are_refused_by_key(changes, message):
    with pytest.raises(UserError, match=message):
        Templates.from_mapping(changes)
