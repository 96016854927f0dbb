#!/usr/bin/env bash
# Installs the project into its own virtual environment, then checks lint and format and runs the tests.
set -euo pipefail

# shellcheck source=launch/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

usage() {
    cat <<'TEXT'
usage: bash launch/test.sh [options] [pytest arguments, such as tests/data or -k beam]

  --python=VERSION|PROGRAM  the Python to use, e.g. 3.12 (then the environment is .venv-3.12 instead of .venv)
  --peers                   install torch and k-means-constrained too, for the tests that compare with transformers'
                            models and with size-constrained k-means (they skip without)
  --help                    this text

Tests run on the CPU, with eight emulated devices, whatever the machine has.
TEXT
}

python="" peers=false
arguments=()
for argument in "$@"; do
    case "$argument" in
    --python=*) python="${argument#*=}" ;;
    --peers) peers=true ;;
    --help | -h) usage && exit 0 ;;
    *) arguments+=("$argument") ;;
    esac
done

prepare_environment "$python" "[test]"
if "$peers"; then
    venv="${VENV_PYTHON%/bin/python}"
    install "$venv" ".[peers]" --editable
    install "$venv" "ortools==9.15.6755" --no-deps
    install "$venv" "k-means-constrained==0.9.1" --no-deps
fi

started="$SECONDS"
"$VENV_PYTHON" -m ruff check .
"$VENV_PYTHON" -m ruff format --check .
# Two files of tests at a time; what a file shares among its tests is made once.
"$VENV_PYTHON" -m pytest -q --numprocesses=2 --dist=loadfile ${arguments[@]+"${arguments[@]}"}
printf 'test time: %s\n' "$(elapsed $((SECONDS - started)))"
