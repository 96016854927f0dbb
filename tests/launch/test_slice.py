"""launch/tpu.sh and launch/tpu_worker.sh at work on a fake slice of two hosts, where the remote commands really run."""

import json
import time

import pytest

MACHINE = ("--name=demo", "--type=v6e-8", "--poll=0.1")
WEIRD = ("a b", "it's", '"quoted"', "$HOME `date` \\", "two\nlines", "*", "")
FIRST_SAVES_THEN_ENDS = """
printf '%s\\0' "$@" >"$FAKE_CLOUD/arguments.$(basename "$HOME")"
printf '%s' "${COLOUR-} ${WANDB_API_KEY-}" >"$FAKE_CLOUD/variables"
if [[ -e "$FAKE_CLOUD/saved" ]]; then exit 0; fi
touch "$FAKE_CLOUD/saved"
exec sleep 100
"""


def wait_for(path):
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


@pytest.fixture
def slice_(cloud):
    """The cloud with the machine on it and a commit installed."""
    assert cloud.call("create", *MACHINE).returncode == 0
    assert cloud.call("install", *MACHINE).returncode == 0
    return cloud


def run(cloud, *options, arguments=("train",)):
    return cloud.call("run", *MACHINE, "--workdir=gs://b/r", *options, "--", *arguments)


def states(cloud):
    return [line.split()[3:] for line in cloud.call("status", *MACHINE).stdout.splitlines() if "tsrec-run" in line]


def test_a_preempted_run_is_resumed_on_a_new_machine_until_it_ends(cloud):
    cloud.program(FIRST_SAVES_THEN_ENDS)
    (cloud.folder / "preempt").touch()
    command = ("babysit", *MACHINE, "--spot", "--workdir=gs://b/r", "--", "run", "--config=my config.py")
    result = cloud.call(*command)
    assert result.returncode == 0, result.stderr
    begun = ["create", "scp", "install", "start"]
    assert cloud.verbs() == [*begun, "delete", *begun]
    given = (cloud.folder / "arguments.1").read_text().split("\0")
    assert given == ["-m", "tsrec_jax", "run", "--config=my config.py", "--workdir=gs://b/r", "--multi_host", ""]
    assert "PREEMPTED" in result.stderr
    assert cloud.call(*command).returncode == 0
    assert cloud.verbs() == [*begun, "delete", *begun], "what has finished is not started again"


def test_a_suspended_queued_resource_is_deleted_with_its_node_and_requested_anew(cloud):
    cloud.program("exit 0")
    cloud.call("create", *MACHINE, "--queued")
    (cloud.folder / "machine").write_text("PREEMPTED")
    result = cloud.call("babysit", *MACHINE, "--queued", "--spot", "--workdir=gs://b/r", "--", "run")
    assert result.returncode == 0, result.stderr
    assert cloud.verbs() == ["create", "delete", "create", "scp", "install", "start"]
    groups = {call[3]: call for call in cloud.calls() if call[2] == "queued-resources"}
    assert "--force" in groups["delete"]
    assert "--node-id=demo" in groups["create"]


def test_a_users_mistake_ends_babysitting_with_exit_code_2_and_the_log(cloud):
    cloud.program('echo "tsrec: no such key" >&2; exit 2')
    result = cloud.call("babysit", *MACHINE, "--workdir=gs://b/r", "--", "run")
    assert result.returncode == 2
    assert "tsrec: no such key" in result.stdout
    assert cloud.verbs().count("start") == 1


def test_a_run_that_crashes_is_started_again_a_limited_number_of_times(cloud):
    cloud.program('echo x >>"$FAKE_CLOUD/starts"; exit 1')
    result = cloud.call("babysit", *MACHINE, "--restarts=2", "--workdir=gs://b/r", "--", "run")
    assert result.returncode == 1
    assert cloud.verbs().count("start") == 3
    assert cloud.verbs().count("create") == 1


def test_a_run_that_ended_on_one_host_is_ended_on_the_other_and_started_again(cloud):
    cloud.program(
        'if [[ -e "$FAKE_CLOUD/again" ]]; then exit 0; fi\n'
        'if [[ "$(basename "$HOME")" == 1 ]]; then exit 1; fi\n'
        'trap "touch $FAKE_CLOUD/again; exit 0" TERM; while true; do sleep 0.05; done'
    )
    result = cloud.call("babysit", *MACHINE, "--workdir=gs://b/r", "--", "run")
    assert result.returncode == 0, result.stderr
    assert cloud.verbs() == ["create", "scp", "install", "start", "stop", "start"]


def test_a_gcloud_that_fails_is_not_taken_for_a_machine_that_is_gone(cloud):
    cloud.program("exit 0")
    cloud.call("create", *MACHINE)
    gcloud = cloud.folder / "bin" / "gcloud"
    kept = gcloud.read_text()
    gcloud.write_text(
        f'#!/bin/bash\nif [[ ! -e "$FAKE_CLOUD/failed" ]]; then touch "$FAKE_CLOUD/failed"; '
        f"echo 'ERROR: no network' >&2; exit 1; fi\n{kept}"
    )
    result = cloud.call("babysit", *MACHINE, "--workdir=gs://b/r", "--", "run")
    assert result.returncode == 0, result.stderr
    assert "ERROR: no network" in result.stderr
    assert cloud.verbs() == ["create", "scp", "install", "start"]


