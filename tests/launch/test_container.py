"""The image and what runs it: a linter's word, and that they name flags, addresses, ports and files that there are."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from tsrec_jax.command_flags import parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PODS, *OTHERS = yaml.safe_load_all((ROOT / "launch" / "kubernetes.yaml").read_text())
POD = PODS["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["tsrec"]


def last(instruction):
    return re.findall(rf"^{instruction} (.+)$", DOCKERFILE, re.MULTILINE)[-1]


def test_hadolint_finds_nothing():
    linter = shutil.which("hadolint") or pathlib.Path(sys.executable).with_name("hadolint")
    if not pathlib.Path(linter).exists():
        pytest.skip("needs hadolint, which the extra `test` brings")
    checked = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60)
    assert (checked.returncode, checked.stdout) == (0, "")


@pytest.mark.parametrize("arguments", [json.loads(last("CMD")), CONTAINER["args"]], ids=["image", "kubernetes"])
def test_the_arguments_are_flags_of_serve_that_listen_where_the_port_leads(arguments):
    flags, (verb,) = parse(arguments)
    assert (verb, flags.host, flags.export) == ("serve", "0.0.0.0", "/export")
    assert pathlib.PurePath(flags.catalogue).parent == pathlib.PurePath(last("VOLUME"))
    assert flags.port == int(last("EXPOSE")) == CONTAINER["ports"][0]["containerPort"]
    assert COMPOSE["ports"] == [f"127.0.0.1:${{PORT:-8000}}:{flags.port}"]


def test_probes_ask_addresses_that_there_are():
    routes = (ROOT / "tsrec_jax" / "serving" / "watch_routes.py").read_text()
    paths = {CONTAINER[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
    asked = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", DOCKERFILE)
    assert asked[1] == last("EXPOSE")
    assert paths == {"/livez", "/readyz"} and asked[2] == "/readyz"
    assert all(f'"{path}"' in routes for path in paths)


def test_everywhere_it_is_a_user_without_rights_who_writes_in_the_same_places():
    user = int(last("USER").split(":")[0])
    assert user > 0 and POD["securityContext"]["runAsUser"] == user
    assert POD["securityContext"]["runAsNonRoot"] and CONTAINER["securityContext"]["readOnlyRootFilesystem"]
    assert COMPOSE["read_only"] and COMPOSE["cap_drop"] == CONTAINER["securityContext"]["capabilities"]["drop"] == [
        "ALL"
    ]
    written = {mount["mountPath"] for mount in CONTAINER["volumeMounts"] if not mount.get("readOnly")}
    assert written == {last("VOLUME"), "/tmp"} == {COMPOSE["volumes"][1].split(":")[1], *COMPOSE["tmpfs"]}


def test_what_stops_it_waits_until_the_last_accepted_request_is_answered():
    from tsrec_jax.serving import server

    flags, _ = parse(CONTAINER["args"])
    needed = server._DRAIN_SECONDS + server._FLUSH_SECONDS
    assert POD["terminationGracePeriodSeconds"] >= flags.drain_delay + needed
    assert int(COMPOSE["stop_grace_period"].removesuffix("s")) >= needed


def test_the_labels_of_one_pod_lead_to_it():
    labels = PODS["spec"]["template"]["metadata"]["labels"]
    service, budget = OTHERS
    assert PODS["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    assert budget["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["ports"][0]["targetPort"] == CONTAINER["ports"][0]["name"]


def test_the_build_sees_all_that_it_copies_and_nothing_else():
    copied = [
        name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()
    ]
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(copied) == sorted(kept) and all((ROOT / name).exists() for name in copied)
