"""A stand-in for gcloud: one TPU machine of two hosts, each a home folder in which the commands of `ssh` really run.

The folder `FAKE_CLOUD` holds the world: `calls.jsonl` (the arguments of every call), `machine` (its state; no file:
there is none), `hosts/N` and `preempt` (the machine is taken away at the first look at a run that has left `saved`).
The environment of a host is not made: its Python is `program`, which the test writes.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

CLOUD = pathlib.Path(os.environ["FAKE_CLOUD"])
MACHINE = CLOUD / "machine"
HOSTS = [CLOUD / "hosts" / name for name in ("0", "1")]


def take_away(state: str) -> None:
    """Kills what runs on the hosts and empties them, as a preemption does."""
    for home in HOSTS:
        group = home / "tsrec" / "group"
        if group.exists():
            os.killpg(int(group.read_text()), signal.SIGKILL)
        shutil.rmtree(home)
    MACHINE.write_text(state)


def describe(group: str) -> int:
    if not MACHINE.exists():
        print("ERROR: NOT_FOUND: Resource was not found.", file=sys.stderr)
        return 1
    state = MACHINE.read_text()
    if group == "queued-resources":
        state = {"READY": "ACTIVE", "PREEMPTED": "SUSPENDED"}[state]
    print(state)
    return 0


def create() -> int:
    for home in HOSTS:
        home.mkdir(parents=True)
    MACHINE.write_text("READY")
    return 0


def chosen(options: dict[str, str]) -> list[pathlib.Path]:
    return HOSTS if options["--worker"] == "all" else [HOSTS[int(options["--worker"])]]


def ssh(options: dict[str, str]) -> int:
    command = options["--command"]
    if "tpu_worker.sh status" in command and (CLOUD / "preempt").exists() and (CLOUD / "saved").exists():
        (CLOUD / "preempt").unlink()
        take_away("PREEMPTED")
        return 255
    made = re.sub(r"bash \S+/tpu_worker.sh install \S+ \S+", f"echo {CLOUD}/program >tsrec/python", command)
    codes = [
        subprocess.run(["bash", "-c", made], cwd=home, env=os.environ | {"HOME": str(home)}, check=False).returncode
        for home in chosen(options)
    ]
    return max(codes)


def scp(paths: list[str], options: dict[str, str]) -> int:
    source, target = paths
    for home in chosen(options):
        shutil.copy(source, home / target.partition(":")[2])
    return 0


def main(arguments: list[str]) -> int:
    with (CLOUD / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(arguments) + "\n")
    group, verb = arguments[2:4]
    positional = [part for part in arguments[4:] if not part.startswith("--")]
    options = dict(part.split("=", 1) for part in arguments[4:] if part.startswith("--") and "=" in part)
    if verb == "delete":
        shutil.rmtree(CLOUD / "hosts")
        MACHINE.unlink()
        return 0
    if verb == "scp":
        return scp(positional, options)
    return {"describe": lambda: describe(group), "create": create, "ssh": lambda: ssh(options)}[verb]()


sys.exit(main(sys.argv[1:]))
