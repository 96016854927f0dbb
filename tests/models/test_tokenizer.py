import json
import os
import subprocess

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tsrec_jax.errors import UserError
from tsrec_jax.models.tokenizer import load_tokenizer, save_tokenizer


def save(folder, **special):
    backend = Tokenizer(models.WordLevel({"a": 0, "</s>": 1, "?": 2}, unk_token="?"))
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)


def test_a_folders_tokenizer_is_read(tmp_path):
    save(tmp_path, eos_token="</s>")
    assert load_tokenizer(tmp_path).eos_token_id == 1


def test_a_tokenizer_that_ends_no_text_is_refused(tmp_path):
    save(tmp_path)
    with pytest.raises(UserError, match="names no eos_token"):
        load_tokenizer(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError, match="no readable tokenizer"):
        load_tokenizer(tmp_path)


def write_base(folder, backend, model_type, **config):
    """A folder as people have them: tokenizer.json, tokenizer_config.json and the model's config.json."""
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"} | config))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder


def numbers_by_three():
    """A byte-level BPE that cuts numbers into threes, as Llama 3 does and Qwen2 does not."""
    backend = Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex(r"\d{1,3}| ?\p{L}+|\s+|[^\d\s\p{L}]+"), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=letters, show_progress=False)
    backend.train_from_iterator(["price 123 456 789 "] * 20, trainer)
    backend.add_special_tokens([AddedToken("<|end|>", normalized=False)])
    return backend


def whole_words():
    """A Unigram that marks spaces, as sentencepiece does."""
    pieces = [("<unk>", 0.0), ("▁Steel", -1.0), ("▁saucepan", -1.0), ("Steel", -2.0), ("▁", -3.0)]
    pieces += [(letter, -5.0) for letter in "Stelaucpn12cm"]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    backend.decoder = decoders.Metaspace(prepend_scheme="never")
    backend.add_special_tokens([AddedToken("<|end|>", normalized=False)])
    return backend


@pytest.mark.parametrize("tokenizer_class", [None, "Qwen2Tokenizer", "PreTrainedTokenizerFast", "LlamaTokenizer"])
@pytest.mark.parametrize("model_type", ["qwen2", "llama", "qwen3"])
@pytest.mark.parametrize(
    ("make", "text"), [(numbers_by_three, "price 123 456 789"), (whole_words, "Steel saucepan 12cm")]
)
def test_a_tokenizer_of_another_kind_than_its_model_is_read_as_it_is_written(
    tmp_path, make, text, model_type, tokenizer_class
):
    backend = make()
    named = {} if tokenizer_class is None else {"tokenizer_class": tokenizer_class}
    base = write_base(tmp_path / "base", backend, model_type, **named)
    wanted = backend.encode(text, add_special_tokens=False).ids
    tokenizer = load_tokenizer(base)
    tokenizer.add_tokens(["<a_1>", "<b_2>"])
    save_tokenizer(tokenizer, tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text((base / "config.json").read_text())
    for read in (load_tokenizer(base), load_tokenizer(tmp_path / "saved")):
        assert read(text, add_special_tokens=False)["input_ids"] == wanted
        assert read.decode(wanted) == text
        assert read.eos_token == "<|end|>"
    assert read.convert_tokens_to_ids(["<a_1>", "<b_2>"]) == [backend.get_vocab_size(), backend.get_vocab_size() + 1]


@pytest.mark.parametrize("key", ["extra_special_tokens", "additional_special_tokens"])
def test_special_tokens_of_a_list_stay_whole_and_are_written_for_both_versions_of_transformers(tmp_path, key):
    backend = numbers_by_three()
    backend.add_special_tokens([AddedToken("<|image|>", normalized=False), AddedToken("<|sound|>", normalized=False)])
    base = write_base(tmp_path / "base", backend, "llama", **{key: ["<|image|>", "<|sound|>"]})
    save_tokenizer(load_tokenizer(base), tmp_path / "saved")
    facts = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert facts["additional_special_tokens"] == ["<|image|>", "<|sound|>"]
    assert facts.keys().isdisjoint({"extra_special_tokens", "backend", "is_local", "local_files_only"})
    assert (facts["tokenizer_class"], facts["padding_side"]) == ("PreTrainedTokenizerFast", "left")
    again = load_tokenizer(tmp_path / "saved")
    assert set(again.all_special_tokens) == {"<|end|>", "<|image|>", "<|sound|>"}
    assert again.tokenize("a<|sound|>b") == ["a", "<|sound|>", "b"]


def test_the_older_transformers_reads_what_is_written_with_the_same_ids(tmp_path):
    python = os.environ.get("TSREC_TRANSFORMERS_4")
    if not python:
        pytest.skip("needs TSREC_TRANSFORMERS_4, a Python with transformers 4.57")
    backend = numbers_by_three()
    backend.add_special_tokens([AddedToken("<|image|>", normalized=False)])
    text, wanted = "price 123 456<a_1><b_2>,<|image|><|end|>\n", []
    for model_type in ("llama", "qwen2"):
        listed = {"extra_special_tokens": ["<|image|>"]}
        tokenizer = load_tokenizer(write_base(tmp_path / f"{model_type}-base", backend, model_type, **listed))
        tokenizer.add_tokens(["<a_1>", "<b_2>"])
        save_tokenizer(tokenizer, tmp_path / model_type)
        (tmp_path / model_type / "config.json").write_text(json.dumps({"model_type": model_type}))
        wanted.append([tokenizer(text, add_special_tokens=False)["input_ids"], len(tokenizer), "left"])
    script = (
        "import json, transformers\nassert transformers.__version__.startswith('4.57')\nfound = []\n"
        "for name in ('llama', 'qwen2'):\n"
        "    read = transformers.AutoTokenizer.from_pretrained(name)\n"
        f"    ids = read({text!r}, add_special_tokens=False)['input_ids']\n"
        "    found.append([ids, len(read), read.padding_side])\n"
        "print(json.dumps(found))"
    )
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([python, "-c", script], cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.strip().splitlines()[-1]) == wanted


def test_a_class_that_holds_exactly_is_kept(tmp_path):
    from transformers import Qwen2Tokenizer

    alphabet = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Qwen2Tokenizer(vocab=alphabet, merges=[], eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    save_tokenizer(tokenizer, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    assert type(load_tokenizer(tmp_path)) is Qwen2Tokenizer
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "Qwen2Tokenizer"


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"model": 3}', b"\xff\xfe", b'{"a":' * 5000])
def test_broken_files_are_refused_in_one_line(tmp_path, name, content):
    base = write_base(tmp_path / "base", numbers_by_three(), "llama")
    (base / name).write_bytes(content)
    with pytest.raises(UserError, match=f"^{base}.*(tokenizer|eos_token)") as caught:
        load_tokenizer(base)
    assert "\n" not in str(caught.value)
