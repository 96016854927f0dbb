"""Two real processes with four emulated devices each are one run, whose numbers are those of one process with eight."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from tests.teacher.server import SECRET, Server
from tsrec_jax.data.text_rows import item_texts
from tsrec_jax.main import main
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.hf import save_hf
from tsrec_jax.models.small_lm import lm_config, train_tokenizer
from tsrec_jax.models.tokenizer import load_tokenizer
from tsrec_jax.shop.shop import make_shop
from tsrec_jax.training.metrics_log import read_metrics

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS = 8
HEARTBEAT = 5  # seconds
CONFIG = """
from tsrec_jax.settings import paper_config

def get_config():
    config = paper_config()
    config.model.path = {model!r}
    config.shop.num_items = 70
    config.shop.num_users = 40
    config.train.max_steps = 8
    config.train.batch_tokens = 1024
    config.train.sequence_length = 128
    config.train.learning_rate = 1e-3
    config.train.warmup_steps = 2
    config.train.validations = 2
    config.train.valid_rows = 16
    config.train.valid_beam_rows = 0
    config.train.checkpoint_every = 2
    config.train.log_every = 1
    config.eval.beams = 10
    config.eval.max_rows = 16
    config.eval.batch_size = 16
    config.eval.bootstrap = 10
    return config
"""
# A process that falls silent, as a host without power does: nothing of it closes a connection.
SILENT = """
import os, signal, sys
from tsrec_jax import main
from tsrec_jax.training import loop

put, calls = loop.put_batch, []

def silent_at_the_sixth(batch, mesh, axis=1):
    calls.extend([axis] if axis == 1 else [])  # 0 in validation
    if len(calls) == 6:
        os.kill(os.getpid(), signal.SIGSTOP)
    return put(batch, mesh, axis)

loop.put_batch = silent_at_the_sixth
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The flag of a small experiment: the embedded shop with its own SIDs, and a random model of one layer."""
    folder = tmp_path_factory.mktemp("given")
    train_tokenizer(
        item_texts(make_shop(0, num_items=70, num_users=40).catalogue.items), folder / "model", vocab_size=400
    )
    facts = lm_config(load_tokenizer(folder / "model"), 128, 4)
    facts |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    save_hf(Decoder(ModelConfig.from_hf(facts), rngs=nnx.Rngs(0)), folder / "model")
    (folder / "tiny.py").write_text(CONFIG.format(model=str(folder / "model")))
    return f"--config={folder / 'tiny.py'}"


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The finished run of one process."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert main(["run", config, "--config.mesh.tensor=2", "--config.mesh.fsdp=2", f"--workdir={folder}"]) == 0
    return folder


def environment(devices):
    """That of the tests with another number of emulated devices."""
    return os.environ | {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")}


def start(process, port, program, *arguments):
    """One of two processes."""
    flags = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2", f"--process_id={process}"]
    return subprocess.Popen(
        [sys.executable, *program, *arguments, *flags, f"--heartbeat_seconds={HEARTBEAT}"],
        cwd=ROOT,
        env=environment(devices=4),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_both(program, *arguments):
    """Output and errors of each of two processes, both of which end well."""
    port = free_port()
    both = [start(process, port, program, *arguments) for process in range(2)]
    try:
        printed = [process.communicate(timeout=400) for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], printed
    return printed


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def curve(folder):
    """Loss and validation loss by step."""
    rows = read_metrics(folder)
    return {(row["step"], name): row[name] for row in rows for name in ("loss", "valid/loss") if name in row}


def tokens_seen(folder):
    """What each step's batch held, exactly: its loss tokens of each task."""
    rows = [row for row in read_metrics(folder) if "loss" in row]
    return [{name: value for name, value in row.items() if name.startswith("loss_tokens/")} for row in rows]


def assert_same_run(folder, whole):
    found, wanted = curve(folder), curve(whole)
    assert found.keys() == wanted.keys()
    assert len([step for step, name in found if name == "loss"]) == STEPS
    np.testing.assert_allclose(list(found.values()), list(wanted.values()), atol=1e-5)
    assert tokens_seen(folder) == tokens_seen(whole)


