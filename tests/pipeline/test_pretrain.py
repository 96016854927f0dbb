"""The stage `pretrain`: a language model of the size, the passes and the held-out items that the settings ask for."""

import json
import pathlib

import numpy as np
import pytest

from tsrec_jax.data.text_folder import read_texts
from tsrec_jax.data.text_rows import text_rows
from tsrec_jax.main import main
from tsrec_jax.models.hf import load_hf, read_config
from tsrec_jax.models.tokenizer import load_tokenizer
from tsrec_jax.pipeline import pretrain as pretraining
from tsrec_jax.pipeline.pretrain import FACTS, base_words
from tsrec_jax.settings import default_config, settings_of

LENGTH, SHARE = 16, 0.1
COMMAND = [
    "pretrain",
    "--config=quickstart",
    "--config.shop.num_items=70",
    "--config.shop.num_users=20",
    "--config.pretrain.vocab_size=300",
    "--config.pretrain.hidden_size=64",
    "--config.pretrain.num_layers=1",
    "--config.pretrain.max_steps=0",
    "--config.pretrain.epochs=1.5",
    "--config.pretrain.validations=3",
    "--config.pretrain.batch_tokens=4096",
    f"--config.pretrain.sequence_length={LENGTH}",
    f"--config.pretrain.held_out={SHARE}",
]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("pretrain")
    assert main([*COMMAND, f"--workdir={workdir}"]) == 0
    return workdir


def test_the_model_has_the_size_that_was_asked_for(workdir):
    shape = read_config(workdir / "pretrained")
    assert (shape.d_model, shape.num_layers, shape.num_heads) == (64, 1, 2)
    table_VD = load_hf(workdir / "pretrained").embedding[...]
    assert table_VD.shape == (len(load_tokenizer(workdir / "pretrained")), 64)


def test_the_facts_are_those_of_the_texts_and_the_valid_loss_that_of_the_written_model(workdir):
    folder = workdir / "pretrained"
    facts, tokenizer = json.loads((folder / FACTS).read_text()), load_tokenizer(folder)
    texts = read_texts(workdir / "shop")
    rows = text_rows(texts.items, tokenizer, LENGTH, SHARE)
    assert (facts["texts"], facts["tokens"]) == (70 * 5, rows.tokens)
    learned = sum(len(row.tokens) for row in rows.learned)
    assert learned * 1.5 / 4096 <= facts["steps"] < 1.3 * learned * 1.5 / 4096, "packed rows are nearly full"
    tokens_BT = np.zeros((len(rows.validated), LENGTH), np.int32)
    for row, example in enumerate(rows.validated):
        tokens_BT[row, : len(example.tokens)] = example.tokens
    logits_BTV = np.asarray(load_hf(folder)(tokens_BT), np.float64)  # causal: what follows a text changes nothing
    chosen_BT = np.take_along_axis(logits_BTV[:, :-1], tokens_BT[:, 1:, None], axis=2)[..., 0]
    nll_BT = np.log(np.exp(logits_BTV[:, :-1]).sum(axis=2)) - chosen_BT
    lengths_B = np.array([len(example.tokens) for example in rows.validated])
    target_BT = np.arange(1, LENGTH) < lengths_B[:, None]
    assert facts["valid loss"] == pytest.approx(nll_BT[target_BT].mean(), abs=1e-4)
    said = base_words(str(folder))
    assert f"{facts['parameters']:,} parameters" in said and f"valid loss {facts['valid loss']:.4f}" in said
    assert base_words("Qwen/Qwen2.5-1.5B") == "Qwen/Qwen2.5-1.5B"


def test_parameters_are_those_that_are_written(workdir):
    from safetensors.numpy import load_file

    written = load_file(pathlib.Path(workdir / "pretrained" / "model.safetensors"))
    facts = json.loads((workdir / "pretrained" / FACTS).read_text())
    assert facts["parameters"] == sum(array.size for array in written.values())


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("hidden_size=100", "config.pretrain.hidden_size=100 is not a multiple of 64; try 128"),
        ("epochs=0.0", "config.pretrain.max_steps and config.pretrain.epochs are both 0"),
        ("held_out=0.2", "held_out was 0.1 and is now 0.2"),
    ],
)
def test_what_cannot_be_and_what_was_not_made_are_refused(workdir, capsys, setting, words):
    assert main([*COMMAND, f"--workdir={workdir}", f"--config.pretrain.{setting}"]) == 2
    assert words in capsys.readouterr().err


def test_a_tokenizer_of_which_half_was_written_or_of_other_settings_is_trained_anew(workdir, tmp_path, monkeypatch):
    class Stopped(Exception):
        pass

    def half(sentences, folder, **_):
        (folder / "spiece.model").write_bytes(b"half")
        raise Stopped

    def opened(items, tokenizer, *_):
        sizes.append(len(tokenizer))
        raise Stopped

    def pretrain(size, **patches):
        settings = settings_of(default_config()).changed({"pretrain": {"vocab_size": size}})
        with monkeypatch.context() as patch, pytest.raises(Stopped):
            for name, function in patches.items():
                patch.setattr(pretraining, name, function)
            pretraining.pretrain(settings, tmp_path, read_texts(workdir / "shop"))

    sizes: list[int] = []
    pretrain(300, train_tokenizer=half)
    for size in (300, 300, 320):
        pretrain(size, text_rows=opened)
    assert sizes == [300, 300, 320]
