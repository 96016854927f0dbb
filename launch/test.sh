#!/usr/bin/env bash
# Installs the project into its own virtual environment, then checks lint and format and runs the tests.
set -euo pipefail

# shellcheck source=launch/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

usage() {
    cat <<'TEXT'
usage: bash launch/test.sh [options] [pytest arguments, such as tests/data or -k beam]

  --python=VERSION|PROGRAM  the Python to use, e.g. 3.12 (then the environment is .venv-3.12 instead of .venv)
  --torch                   install torch too, for the parity tests against transformers (they skip without it)
  --help                    this text
TEXT
}

python="" extras="[test]"
arguments=()
for argument in "$@"; do
    case "$argument" in
    --python=*) python="${argument#*=}" ;;
    --torch) extras="[test,torch]" ;;
    --help | -h) usage && exit 0 ;;
    *) arguments+=("$argument") ;;
    esac
done

prepare_environment "$python" "$extras"

started="$SECONDS"
"$VENV_PYTHON" -m ruff check .
"$VENV_PYTHON" -m ruff format --check .
"$VENV_PYTHON" -m pytest -q ${arguments[@]+"${arguments[@]}"}
printf 'test time: %s\n' "$(elapsed $((SECONDS - started)))"
