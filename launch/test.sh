#!/usr/bin/env bash
# Installs the project into its own virtual environment, then checks lint, format and types and runs the tests.
set -euo pipefail

# shellcheck source=launch/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

usage() {
    cat <<'TEXT'
usage: bash launch/test.sh [options] [pytest arguments, such as tests/data or -k beam]

  --python=VERSION|PROGRAM  the Python to use, e.g. 3.12 (then the environment is .venv-3.12 instead of .venv)
  --unit                    only the tests that compile nothing, in less than two minutes
  --system                  also whole runs, studies, services and benchmarks, as .ci/run does
  --peers                   install torch, k-means-constrained and, each in a folder of its own, transformers 4.57 and
                            Apache Beam, for the tests that need them (they skip without)
  --help                    this text

Tests run on the CPU, with eight emulated devices, whatever the machine has.
TEXT
}

# python_with FOLDER: makes FOLDER/python, which finds the packages in FOLDER before those of the environment.
python_with() {
    printf '#!/bin/sh\nPYTHONPATH="%s" exec "%s" "$@"\n' "$1" "$VENV_PYTHON" >"$1/python"
    chmod +x "$1/python"
}

# other_pythons VENV: installs what conflicts with VENV's own packages, and gives the tests a Python for each in a variable:
# transformers 4.57 in TSREC_TRANSFORMERS_4, and Beam, which pins older releases of protobuf and pyarrow, in TSREC_BEAM.
other_pythons() {
    local venv="$1" requirement
    for requirement in "transformers==4.57.6" "huggingface_hub==0.36.2" "tokenizers==0.22.2"; do
        install "$venv" "$requirement" --no-deps --target="$venv/transformers4"
    done
    python_with "$venv/transformers4"
    export TSREC_TRANSFORMERS_4="$venv/transformers4/python"
    install "$venv" "apache-beam==2.77.0" --target="$venv/beam"
    python_with "$venv/beam"
    export TSREC_BEAM="$venv/beam/python"
}

python="" peers=false tier="not system"
arguments=()
for argument in "$@"; do
    case "$argument" in
    --python=*) python="${argument#*=}" ;;
    --peers) peers=true ;;
    --unit) tier=unit ;;
    --system) tier="" ;;
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
    other_pythons "$venv"
fi

# Tests that are given as arguments run whatever their tier.
if [[ "$tier" == unit || (-n "$tier" && ${#arguments[@]} == 0) ]]; then arguments+=(-m "$tier"); fi
started="$SECONDS"
"$VENV_PYTHON" -m ruff check .
"$VENV_PYTHON" -m ruff format --check .
# Types are checked while the tests run, since the tests leave a core idle from time to time.
"$VENV_PYTHON" -m mypy &
types="$!" status=0
# Two test files at a time, in the order of tests/conftest.py; what the tests of a file share is made once.
"$VENV_PYTHON" -m pytest -q --numprocesses=2 --dist=loadfile --no-loadscope-reorder ${arguments[@]+"${arguments[@]}"} ||
    status="$?"
wait "$types" || { status=1 && printf 'test.sh: mypy found mistakes; see above\n' >&2; }
printf 'test time: %s\n' "$(elapsed $((SECONDS - started)))"
exit "$status"
