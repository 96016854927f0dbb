"""The verb `recommend`, and by it what every command that computes does as a process of its own."""

import os
import pathlib
import re
import subprocess
import sys
import zlib

import pytest

from tsrec_jax.main import main
from tsrec_jax.serving.recommender import Recommender

ROOT = pathlib.Path(__file__).resolve().parents[2]


def recommend(workdir, caches):
    """A run in a process of its own: what it prints, and the keys of the programs it compiled and of those it found."""
    unset = ("JAX_COMPILATION_CACHE_DIR", "TRANSFORMERS_NO_ADVISORY_WARNINGS")
    told = {
        "XDG_CACHE_HOME": str(caches),
        "JAX_DEBUG_LOG_MODULES": "jax._src.compiler",  # the one that says hit or miss,
        "JAX_LOGGING_LEVEL": "WARNING",  # which JAX leaves out where its logger has no level
    }
    done = subprocess.run(
        [sys.executable, "-m", "tsrec_jax", "recommend", f"--workdir={workdir}", "--history=B001", "--k=3"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in unset} | told,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "PyTorch" not in done.stderr
    assert "Error reading" not in done.stderr
    compiled = re.findall(r"CACHE MISS for '.*' with key '(.*)'", done.stderr)
    found = re.findall(r"cache hit for '.*' with key '(.*)'", done.stderr)
    return done.stdout, set(compiled), set(found)


def test_a_second_process_finds_the_programs_of_the_first_and_makes_broken_ones_again(exported, tmp_path):
    printed, compiled, found = recommend(exported.parent, tmp_path)
    folder = tmp_path / "tsrec_jax" / "compiled"
    names = sorted(compiled)
    assert len(names) > 2 and not found
    assert {path.name for path in folder.glob("*-cache")} == {f"{name}-cache" for name in names}
    (folder / f"{names[0]}-cache").write_bytes(b"")  # what kill -9 leaves, or a full disk
    (folder / f"{names[1]}-cache").write_bytes(os.urandom(1000))
    again = recommend(exported.parent, tmp_path)
    assert again == (printed, set(names[:2]), set(names[2:]))
    for name in names:
        zlib.decompress((folder / f"{name}-cache").read_bytes())


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """The histories that the recommender is asked for."""
    histories = []

    class Asked:
        def recommend(self, batch, k):
            histories.extend(batch)
            return [[]]

    (tmp_path / "export").mkdir()
    monkeypatch.setattr(Recommender, "load", lambda folder, **_: Asked())
    return histories


def test_ids_with_commas_and_outer_blanks_are_named_one_by_one(asked, tmp_path):
    ids = ["a,b", " lead", "trail ", "x" * 300]
    assert main(["recommend", f"--workdir={tmp_path}", *(f"--item={item}" for item in ids)]) == 0
    assert main(["recommend", f"--workdir={tmp_path}", "--history= 1 ,0108775015"]) == 0
    assert asked == [ids, ["1", "0108775015"]]


def test_a_history_is_named_in_one_way(asked, tmp_path, capsys):
    assert main(["recommend", f"--workdir={tmp_path}", "--history=1", "--item=2"]) == 2
    assert "not both" in capsys.readouterr().err
    assert main(["recommend", f"--workdir={tmp_path}"]) == 2
    assert "--item=ID" in capsys.readouterr().err
    assert asked == []
