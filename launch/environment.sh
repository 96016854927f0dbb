# shellcheck shell=bash
# Sourced by local.sh and test.sh: finds a Python, makes the virtual environment and installs the package into it.
# Everything happens in the folder of the checkout; the venv is reused for as long as the requirements are unchanged.

ROOT="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
VENV_PYTHON="" # set by prepare_environment
DEVICE=""      # set by choose_device
# The oldest drivers that CUDA 12 and 13 run on, according to JAX's installation page.
CUDA12_DRIVER=525 CUDA13_DRIVER=580

fail() {
    printf '%s: %s\n' "$(basename -- "$0")" "$*" >&2
    exit 2
}

elapsed() { # seconds -> "1 min 05 s"
    printf '%d min %02d s' "$(($1 / 60))" "$(($1 % 60))"
}

python_version() { # program -> "3.11", nothing if it does not run or is older than 3.11
    "$1" -c 'import sys; sys.version_info >= (3, 11) or sys.exit(1); print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

# find_python WANTED: prints a program. WANTED is a version (3.12), a program, or empty for the first that fits.
find_python() {
    local wanted="$1" candidate found
    local -a candidates
    if [[ -z "$wanted" ]]; then
        candidates=(python3.11 python3.12 python3.13 python3 python)
    elif [[ "$wanted" =~ ^[0-9]+\.[0-9]+$ ]]; then
        candidates=("python$wanted" python3 python "${PYENV_ROOT:-$HOME/.pyenv}/versions/$wanted".*/bin/python)
    else
        candidates=("$wanted")
    fi
    for candidate in "${candidates[@]}"; do
        found="$(python_version "$candidate")"
        [[ -n "$found" ]] || continue
        if [[ "$wanted" =~ ^[0-9]+\.[0-9]+$ && "$found" != "$wanted" ]]; then continue; fi
        printf '%s' "$candidate"
        return
    done
    fail "no Python ${wanted:-3.11 or newer} found (tried: ${candidates[*]}); install one, or give --python=PROGRAM"
}

fingerprint() { # Python program -> a hash of everything that decides the contents of the venv
    "$1" - "$ROOT" <<'PYTHON'
import hashlib, pathlib, sys

root = pathlib.Path(sys.argv[1])
parts = [(root / name).read_bytes() for name in ("setup.cfg", "requirements.txt", "pyproject.toml")]
print(hashlib.sha256(b"\0".join([*parts, sys.version.encode(), str(root).encode()])).hexdigest())
PYTHON
}

# install VENV REQUIREMENT [pip options]: does nothing if the venv's record says that REQUIREMENT is installed.
install() {
    local venv="$1" requirement="$2" record="$1/installed.txt"
    shift 2
    if grep -qxF -- "$requirement" "$record"; then return; fi
    printf 'installing %s into %s\n' "$requirement" "${venv#"$ROOT"/}"
    "$VENV_PYTHON" -m pip install --quiet --quiet --disable-pip-version-check "$@" "$requirement"
    printf '%s\n' "$requirement" >>"$record"
}

nvidia_driver() { # -> the version of NVIDIA's driver, such as 580.65.06; nothing if no device answers
    local version
    version="$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1)" || true
    if [[ "$version" =~ ^[0-9]+(\.[0-9]+)*$ ]]; then printf '%s' "$version"; fi
}

# choose_device WANTED: takes cpu, cuda12 or cuda13 as given and, for auto, what the driver of this machine can run. Sets
# DEVICE and prints it with the reason.
choose_device() {
    local wanted="$1" driver why="as --device says"
    case "$wanted" in
    cpu | cuda12 | cuda13) DEVICE="$wanted" ;;
    auto)
        driver="$(nvidia_driver)"
        if [[ -z "$driver" ]]; then
            DEVICE=cpu why="no NVIDIA device answers nvidia-smi"
        elif ((${driver%%.*} >= CUDA13_DRIVER)); then
            DEVICE=cuda13 why="NVIDIA driver $driver"
        elif ((${driver%%.*} >= CUDA12_DRIVER)); then
            DEVICE=cuda12 why="NVIDIA driver $driver; CUDA 13 needs $CUDA13_DRIVER"
        else
            DEVICE=cpu why="NVIDIA driver $driver, and CUDA 12 needs $CUDA12_DRIVER"
        fi
        ;;
    *) fail "--device=$wanted is not one of auto, cpu, cuda12, cuda13" ;;
    esac
    printf 'device: %s (%s)\n' "$DEVICE" "$why"
}

# prepare_environment WANTED EXTRAS: makes a venv with the package (editable) and the extras, such as "", "[test]" or
# "[cuda13]"; sets VENV_PYTHON. JAX uses the device that it is installed for, so a venv for another kind is made again.
prepare_environment() {
    local wanted="$1" extras="$2" other="" venv="$ROOT/.venv" python state started="$SECONDS"
    case "$extras" in
    "") other='cuda1[23]' ;;
    "[cuda12]") other=cuda13 ;;
    "[cuda13]") other=cuda12 ;;
    esac
    [[ -z "$wanted" ]] || venv="$ROOT/.venv-$(basename -- "$wanted")"
    python="$(find_python "$wanted")"
    VENV_PYTHON="$venv/bin/python"
    state="$(fingerprint "$python")"
    if [[ ! -x "$VENV_PYTHON" || "$(head -n 1 -- "$venv/installed.txt" 2>/dev/null)" != "$state" ]] ||
        { [[ -n "$other" ]] && grep -qx -- "\.\[$other\]" "$venv/installed.txt"; }; then
        rm -rf -- "$venv"
        "$python" -m venv "$venv" || fail "$python cannot make a virtual environment (on Debian: apt-get install python3-venv)"
        printf '%s\n' "$state" >"$venv/installed.txt"
    fi
    cd -- "$ROOT" || fail "cannot enter $ROOT"
    install "$venv" ".$extras" --editable
    printf 'environment: %s, %s, ready after %s\n' "${venv#"$ROOT"/}" "$("$VENV_PYTHON" --version)" "$(elapsed $((SECONDS - started)))"
}