def test_a_machine_that_was_there_before_is_never_created_or_deleted(slice_):
    (slice_.folder / "machine").write_text("PREEMPTED")
    result = slice_.call("babysit", *MACHINE, "--existing", "--workdir=gs://b/r", "--", "run")
    assert result.returncode == 2
    assert "PREEMPTED" in result.stderr
    assert slice_.verbs() == ["create", "scp", "install"]


def test_the_hosts_meet_at_the_port_that_the_firewall_lets_through_unless_another_is_given(slice_):
    slice_.program('printf "%s" "$JAX_COORDINATOR_PORT" >"$FAKE_CLOUD/port.$(basename "$HOME")"')
    for given, port in (((), "8476"), (("--env=JAX_COORDINATOR_PORT=9000",), "9000")):
        assert run(slice_, *given).returncode == 0
        for host in ("0", "1"):
            wait_for(slice_.folder / "hosts" / host / "tsrec" / "ended")
            assert (slice_.folder / f"port.{host}").read_text() == port


@pytest.mark.parametrize("printed", [False, True], ids=["run", "dry run given to bash"])
def test_arguments_and_variables_reach_the_run_as_they_were_given(printed, slice_):
    slice_.program(FIRST_SAVES_THEN_ENDS)
    (slice_.folder / "saved").touch()
    options = (*MACHINE, "--workdir=gs://b/r r", "--env=COLOUR=it's red")
    if printed:
        script = slice_.call("run", "--dry_run", *options, "--", "train", *WEIRD).stdout
        assert slice_.shell(["bash", "-c", script]).returncode == 0
    else:
        assert slice_.call("run", *options, "--", "train", *WEIRD).returncode == 0
    for host in ("0", "1"):
        wait_for(slice_.folder / "hosts" / host / "tsrec" / "ended")
        given = (slice_.folder / f"arguments.{host}").read_text().split("\0")
        assert given == ["-m", "tsrec_jax", "train", *WEIRD, "--workdir=gs://b/r r", "--multi_host", ""]
    assert (slice_.folder / "variables").read_text() == "it's red "


def test_a_secret_reaches_the_run_and_no_command_line(slice_):
    slice_.program(FIRST_SAVES_THEN_ENDS)
    (slice_.folder / "saved").touch()
    options = (*MACHINE, "--workdir=gs://b/r", "--secret=WANDB_API_KEY")
    result = slice_.call("run", *options, "--", "train", WANDB_API_KEY="a b'c")
    assert result.returncode == 0, result.stderr
    wait_for(slice_.folder / "hosts" / "1" / "tsrec" / "ended")
    assert (slice_.folder / "variables").read_text() == " a b'c"
    assert "b'c" not in json.dumps(slice_.calls()) + result.stdout + result.stderr
    assert (slice_.folder / "hosts" / "0" / "tsrec" / "secrets").stat().st_mode & 0o077 == 0
    assert not list((slice_.folder / "tmp").iterdir()), "nothing is left on the user's machine"


def test_stop_lets_the_run_save_and_kills_one_that_does_not_end(slice_):
    slice_.program(
        'trap "touch $HOME/saved; exit 0" TERM\n'
        '[[ "$(basename "$HOME")" == 0 ]] || trap "" TERM\n'
        'touch "$HOME/ready"; while true; do sleep 0.05; done'
    )
    assert run(slice_).returncode == 0
    for host in ("0", "1"):
        wait_for(slice_.folder / "hosts" / host / "ready")
    assert states(slice_) == [["running"], ["running"]]
    assert run(slice_).returncode == 2, "a second run on the same hosts is refused"
    assert slice_.call("stop", *MACHINE, "--grace=5").returncode == 0  # a busy machine is slow to end
    assert states(slice_) == [["stopped", "0"], ["lost"]]
    assert (slice_.folder / "hosts" / "0" / "saved").exists()


def test_a_run_that_ends_in_a_shutdown_of_the_system_has_not_finished(slice_):
    """A preemption sends SIGTERM to every process: the run saves and exits with 0, which is not its end."""
    slice_.program('trap "exit 0" TERM; touch "$HOME/ready"; while true; do sleep 0.05; done')
    assert run(slice_).returncode == 0
    for host in ("0", "1"):
        home = slice_.folder / "hosts" / host
        wait_for(home / "ready")
        group = (home / "tsrec" / "group").read_text().strip()
        assert slice_.shell(["bash", "-c", f"kill -TERM -- -{group}"]).returncode == 0
    deadline = time.monotonic() + 30
    while states(slice_) != [["lost"], ["lost"]]:
        assert time.monotonic() < deadline