def test_a_silent_process_ends_the_other_with_a_word_and_one_process_goes_on_from_their_checkpoint(
    config, whole, tmp_path, capsys
):
    arguments = ["train", config, "--config.mesh.tensor=2", "--config.mesh.fsdp=2", f"--workdir={tmp_path / 'cut'}"]
    port = free_port()
    survivor = start(0, port, ("-m", "tsrec_jax"), *arguments)
    silent = start(1, port, ("-c", SILENT), *arguments)
    try:
        out, err = survivor.communicate(timeout=400)
    finally:
        survivor.kill()
        silent.kill()
    silent_out, _ = silent.communicate()
    assert survivor.returncode not in (0, None)
    assert f"was silent for {HEARTBEAT} s" in err
    assert "process 0 of 2 was ended before its work was done" in err
    assert "Give the same command on all hosts again: training goes on from its newest checkpoint" in err
    assert "train step 4/8" in out
    assert "train step" not in silent_out, "one process prints for both"

    capsys.readouterr()
    assert main(arguments) == 0
    # The state of step 4 may have been cut off while it was written.
    assert re.search("resuming after step [24] of 8", capsys.readouterr().out)
    assert_same_run(tmp_path / "cut", whole)


def test_two_processes_go_on_from_the_checkpoint_of_one_and_evaluate_and_export_alike(config, whole, tmp_path):
    folder = tmp_path / "resumed"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "checkpoints" / "latest" / "8")
    for made in ("stages.json", "predictions.json"):
        (folder / made).unlink()
    shutil.rmtree(folder / "export")
    arguments = ("run", config, "--config.mesh.fsdp=4", "--config.mesh.tensor=2", f"--workdir={folder}")
    printed = run_both(("-m", "tsrec_jax"), *arguments)
    assert "resuming after step 6 of 8" in printed[0][0]
    assert_same_run(folder, whole)
    found, wanted = (json.loads((each / "predictions.json").read_text()) for each in (folder, whole))
    assert [row["output"] for row in found] == [row["output"] for row in wanted]
    same = [ours["predict"] == theirs["predict"] for ours, theirs in zip(found, wanted, strict=True)]
    assert np.mean(same) > 0.9, "lists differ by more than ties"
    found, wanted = (load_file(each / "export" / "model.safetensors") for each in (folder, whole))
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, wanted[name], atol=1e-4, err_msg=name)


def test_two_processes_take_the_second_stage_as_one_does(config, whole, tmp_path):
    """From an export that is taken as it is, with the same prompts, candidates and updates."""
    settings = {
        **{"dataset.path": whole / "shop", "model.path": whole / "export", "model.trained": True, "mesh.fsdp": 4},
        **{"objective": "constrained", "train.valid_beam_rows": 8, "rl.steps": 2, "rl.prompts": 16, "rl.group": 4},
        **{"rl.teacher": "popularity", "rl.kl": 0.1, "rl.warmup_steps": 0, "rl.learning_rate": 1e-3},
    }
    command = ["rl", config, *(f"--config.{key}={value}" for key, value in settings.items())]
    assert main([*command, f"--workdir={tmp_path / 'one'}"]) == 0
    run_both(("-m", "tsrec_jax"), *command, f"--workdir={tmp_path / 'two'}")
    found, wanted = (read_metrics(tmp_path / each / "rl") for each in ("two", "one"))
    names = ("loss", "loss/objective", "loss/nll", "loss/kl", "rl/reward", "rl/expected_reward", "grad_norm")
    compared = [[row[name] for row in rows if "loss" in row for name in names] for rows in (found, wanted)]
    assert len(compared[0]) == 2 * len(names)
    np.testing.assert_allclose(*compared, rtol=1e-4, atol=1e-6)


GROUPED = """
import sys
from tsrec_jax import main
from tsrec_jax.sid import fit_levels, index, kmeans

for module in (fit_levels, index, kmeans):
    module.GROUP = 16  # rows, so that 70 items are many
sys.exit(main.main(sys.argv[1:]))
"""


