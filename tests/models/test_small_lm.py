"""The small language model that a run pretrains: its sizes, and its tokenizer, which is sentencepiece's, id for id."""

import json
import random

import pytest
import sentencepiece
from transformers import AutoTokenizer

from tsrec_jax.data.prompts import Templates
from tsrec_jax.data.text_rows import item_texts
from tsrec_jax.errors import UserError
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.small_lm import _without_rare, lm_config, train_tokenizer
from tsrec_jax.shop.shop import make_shop


@pytest.fixture(scope="module")
def texts():
    return item_texts(make_shop(0, num_items=80, num_users=20).catalogue.items)


@pytest.fixture(scope="module")
def folder(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    train_tokenizer(texts, folder, vocab_size=700)
    return folder


def test_ids_equal_those_of_sentencepiece(folder, texts):
    ours = AutoTokenizer.from_pretrained(folder)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    strange = ["", " ", "  two  spaces ", "Übergröße 木\n\nnew line", "tab\there", "A1 B22", "x" * 50]
    for text in [*texts[:200], *strange, Templates()["next_sid"].header]:
        assert ours(text)["input_ids"] == theirs.encode(text), repr(text)


def test_every_text_comes_back_from_its_ids(folder, texts):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in [*texts[:50], "  Übergröße 木\n\nnew line "]:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_prompts_wording_is_shorter_where_the_tokenizer_saw_it(folder, texts, tmp_path):
    """Half a header of single letters would be most of a prompt."""
    wording = Templates().wording()
    train_tokenizer([*texts, *wording], tmp_path, vocab_size=700)
    before, after = (
        sum(map(len, AutoTokenizer.from_pretrained(path)(wording)["input_ids"])) for path in (folder, tmp_path)
    )
    assert after < 0.8 * before


def test_special_tokens_are_known_by_their_roles(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id) == (0, 1)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 3)


def test_the_texts_say_nothing_of_purchases(texts):
    assert len(texts) == 80 * 5
    assert not any(word in text for text in texts for word in ("<a_", "user", "bought"))


@pytest.mark.parametrize(("hidden_size", "num_layers"), [(128, 4), (64, 1), (256, 6)])
def test_the_config_is_one_that_the_decoder_and_transformers_take(folder, tmp_path, hidden_size, num_layers):
    from transformers import AutoConfig

    facts = lm_config(AutoTokenizer.from_pretrained(folder), hidden_size, num_layers)
    ours = ModelConfig.from_hf(facts)
    assert (ours.tied, ours.head_dim, ours.num_heads * ours.head_dim) == (True, 32, hidden_size)
    (tmp_path / "config.json").write_text(json.dumps(facts))
    theirs = AutoConfig.from_pretrained(tmp_path)
    assert (theirs.vocab_size, theirs.hidden_size, theirs.num_hidden_layers) == (
        facts["vocab_size"],
        hidden_size,
        num_layers,
    )


def test_more_characters_than_there_is_room_for_become_bytes_and_come_back(tmp_path):
    rng = random.Random(0)
    characters = [chr(0x4E00 + number) for number in range(3000)]
    frequent = ["".join(rng.choices(characters[:200], k=8)) + " steel pan" for _ in range(200)]
    titles = [*frequent, *("".join(rng.choices(characters, k=12)) for _ in range(400))]
    train_tokenizer(titles, tmp_path, vocab_size=1000)
    ours, theirs = AutoTokenizer.from_pretrained(tmp_path), sentencepiece.SentencePieceProcessor()
    theirs.load(str(tmp_path / "spiece.model"))
    assert len(ours) <= 1000
    for text in titles:
        ids = ours(text)["input_ids"]
        assert ids == theirs.encode(text)
        assert ours.decode(ids) == text
    lengths = [[len(ours(character)["input_ids"]) for character in part] for part in (characters[:200], characters)]
    assert lengths[0].count(1) == 200, "frequent characters are pieces"
    assert set(lengths[1]) == {1, 3}, "the others are their bytes"


def test_texts_whose_characters_have_room_are_read_as_they_are(texts):
    characters = len(set("".join(texts)))
    assert _without_rare(texts, characters) is texts
    assert _without_rare(texts, 20) is not texts


@pytest.mark.parametrize("vocab_size", [-1, 200, 261])
def test_a_vocabulary_below_what_is_always_there_is_refused_with_the_least(texts, tmp_path, vocab_size):
    with pytest.raises(UserError, match=rf"config\.pretrain\.vocab_size={vocab_size}: must be at least 262"):
        train_tokenizer(texts, tmp_path, vocab_size=vocab_size)
    train_tokenizer(texts, tmp_path, vocab_size=262)
    assert len(AutoTokenizer.from_pretrained(tmp_path)) <= 262


def test_what_is_written_loads_in_both_versions_of_transformers(folder):
    facts = json.loads((folder / "tokenizer_config.json").read_text())
    assert (facts["tokenizer_class"], facts["padding_side"]) == ("PreTrainedTokenizerFast", "left")
