"""The wheel of this tree, in an environment that holds what it asks for and nothing else, used outside the checkout."""

import importlib.metadata
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.serving.processes import running

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run(command, folder, **environment):
    """A command that ends, in a folder."""
    return subprocess.run(
        list(map(str, command)), cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, which is made of the source distribution: whoever publishes one publishes both."""
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
    return made / done.stdout.split()[-1]


def brought(distribution, extra):
    """{name: distribution} of all that pip installs beside a distribution with an extra, as the suite has it."""
    found, seen, waiting = {}, set(), [(distribution, extra)]
    while waiting:
        asking, extra = waiting.pop()
        for wanted in map(Requirement, asking.requires or []):
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                name = canonicalize_name(wanted.name)
                found[name] = importlib.metadata.distribution(name)
                new = {(name, each) for each in ("", *wanted.extras)} - seen
                seen |= new
                waiting += [(found[name], each) for _, each in new]
    return found


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A virtual environment as `pip install 'WHEEL[serve]'` makes it, without a network: files of the suite's own."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    packages = pathlib.Path(sysconfig.get_path("purelib", "venv", {"base": folder}))
    name, version = wheel.name.split("-")[:2]
    itself = importlib.metadata.PathDistribution(zipfile.Path(wheel, f"{name}-{version}.dist-info/"))
    for distribution in brought(itself, "serve").values():
        for file in distribution.files:
            if file.parts[0] != "..":  # scripts
                (packages / file).parent.mkdir(parents=True, exist_ok=True)
                (packages / file).symlink_to(file.locate())
    pip = [sys.executable, "-m", "pip", f"--python={folder / 'bin/python'}", "install", "--quiet", "--no-index"]
    done = run([*pip, f"{wheel}[serve]"], folder, PYTHONPATH="")  # refuses what does not fit together, or is not there
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def installed(environment):
    """The package in the environment."""
    (folder,) = environment.glob("lib/python*/site-packages/tsrec_jax")
    return folder


def test_it_brings_the_package_and_nothing_beside_it(wheel, environment):
    with zipfile.ZipFile(wheel) as file:
        named = {name.partition("/")[0] for name in file.namelist()}
    assert {name for name in named if not name.endswith(".dist-info")} == {"tsrec_jax"}
    programs = {path.name for path in (environment / "bin").iterdir()}
    assert {name for name in programs if not name.lower().startswith(("python", "activate"))} == {"tsrec"}


def test_it_brings_the_experiments_and_finds_them_by_name(environment, installed, tmp_path):
    files = {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.py")}
    for file in files:
        assert (installed / "configs" / file).read_bytes() == (ROOT / "configs" / file).read_bytes()
    code = (
        "import tsrec_jax; from tsrec_jax.command_flags import parse\n"
        "print(tsrec_jax.__file__); print(parse(['run', '--config=quickstart'])[0].config.run.stages)"
    )
    done = run([environment / "bin/python", "-c", code], tmp_path, PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    module, stages = done.stdout.splitlines()
    assert pathlib.Path(module).is_relative_to(installed)
    assert "'evaluate'" in stages
    done = run([environment / "bin/tsrec", "run", "--workdir=absent"], tmp_path, PYTHONPATH="")
    assert done.returncode == 2
    assert f"({', '.join(sorted(file.with_suffix('').as_posix() for file in files))})" in done.stderr  # what to give


def test_type_checkers_are_told_of_the_hints(installed):
    assert (installed / "py.typed").is_file()


def test_it_serves_a_run_with_its_page(environment, installed, quickstart_run):
    page = installed / "serving/page/index.html"
    page.write_text(page.read_text("utf-8") + "<!-- of the wheel -->", "utf-8")
    command = [environment / "bin/tsrec", "serve", f"--export={quickstart_run / 'export'}", "--port=0"]
    with running(command, python=environment / "bin/python", PYTHONPATH="") as server:
        status, text = server.request("GET", "/")
        assert status == 200 and text.endswith("<!-- of the wheel -->")
        server.wait_for("ready", 300)
        status, answer = server.request("POST", "/v1/recommend", {"history": ["S001"], "k": 3})
        assert status == 200 and len(answer["items"]) == 3
