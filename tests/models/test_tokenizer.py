import json

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from tsrec_jax.errors import UserError
from tsrec_jax.models.tokenizer import load_tokenizer


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
