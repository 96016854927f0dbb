"""What launch/tpu.sh would do: the printed commands, the runtime versions, and what it refuses."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = pathlib.Path(__file__).resolve().parent / "golden"
MACHINE = ("--name=demo", "--zone=us-west4-a", "--project=mine", "--type=v5litepod-16")
RUN = ("--workdir=gs://bucket/run", "--", "run", "--config=configs/quickstart.py", "--config.train.max_steps=10")
CASES = {
    "create": ("create", *MACHINE),
    "create_spot": ("create", *MACHINE, "--spot"),
    "create_queued": ("create", *MACHINE, "--queued"),
    "create_queued_spot": ("create", *MACHINE, "--queued", "--spot", "--create_flag=--network=my net"),
    "create_existing": ("create", *MACHINE, "--existing"),
    "create_other_version": ("create", "--name=demo", "--type=v9x-4", "--version=v2-new"),
    "install": ("install", *MACHINE, "--python=3.12", "--extras=tpu,gcs,wandb"),
    "run": ("run", *MACHINE, *RUN),
    "run_with_variables": ("run", *MACHINE, "--env=A=it's", "--env=B=two words", "--secret=WANDB_API_KEY", *RUN),
    "logs": ("logs", *MACHINE, "--worker=3"),
    "status": ("status", *MACHINE),
    "status_queued": ("status", *MACHINE, "--queued"),
    "babysit": ("babysit", *MACHINE, "--spot", *RUN),
    "babysit_queued": ("babysit", *MACHINE, "--spot", "--queued", *RUN),
    "babysit_existing": ("babysit", *MACHINE, "--existing", *RUN),
    "stop": ("stop", *MACHINE, "--grace=30"),
    "delete": ("delete", *MACHINE),
    "delete_queued": ("delete", *MACHINE, "--queued"),
}
SECRET = "not to be seen"


@pytest.mark.parametrize("case", CASES)
def test_a_dry_run_prints_the_commands_and_runs_none(case, cloud, checkout):
    verb, *arguments = CASES[case]
    result = cloud.call(verb, "--dry_run", *arguments, WANDB_API_KEY=SECRET)
    assert (result.returncode, result.stderr) == (0, "")
    shown = result.stdout.replace(str(cloud.folder / "tmp"), "TMPDIR").replace(str(checkout[0]), "CHECKOUT")
    shown = re.sub(r"(tpu_worker\.sh(?:\\)? start(?:\\)? )\d+", r"\1RUN", shown.replace(checkout[1], "COMMIT"))
    assert shown == (GOLDEN / f"{case}.txt").read_text()
    assert cloud.calls() == []
    assert not list((cloud.folder / "tmp").iterdir())
    assert SECRET not in result.stdout


@pytest.mark.parametrize(
    ("chip", "version"),
    [
        ("v5litepod-4", "v2-alpha-tpuv5-lite"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v6e-8", "v2-alpha-tpuv6e"),
        ("v4-8", "tpu-ubuntu2204-base"),
        ("v3-8", "tpu-ubuntu2204-base"),
    ],
)
def test_the_runtime_version_is_the_chips(chip, version, cloud):
    result = cloud.call("create", "--dry_run", "--name=demo", f"--type={chip}")
    assert f"--version={version} " in result.stdout.splitlines()[0]


def test_variables_give_the_defaults_and_options_win(cloud):
    variables = {"TPU_NAME": "other", "TPU_ZONE": "there", "TPU_TYPE": "v6e-8", "TPU_SPOT": "true"}
    first = cloud.call("create", "--dry_run", "--name=demo", **variables).stdout.splitlines()[0]
    assert first.split() == [
        *("gcloud", "compute", "tpus", "tpu-vm", "create", "demo", "--version=v2-alpha-tpuv6e"),
        *("--accelerator-type=v6e-8", "--spot", "--zone=there", "--quiet"),
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("creat",), ["creat"]),
        (("create", "--type=v6e-8"), ["--name"]),
        (("create", "--name=demo"), ["--type"]),
        (("create", "--name=demo", "--type=v5e-16"), ["--type=v5e-16", "v5litepod-N", "v6e-N", "--version"]),
        (("create", "--name=demo", "--nmae=demo"), ["--nmae=demo", "--help"]),
        (("run", "--name=demo", "--workdir=gs://b/r"), ["-- run --config"]),
        (("run", "--name=demo", "--workdir=runs/mine", "--", "run"), ["--workdir=gs://"]),
        (("run", "--name=demo", "--workdir=gs://b/r", "--env=A B", "--", "run"), ["--env=A B", "NAME=VALUE"]),
        (("run", "--name=demo", "--workdir=gs://b/r", "--secret=ABSENT", "--", "run"), ["ABSENT"]),
        (("install", "--name=demo", "--branch=absent"), ["--branch=absent"]),
        (("install", "--name=demo", "--commit=absent"), ["--commit"]),
        (("delete", "--name=demo", "--existing"), ["--existing"]),
    ],
)
def test_a_mistake_is_exit_code_2_and_a_line_with_the_way_out(arguments, words, cloud):
    result = cloud.call(*arguments)
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith("tpu.sh: ")
    for word in words:
        assert word in last
    assert cloud.calls() == []


def test_scripts_pass_shellcheck():
    beside = str(pathlib.Path(sys.executable).parent)  # where pip puts it
    program = shutil.which("shellcheck", path=os.pathsep.join([beside, os.environ["PATH"]]))
    if program is None:
        pytest.skip("needs shellcheck, which is not installed")
    scripts = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "launch").glob("*.sh"))
    result = subprocess.run(
        [program, "-x", "-P", ".", *scripts, ".ci/run"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (0, "")
