"""The benchmark of the service's starts, with a program in the place of the server that says what one says."""

import sys

import pytest

from benchmarks import start

SERVER = """#!/bin/sh
for line in 'loading: an export' 'listening on http://127.0.0.1:1' 'ready: 3 items'; do echo "$line"; done
trap 'echo stopped; exit 0' TERM
programs="$JAX_COMPILATION_CACHE_DIR/programs"
[ -e "$programs" ] && echo warm >>"$0.log" || echo cold >>"$0.log"
touch "$programs"
echo 'compiled: all searches'
while :; do sleep 0.01; done
"""


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Makes the program."""

    def make(text):
        program = tmp_path / "server"
        program.write_text(text)
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))

    return make


def test_starts_are_timed_in_pairs_of_which_the_second_has_programs(server, tmp_path):
    server(SERVER)
    out = tmp_path / "report.md"
    start.main(["--export=somewhere", "--pairs=2", f"--out={out}"])
    assert (tmp_path / "server.log").read_text().split() == ["cold", "warm", "cold", "warm"]
    lines = [line.split() for line in out.read_text().splitlines()]
    assert sum(line.count("s") == 4 for line in lines) == 2  # a second is said of each mark of either start


def test_a_server_that_ends_by_itself_ends_the_benchmark(server, tmp_path):
    server("#!/bin/sh\necho 'ready: 3 items'\nexit 2\n")
    with pytest.raises(SystemExit, match="ended with 2"):
        start.main(["--export=somewhere", f"--out={tmp_path / 'report.md'}"])
    assert not (tmp_path / "report.md").exists()
