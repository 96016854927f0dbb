#!/usr/bin/env bash
# Is copied along with the pieces of launch/pack.sh: checks and unpacks those that are here, says what is missing, and starts
# the benchmark with the machine's own Python. Nothing is fetched, and nothing is installed into that Python.
set -euo pipefail

HERE="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"

usage() {
    cat <<'TEXT'
usage: bash run.sh [--into=DIR] --out=DIR [--minutes=8] [--parts=facts,decode,train,study] [--tiny] [--again]

  --into=DIR  where the pieces are unpacked; default: the folder `unpacked` beside this file
  All else goes to benchmarks/accelerator.py. PYTHON names the program, python3 where it is not set. Pieces that come
  later are taken up by the next call.
TEXT
}

say() {
    printf 'run.sh: %s\n' "$*"
}

into="$HERE/unpacked" python="${PYTHON:-python3}"
arguments=()
for argument in "$@"; do
    case "$argument" in
    --into=*) into="${argument#*=}" ;;
    --help | -h) usage && exit 0 ;;
    *) arguments+=("$argument") ;;
    esac
done

# unpack NAME: makes $into/NAME from its pieces if all of them are here and intact; returns 1 if not.
unpack() {
    local name="$1" sums file
    local -a pieces=() faulty=()
    sums="$(grep -F " $name.tar.gz." "$HERE/SHA256SUMS")" || return 1
    if [[ -f "$into/$name/.sums" && "$(cat -- "$into/$name/.sums")" == "$sums" ]]; then return; fi
    while read -r _ file; do
        pieces+=("$HERE/$file")
        if [[ ! -f "$HERE/$file" ]]; then
            faulty+=("$file is not here")
        elif ! (cd -- "$HERE" && grep -F " $file" SHA256SUMS | sha256sum --check --status); then
            faulty+=("$file is not what was packed")
        fi
    done <<<"$sums"
    if ((${#faulty[@]})); then
        for file in "${faulty[@]}"; do say "missing: $file"; done
        return 1
    fi
    rm -rf -- "${into:?}/$name" "${into:?}/$name.new"
    mkdir -p -- "$into/$name.new"
    cat -- "${pieces[@]}" | tar -xzf - -C "$into/$name.new" || { say "missing: $name could not be unpacked" && return 1; }
    printf '%s\n' "$sums" >"$into/$name.new/.sums"
    mv -- "$into/$name.new" "$into/$name"
    say "$name unpacked"
}

# install_wheels NAME: installs into $into/site those wheels of $into/NAME whose package this Python lacks.
install_wheels() {
    local -a lacking=()
    mapfile -t lacking < <(PYTHONPATH="$into/site" "$python" - "$into/$1" <<'PYTHON'
import importlib.metadata
import pathlib
import sys

for wheel in sorted(pathlib.Path(sys.argv[1]).glob("*.whl")):
    try:
        importlib.metadata.version(wheel.name.split("-")[0])
    except importlib.metadata.PackageNotFoundError:
        print(wheel)
PYTHON
    )
    if ((${#lacking[@]})); then
        say "installing ${#lacking[@]} packages into $into/site"
        "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --no-cache-dir \
            --target="$into/site" "${lacking[@]}"
    fi
}

[[ -f "$HERE/SHA256SUMS" ]] || { say "SHA256SUMS is not beside this file" && exit 2; }
command -v "$python" >/dev/null || { say "no program $python; set PYTHON" && exit 2; }
unpack code || { say "without all of the code nothing runs" && exit 2; }
version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
if [[ "$version" != "$(cat -- "$into/code/PYTHON")" ]]; then
    say "$python is Python $version, the wheels are for $(cat -- "$into/code/PYTHON")"
fi
for name in wheels weights; do
    if unpack "$name"; then install_wheels "$name"; fi
done
if unpack data; then
    for folder in "$into"/data/*/; do arguments=("--data=${folder%/}" ${arguments[@]+"${arguments[@]}"}); done
fi

export PYTHONPATH="$into/code:$into/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
TSREC_COMMIT="$(cat -- "$into/code/COMMIT")"
export TSREC_COMMIT
absent="$("$python" - <<'PYTHON'
import importlib.util

NEEDED = ("absl", "array_record", "etils", "flax", "grain", "jax", "ml_collections", "numpy", "optax", "orbax", "safetensors")
ALSO = {"torch": "no comparison with it", "gguf": "no weights, no study", "tensorflow_datasets": "no study",
        "tensorboardX": "no study", "tokenizers": "no study", "sklearn": "no study", "matplotlib": "no study"}
for name in NEEDED:
    if importlib.util.find_spec(name) is None:
        print(f"{name}: nothing runs without it")
for name, loss in ALSO.items():
    if importlib.util.find_spec(name) is None:
        print(f"{name}: {loss}")
PYTHON
)"
while read -r line; do
    if [[ -n "$line" ]]; then say "not installed: $line"; fi
done <<<"$absent"
exec "$python" "$into/code/benchmarks/accelerator.py" ${arguments[@]+"${arguments[@]}"}
