"""Two real processes with a workdir at an address, each on what might be a host of its own."""

import json
import os
import pathlib
import socket
import subprocess
import sys

from flax import nnx

from tsrec_jax.data.dataset import read_dataset
from tsrec_jax.data.text_rows import item_texts
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.hf import save_hf
from tsrec_jax.models.small_lm import lm_config, train_tokenizer
from tsrec_jax.models.tokenizer import load_tokenizer
from tsrec_jax.shop.shop import make_shop

ROOT = pathlib.Path(__file__).resolve().parents[2]
SETTINGS = [
    f"--config={ROOT / 'configs' / 'quickstart.py'}",
    *("--config.shop.num_items=70", "--config.shop.num_users=40", "--config.index.sids=given"),
    *("--config.describe.words=make", "--config.train.max_steps=1", "--config.train.batch_tokens=1024"),
    *("--config.train.sequence_length=128", "--config.train.validations=1", "--config.train.valid_rows=8"),
    *("--config.train.valid_beam_rows=0", "--config.train.warmup_steps=0"),
]


def small_model(folder):
    """A random model of one layer with a tokenizer of the shop's texts."""
    train_tokenizer(item_texts(make_shop(42, num_items=70, num_users=40).catalogue.items), folder, vocab_size=400)
    facts = lm_config(load_tokenizer(folder), 128, 1) | {"hidden_size": 32, "intermediate_size": 64}
    save_hf(Decoder(ModelConfig.from_hf(facts), rngs=nnx.Rngs(0)), folder)


def test_what_the_first_process_makes_reaches_the_other_through_the_address(tmp_path):
    small_model(tmp_path / "model")
    address = tmp_path / "bucket" / "run"
    command = ["train", *SETTINGS, f"--config.model.path={tmp_path / 'model'}", f"--workdir=file://{address}"]
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        command += [f"--coordinator=127.0.0.1:{held.getsockname()[1]}", "--num_processes=2"]
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=4")
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tsrec_jax", *command, f"--process_id={number}"],
            cwd=ROOT,
            env=os.environ | {"XLA_FLAGS": flags, "TSREC_LOCAL": str(tmp_path / str(number))},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in (0, 1)
    ]
    try:
        printed = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(printed)
    second = next((tmp_path / "1" / "runs").glob("run-????????"))
    fetched = json.loads((second / "pushed.json").read_text())  # the second process pushes nothing
    assert {"describe/teacher.json", "dataset/shop.index.json"} <= fetched.keys()
    assert read_dataset(second / "dataset").token_descriptions == read_dataset(address / "dataset").token_descriptions
    assert "train" in json.loads((address / "stages.json").read_text())
    assert [path.name for path in (address / "checkpoints" / "latest").iterdir()] == ["1"]