def test_two_processes_make_the_sids_and_words_of_one_and_ask_the_teacher_what_one_asks(config, tmp_path, monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    command = [
        *("describe", config, "--config.index.sids=make", "--config.describe.words=make"),
        *("--config.index.sizes=(8,16)", "--config.index.iterations=3", "--config.index.whiten=6"),
        *("--config.describe.backend=openai", "--config.describe.model=any"),
    ]
    with contextlib.closing(Server()) as server:
        command.append(f"--config.describe.base_url={server.url}")
        alone = [sys.executable, "-c", GROUPED, *command, f"--workdir={tmp_path / 'one'}"]
        subprocess.run(alone, cwd=ROOT, env=environment(devices=8), check=True, capture_output=True, timeout=400)
        questions, server.requests = sorted(request.prompt for request in server.requests), []
        printed = run_both(("-c", GROUPED), *command, f"--workdir={tmp_path / 'two'}")
        assert len(questions) > 8 and sorted(request.prompt for request in server.requests) == questions
    assert "2 of 2 levels are kept" in printed[0][0]  # all have fitted them, and the first one goes on with them
    for name in ("shop.index.json", "shop.description_keywords.json"):
        assert (tmp_path / "two" / "dataset" / name).read_text() == (tmp_path / "one" / "dataset" / name).read_text()


DYING = """
import os, signal, sys
from tsrec_jax import main
from tsrec_jax.processes import Group, Launch, first, share

group = Group(Launch(coordinator=sys.argv[1], num_processes=2, process_id=int(sys.argv[2]), heartbeat_seconds=60))
share("ready")
if not first():
    os.kill(os.getpid(), signal.SIGKILL)
group.leave(main._exit_code(lambda: share("never")))
"""


def test_a_killed_process_ends_the_other_at_once():
    port = free_port()
    both = [
        subprocess.Popen(
            [sys.executable, "-c", DYING, f"127.0.0.1:{port}", str(process)],
            cwd=ROOT,
            env=environment(devices=1),
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    try:
        _, err = both[0].communicate(timeout=50)  # less than the heartbeat: the closed connection tells
        _, killed_err = both[1].communicate(timeout=50)
    finally:
        for process in both:
            process.kill()
    assert both[0].returncode == 1
    assert both[1].returncode == -signal.SIGKILL
    assert "tsrec: process 0 of 2: work that the processes share has failed" in err, err
    assert "tsrec: process 1 of 2 was ended before its work was done" in killed_err


# A TPU machine as JAX recognises one, but for the chip.
TPU_HOST = """
import sys
import jax
from jax._src.clusters import cloud_tpu_cluster
from tsrec_jax import main
from tsrec_jax.processes import Group, Launch, first, gather, several

cloud_tpu_cluster.running_in_cloud_tpu_vm = True

def start():
    group = Group(Launch(multi_host=True)) if "--multi_host" in sys.argv else None
    print(gather("alone"), first(), several(), jax.device_count())
    if group is not None:
        group.leave(0)

sys.exit(main._exit_code(start))
"""


def tpu_host(*arguments, **variables):
    said = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}
    port = {"JAX_COORDINATOR_PORT": str(free_port())}
    found = environment(devices=1) | said | port | variables
    command = [sys.executable, "-c", TPU_HOST, *arguments]
    return subprocess.run(command, cwd=ROOT, env=found, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("arguments", [(), ("--multi_host",)])
def test_a_single_tpu_host_starts_with_and_without_multi_host(arguments):
    one_slice = {"MEGASCALE_COORDINATOR_ADDRESS": "localhost", "MEGASCALE_NUM_SLICES": "1", "MEGASCALE_SLICE_ID": "0"}
    done = tpu_host(*arguments, **one_slice)
    assert (done.returncode, done.stdout) == (0, "['alone'] True False 1\n"), done.stderr


def test_a_tpu_host_whose_metadata_server_does_not_answer_is_refused_in_one_line():
    done = tpu_host("--multi_host", GCE_METADATA_IP="127.0.0.1:1")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "--multi_host" in line and "or leave it out where this process is the only one" in line
