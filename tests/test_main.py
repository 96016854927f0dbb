"""The command line starts without the libraries that only its work needs."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
# NumPy is not among them: a task has its settings and what it makes of a dataset in one file.
HEAVY = {"jax", "flax", "orbax", "transformers", "tokenizers", "polars", "sklearn", "scipy", "matplotlib"}


def python(code, *arguments):
    """What a fresh process prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_line_imports_no_library_of_its_work():
    loaded = python("import sys, tsrec_jax.main; print(*sys.modules)").split()
    assert "tsrec_jax.settings" in loaded
    assert HEAVY.isdisjoint(loaded)


def test_an_experiment_is_read_and_checked_without_them_too():
    code = (
        "import sys; from tsrec_jax.main import main\n"
        "assert main(['recommend', '--config=configs/quickstart.py', '--workdir=no', '--history=1']) == 2\n"
        "from tsrec_jax.settings import default_config, settings_of\n"
        "settings_of(default_config()); print(*sys.modules)"
    )
    assert HEAVY.isdisjoint(python(code).split())
