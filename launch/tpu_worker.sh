#!/usr/bin/env bash
# What launch/tpu.sh does on each host of a slice: makes the environment, keeps one detached run and reports its state.
#
# The checkout is the folder `code`. Next to it are log.txt (what the runs print), python (the environment's program) and
# secrets (variables that no command line shows). The newest run has run.lock (locked while any of its processes lives),
# run.id, group (its process group), pid (of tsrec itself), ended (its exit code) and stop_requested.
# launch/tpu.sh calls all verbs.
set -euo pipefail

# shellcheck source=launch/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
STATE="$(dirname -- "$ROOT")"

# make_environment PYTHON EXTRAS: the images of the TPU runtimes may hold an older Python; then uv brings one.
make_environment() {
    local python="$1" extras="$2"
    if ! (find_python "$python") >/dev/null 2>&1; then
        python3 -m pip install --quiet --user uv
        python3 -m uv python install --quiet "$python"
        python="$(python3 -m uv python find "$python")"
    fi
    prepare_environment "$python" "[$extras]"
    printf '%s\n' "$VENV_PYTHON" >"$STATE/python"
}

# start ID [NAME=VALUE ...] -- ARGUMENTS: a detached run of `tsrec ARGUMENTS`. Its processes inherit the lock, so the lock is
# free only when all of them are gone, however they ended.
start() {
    local id="$1"
    [[ -s "$STATE/python" ]] || fail "nothing is installed here; run launch/tpu.sh install first"
    exec 9>>"$STATE/run.lock"
    flock --nonblock 9 || fail "a run is going on on $(hostname); end it first with launch/tpu.sh stop"
    rm -f -- "$STATE"/{group,pid,ended,stop_requested}
    printf '%s\n' "$id" >"$STATE/run.id"
    shift
    setsid bash "${BASH_SOURCE[0]}" supervise "$@" </dev/null >>"$STATE/log.txt" 2>&1 &
    printf 'started on %s, log: %s\n' "$(hostname)" "$STATE/log.txt"
}

# supervise [NAME=VALUE ...] -- ARGUMENTS: the run itself; records its exit code, unless the system is shutting down.
supervise() {
    local -a variables=()
    local code=0 child going_down=false
    while [[ "$1" != -- ]]; do
        variables+=("$1")
        shift
    done
    shift
    # The port where the hosts meet: Google's firewall rule for slices lets it through, but not JAX's default, 8482.
    export JAX_COORDINATOR_PORT="${JAX_COORDINATOR_PORT:-8476}"
    if [[ -f "$STATE/secrets" ]]; then
        # shellcheck source=/dev/null
        source "$STATE/secrets"
    fi
    printf '%s\n' "$$" >"$STATE/group"
    trap 'going_down=true' TERM # at a shutdown every process gets the signal: the run saves, but this is no end of its own
    printf -- '--- %s: tsrec %s\n' "$(date -u '+%F %T UTC')" "$*"
    cd -- "$ROOT"
    env ${variables[@]+"${variables[@]}"} "$(cat -- "$STATE/python")" -m tsrec_jax "$@" &
    child=$!
    printf '%s\n' "$child" >"$STATE/pid"
    wait "$child" || code=$?
    if "$going_down"; then return; fi
    printf -- '--- %s: exit code %s\n' "$(date -u '+%F %T UTC')" "$code"
    printf '%s\n' "$code" >"$STATE/ended.new"
    mv -- "$STATE/ended.new" "$STATE/ended"
}

running() {
    [[ -e "$STATE/run.lock" ]] && ! flock --nonblock "$STATE/run.lock" true
}

# status: one line, `tsrec-run HOST ID STATE [CODE]`; STATE is none, running, ended, stopped (ended on request) or lost.
status() {
    local id state
    id="$(cat -- "$STATE/run.id" 2>/dev/null || printf -- '-')"
    if running; then
        state=running
    elif [[ "$id" == - ]]; then
        state=none
    elif [[ ! -e "$STATE/ended" ]]; then
        state=lost
    elif [[ -e "$STATE/stop_requested" ]]; then
        state="stopped $(cat -- "$STATE/ended")"
    else
        state="ended $(cat -- "$STATE/ended")"
    fi
    printf 'tsrec-run %s %s %s\n' "$(hostname)" "$id" "$state"
}

# stop SECONDS: asks the run to save and end; kills it if it has not ended after that time.
stop() {
    local deadline=$((SECONDS + $1)) asked=false
    if running; then touch -- "$STATE/stop_requested"; fi
    while running; do
        if ! "$asked" && [[ -s "$STATE/pid" ]]; then
            kill -TERM "$(cat -- "$STATE/pid")" && asked=true
        fi
        if ((SECONDS >= deadline)); then
            printf '%s: not ended after %s s, killed\n' "$(hostname)" "$1"
            kill -KILL -- "-$(cat -- "$STATE/group")"
        fi
        sleep 0.2
    done
    status
}

case "${1:-}" in
install) make_environment "$2" "$3" ;;
start | supervise | status | stop) "$@" ;;
*) fail "no such verb: '${1:-}'; launch/tpu.sh calls this script on the hosts" ;;
esac
