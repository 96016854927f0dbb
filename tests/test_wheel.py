"""The wheel of this tree: installed into a folder of its own, without a network, and used from outside the checkout."""

import importlib.metadata
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.serving.processes import running

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run(command, folder, **environment):
    """A command that ends, in a folder."""
    return subprocess.run(
        list(map(str, command)), cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Where pip has put the wheel, which is made of the source distribution: whoever publishes one publishes both."""
    backend = importlib.util.find_spec("setuptools") and importlib.metadata.version("setuptools")
    if not backend or int(backend.partition(".")[0]) < 77:
        pytest.skip("needs setuptools 77 or newer, which builds the wheel; it is not installed here")
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("made")
    for name in ("setup.cfg", "pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("tsrec_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=unwanted)
    backend = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
    done = run([sys.executable, "-c", backend, "build_sdist", made], source)
    assert done.returncode == 0, done.stderr
    archive = made / done.stdout.split()[-1]
    shutil.unpack_archive(archive, made, filter="data")
    done = run([sys.executable, "-c", backend, "build_wheel", made], made / archive.name.removesuffix(".tar.gz"))
    assert done.returncode == 0, done.stderr
    pip = ["pip", "install", "--quiet", "--no-deps", "--no-index", "--target", made / "installed"]
    done = run([sys.executable, "-m", *pip, made / done.stdout.split()[-1]], made)
    assert done.returncode == 0, done.stderr
    return made / "installed"


def test_it_brings_the_package_and_nothing_beside_it(installed):
    named = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert named == {"tsrec_jax", "bin"}
    assert [path.name for path in (installed / "bin").iterdir()] == ["tsrec"]


def test_it_brings_the_experiments_and_finds_them_by_name(installed, tmp_path):
    files = {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.py")}
    for file in files:
        assert (installed / "tsrec_jax/configs" / file).read_bytes() == (ROOT / "configs" / file).read_bytes()
    code = (
        "import tsrec_jax; from tsrec_jax.command_flags import parse\n"
        "print(tsrec_jax.__file__); print(parse(['run', '--config=quickstart'])[0].config.run.stages)"
    )
    done = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(installed))
    assert done.returncode == 0, done.stderr
    module, stages = done.stdout.splitlines()
    assert pathlib.Path(module).is_relative_to(installed)
    assert "'evaluate'" in stages
    done = run([installed / "bin/tsrec", "run", "--workdir=absent"], tmp_path, PYTHONPATH=str(installed))
    assert done.returncode == 2
    assert f"({', '.join(sorted(file.with_suffix('').as_posix() for file in files))})" in done.stderr  # what to give


def test_type_checkers_are_told_of_the_hints(installed):
    assert (installed / "tsrec_jax/py.typed").is_file()


def test_it_serves_a_run_with_its_page(installed, quickstart_run):
    page = installed / "tsrec_jax/serving/page/index.html"
    page.write_text(page.read_text("utf-8") + "<!-- of the wheel -->", "utf-8")
    command = [installed / "bin/tsrec", "serve", f"--export={quickstart_run / 'export'}", "--port=0"]
    with running(command, PYTHONPATH=str(installed)) as server:
        status, text = server.request("GET", "/")
        assert status == 200 and text.endswith("<!-- of the wheel -->")
        server.wait_for("ready", 300)
        status, answer = server.request("POST", "/v1/recommend", {"history": ["S001"], "k": 3})
        assert status == 200 and len(answer["items"]) == 3
