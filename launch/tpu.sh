#!/usr/bin/env bash
# Runs the project on a Cloud TPU slice: makes it, installs a commit of this checkout on every host, runs tsrec on all of
# them and keeps the run alive through preemptions. The walk-through is docs/tpu.md.
set -euo pipefail

# shellcheck source=launch/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

usage() {
    cat <<'TEXT'
usage: bash launch/tpu.sh VERB [options] [-- tsrec's verb and its flags]

verbs
  create    make the TPU VM; --queued waits in the queue until it is there, --existing only looks at it
  install   ship a commit of this checkout to every host and make the environment there
  run       start `tsrec ... --workdir=URL --multi_host` on every host, detached; logs go to tsrec/log.txt on each
  logs      follow the log of one host
  status    the state of the machine and of the run on each host
  babysit   create, install and run; after a preemption all of it again, until the run has ended
  stop      ask the run to save and end
  delete    delete the machine

options, each with the variable that gives its default
  --name=NAME           TPU_NAME      the TPU VM, and the queued resource where one is used
  --zone=ZONE           TPU_ZONE      default: gcloud's own setting
  --project=PROJECT     TPU_PROJECT   default: gcloud's own setting
  --type=TYPE           TPU_TYPE      accelerator type: v5litepod-16 (that is v5e), v6e-8, v5p-8, v4-8, ...
  --version=VERSION     TPU_VERSION   runtime version; default: the one for the chip
  --spot                TPU_SPOT      a spot machine: cheaper, and taken away at any time
  --queued              TPU_QUEUED    through a queued resource
  --existing            TPU_EXISTING  a machine that is there already: never created, never deleted
  --create_flag=FLAG    -             passed on to gcloud's create, such as --create_flag=--network=mine; repeatable
  --branch=NAME         TPU_BRANCH    what `install` ships; default: HEAD
  --commit=COMMIT       TPU_COMMIT    a commit of it; default: the newest
  --python=VERSION      TPU_PYTHON    Python on the hosts; default: 3.11
  --extras=LIST         TPU_EXTRAS    extras of the package; default: tpu,gcs
  --workdir=URL         TPU_WORKDIR   of the run: gs://BUCKET/FOLDER, or the absolute path of a shared file system
  --env=NAME=VALUE      -             a variable for the run; repeatable
  --secret=NAME         -             a variable for the run with its value here, which is never shown; repeatable
  --worker=N            TPU_WORKER    logs: the host; default: 0
  --poll=SECONDS        TPU_POLL      between two looks at the machine; default: 60
  --grace=SECONDS       TPU_GRACE     stop: a run that has not ended after so long is killed; default: 600
  --restarts=N          TPU_RESTARTS  babysit gives up after so many crashes in a row on one machine; default: 5
  --dry_run             -             print the commands, one a line, and run none
  --help
TEXT
}

note() { printf '%s: %s %s\n' "$(basename -- "$0")" "$(date '+%H:%M:%S')" "$*" >&2; }

quoted() { # words -> one line that a shell reads as these words
    local word line=""
    for word in "$@"; do
        case "$word" in
        *\'* | *[[:cntrl:]]*) word="$(printf '%q' "$word")" ;;
        '' | *[!A-Za-z0-9_./:=,@%+-]*) word="'$word'" ;;
        esac
        line+="${line:+ }$word"
    done
    printf '%s\n' "$line"
}

call() { # runs a command, or prints it in a dry run
    if "$dry_run"; then quoted "$@"; else "$@"; fi
}

tpus() { # GROUP VERB ARGUMENTS of `gcloud compute tpus`, in the zone and project
    call gcloud compute tpus "$@" ${place[@]+"${place[@]}"} --quiet
}

on_hosts() { # WORKER COMMAND: a shell command on one host or on `all`
    tpus tpu-vm ssh "$name" "--worker=$1" "--command=$2"
}

worker() { # VERB ARGUMENTS: calls launch/tpu_worker.sh on every host
    on_hosts all "$(quoted bash tsrec/code/launch/tpu_worker.sh "$@")"
}

worker_status() { # a new machine has no such script yet
    local script=tsrec/code/launch/tpu_worker.sh
    on_hosts all "if [ -e $script ]; then bash $script status; else echo tsrec-run \"\$(hostname)\" - none; fi"
}

runtime_version() { # accelerator type -> runtime version
    case "$1" in
    v5litepod-*) printf 'v2-alpha-tpuv5-lite' ;;
    v5p-*) printf 'v2-alpha-tpuv5' ;;
    v6e-*) printf 'v2-alpha-tpuv6e' ;;
    v4-* | v3-* | v2-*) printf 'tpu-ubuntu2204-base' ;;
    *) fail "--type=$1: no runtime version is known for it (known: v5litepod-N, v5p-N, v6e-N, v4-N, v3-N, v2-N); give --version" ;;
    esac
}

machine_request() { # only requests the machine; returns when gcloud does
    local -a flags=("--accelerator-type=$type")
    if "$spot"; then flags+=(--spot); fi
    flags+=(${create_flags[@]+"${create_flags[@]}"})
    if "$queued"; then
        tpus queued-resources create "$name" "--node-id=$name" "--runtime-version=$version" "${flags[@]}"
    else
        tpus tpu-vm create "$name" "--version=$version" "${flags[@]}"
    fi
}

machine_delete() {
    if "$queued"; then
        tpus queued-resources delete "$name" --force
    else
        tpus tpu-vm delete "$name"
    fi
}

described() { # GROUP FIELD -> the state, MISSING if there is no such resource, UNREADABLE if gcloud fails otherwise
    local state
    if state="$(tpus "$1" describe "$name" "--format=value($2)" 2>"$scratch/errors")"; then
        printf '%s' "$state"
    elif grep -q NOT_FOUND "$scratch/errors"; then
        printf 'MISSING'
    else
        cat -- "$scratch/errors" >&2
        printf 'UNREADABLE'
    fi
}

# machine_look: sets `machine` to ready, waiting, gone (its remains must be deleted), missing or unreadable, and `detail`.
machine_look() {
    if "$queued"; then
        detail="$(described queued-resources state.state)"
        case "$detail" in
        ACTIVE) ;;
        MISSING) machine=missing && return ;;
        UNREADABLE) machine=unreadable && return ;;
        FAILED | SUSPENDED) machine=gone && return ;;
        *) machine=waiting && return ;;
        esac
    fi
    detail="$(described tpu-vm state)"
    case "$detail" in
    READY) machine=ready ;;
    MISSING) if "$queued"; then machine=gone; else machine=missing; fi ;;
    UNREADABLE) machine=unreadable ;;
    PREEMPTED | TERMINATED | STOPPED | HIDDEN | UNKNOWN) machine=gone ;;
    *) machine=waiting ;;
    esac
}

show_machine() { # the commands that look at the machine, for a dry run and for status
    if "$queued"; then tpus queued-resources describe "$name" "--format=value(state.state)"; fi
    tpus tpu-vm describe "$name" "--format=value(state)"
}

create() {
    if ! "$existing"; then machine_request; fi
    if "$dry_run"; then show_machine && return; fi
    while true; do
        machine_look
        case "$machine" in
        ready) note "$name is ready" && return ;;
        gone) fail "$name is $detail" ;;
        missing) if "$existing"; then fail "$name is not there; leave --existing out to create it"; fi ;;
        esac
        note "$name is $detail; waiting"
        sleep "$poll"
    done
}

install_commit() {
    local checkout="git -C tsrec/code"
    call git -C "$ROOT" bundle create --quiet "$scratch/tsrec.bundle" "$branch"
    tpus tpu-vm scp "$scratch/tsrec.bundle" "$name:tsrec.bundle" --worker=all
    on_hosts all "git init --quiet tsrec/code \
&& $checkout fetch --quiet ../../tsrec.bundle $(quoted "$branch") \
&& $checkout checkout --quiet --force --detach $commit \
&& $(quoted bash tsrec/code/launch/tpu_worker.sh install "$python" "$extras")"
}

run_id() { # distinguishes this run from others
    quoted "$commit" ${variables[@]+"${variables[@]}"} -- "${arguments[@]}" | cksum | cut -d ' ' -f 1
}

start_run() {
    local secret
    if ((${#secrets[@]})); then
        if ! "$dry_run"; then
            (umask 077 && for secret in "${secrets[@]}"; do printf 'export %s=%q\n' "$secret" "${!secret}"; done >"$scratch/secrets")
        fi
        tpus tpu-vm scp "$scratch/secrets" "$name:tsrec/secrets" --worker=all
    fi
    worker start "$(run_id)" ${variables[@]+"${variables[@]}"} -- "${arguments[@]}"
}

# run_look: sets `run` from what all hosts report: running, finished, stopped, refused (exit code 2), failed, broken (runs on
# some hosts only), none (nothing, or the end of another run) or unreachable.
run_look() {
    local lines going foreign ends
    if ! lines="$(worker_status | grep '^tsrec-run ')"; then run=unreachable && return; fi
    going="$(grep -c ' running$' <<<"$lines" || true)"
    foreign="$(grep -v " $(run_id) " <<<"$lines" || true)"
    ends="$(sed -n 's/.* ended //p; s/.* lost$/lost/p' <<<"$lines" | sort -u | tr '\n' ' ')"
    if [[ "$foreign" == *" running"* ]]; then
        fail "another run is going on on $name; end it first with the verb stop"
    elif ((going > 0)) && [[ -n "$foreign${ends#0 }" ]]; then
        run=broken
    elif ((going > 0)); then
        run=running
    elif [[ -n "$foreign" ]]; then
        run=none
    elif [[ " $ends" == *" 2 "* ]]; then
        run=refused
    elif [[ -n "${ends#0 }" ]]; then
        run=failed
    elif [[ -n "$ends" ]]; then
        run=finished
    else
        run=stopped
    fi
}

babysit() {
    local crashes=0 fresh=true machine="" detail="" run=""
    if "$dry_run"; then
        show_machine
        if ! "$existing"; then machine_delete && machine_request; fi
        install_commit
        start_run
        worker_status
        return
    fi
    while true; do
        machine_look
        case "$machine" in
        ready) babysit_run ;;
        waiting | unreadable) note "$name is $detail; waiting" ;;
        *)
            if "$existing"; then fail "$name is $detail, and --existing machines are not created again"; fi
            note "$name is $detail; creating it"
            crashes=0 fresh=true
            if [[ "$machine" == gone ]]; then machine_delete || note "it could not be deleted yet"; fi
            if machine_request; then continue; fi
            note "it could not be created; trying again"
            ;;
        esac
        sleep "$poll"
    done
}

babysit_run() { # one look at the run on a machine that is ready; ends the program when the run has ended
    run_look
    if "$fresh" && [[ "$run" =~ ^(refused|failed|stopped)$ ]]; then run=none; fi # left by an earlier babysit: tried again
    case "$run" in
    running | unreachable) note "the run is $run" ;;
    finished) note "the run has finished" && exit 0 ;;
    stopped) note "the run was stopped; the same command resumes it" && exit 0 ;;
    refused)
        note "tsrec refused to run (exit code 2); the ends of the logs:"
        on_hosts all 'tail -n 5 tsrec/log.txt' || true
        exit 2
        ;;
    broken)
        note "the run has ended on some hosts only; ending it on the others"
        worker stop 60 || true
        ;;
    failed)
        crashes=$((crashes + 1))
        if ((crashes > restarts)); then note "$crashes crashes in a row; see the verb logs" && exit 1; fi
        note "the run crashed ($crashes of $restarts allowed); starting it again"
        start_run || note "it could not be started; trying again"
        ;;
    none)
        note "installing and starting the run"
        { install_commit && start_run; } || note "it could not be started; trying again"
        ;;
    esac
    if [[ "$run" != unreachable ]]; then fresh=false; fi
}

status() {
    show_machine
    worker_status
}

need() { # OPTION VALUE
    [[ -n "$2" ]] || fail "$verb needs --$1"
}

resolve_commit() { # the commit that install ships and that is part of the run's id
    local tip
    tip="$(git -C "$ROOT" rev-parse --verify --quiet "$branch^{commit}")" || fail "--branch=$branch: no such branch here"
    commit="$(git -C "$ROOT" rev-parse --verify --quiet "${commit:-$tip}^{commit}")" || fail "--commit: no such commit here"
    git -C "$ROOT" merge-base --is-ancestor "$commit" "$tip" || fail "--commit=$commit is not a part of --branch=$branch"
    if [[ -n "$(git -C "$ROOT" status --porcelain --untracked-files=no)" ]]; then
        note "this checkout has changes that are not committed; commit $commit is what runs"
    fi
}

check_run() { # the run's arguments as every host gets them
    ((${#arguments[@]})) || fail "$verb needs what tsrec shall do: -- run --config=configs/FILE.py"
    case "$workdir" in
    *://* | /*) ;;
    *) fail "$verb needs --workdir=gs://BUCKET/FOLDER (or another URL, or the absolute path of a shared file system)" ;;
    esac
    arguments+=("--workdir=$workdir" --multi_host)
    local variable
    for variable in ${variables[@]+"${variables[@]}"}; do
        [[ "$variable" =~ ^[A-Za-z_][A-Za-z_0-9]*= ]] || fail "--env=$variable: give NAME=VALUE"
    done
    for variable in ${secrets[@]+"${secrets[@]}"}; do
        [[ "$variable" =~ ^[A-Za-z_][A-Za-z_0-9]*$ && -n "${!variable:-}" ]] || fail "--secret=$variable: no such variable here"
    done
}

name="${TPU_NAME:-}" zone="${TPU_ZONE:-}" project="${TPU_PROJECT:-}" type="${TPU_TYPE:-}" version="${TPU_VERSION:-}"
spot="${TPU_SPOT:-false}" queued="${TPU_QUEUED:-false}" existing="${TPU_EXISTING:-false}" dry_run=false
branch="${TPU_BRANCH:-HEAD}" commit="${TPU_COMMIT:-}" python="${TPU_PYTHON:-3.11}" extras="${TPU_EXTRAS:-tpu,gcs}"
workdir="${TPU_WORKDIR:-}" host="${TPU_WORKER:-0}" poll="${TPU_POLL:-60}" grace="${TPU_GRACE:-600}" restarts="${TPU_RESTARTS:-5}"
create_flags=() variables=() secrets=() arguments=() place=()

verb="${1:-}"
case "$verb" in
create | install | run | logs | status | babysit | stop | delete) shift ;;
--help | -h) usage && exit 0 ;;
*) usage >&2 && fail "no such verb: '$verb'" ;;
esac
while (($#)); do
    argument="$1" value="${1#*=}"
    shift
    case "$argument" in
    --name=*) name="$value" ;;
    --zone=*) zone="$value" ;;
    --project=*) project="$value" ;;
    --type=*) type="$value" ;;
    --version=*) version="$value" ;;
    --spot) spot=true ;;
    --queued) queued=true ;;
    --existing) existing=true ;;
    --create_flag=*) create_flags+=("$value") ;;
    --branch=*) branch="$value" ;;
    --commit=*) commit="$value" ;;
    --python=*) python="$value" ;;
    --extras=*) extras="$value" ;;
    --workdir=*) workdir="$value" ;;
    --env=*) variables+=("$value") ;;
    --secret=*) secrets+=("$value") ;;
    --worker=*) host="$value" ;;
    --poll=*) poll="$value" ;;
    --grace=*) grace="$value" ;;
    --restarts=*) restarts="$value" ;;
    --dry_run) dry_run=true ;;
    --help | -h) usage && exit 0 ;;
    --) arguments=("$@") && break ;;
    *) fail "unknown option $argument; --help lists them, and what is for tsrec comes after --" ;;
    esac
done

need name "$name"
for value in "$spot" "$queued" "$existing"; do
    [[ "$value" =~ ^(true|false)$ ]] || fail "TPU_SPOT, TPU_QUEUED and TPU_EXISTING are true or false, not '$value'"
done
[[ -z "$zone" ]] || place+=("--zone=$zone")
[[ -z "$project" ]] || place+=("--project=$project")
if [[ "$verb" =~ ^(create|babysit)$ ]] && ! "$existing"; then
    need type "$type"
    version="${version:-$(runtime_version "$type")}"
fi
if [[ "$verb" =~ ^(run|babysit)$ ]]; then check_run; fi
if [[ "$verb" =~ ^(install|run|babysit)$ ]]; then resolve_commit; fi
if "$dry_run"; then
    scratch="${TMPDIR:-/tmp}/tsrec.XXXXXX" # as mktemp would name it
else
    command -v gcloud >/dev/null || fail "gcloud is not there; install the Google Cloud CLI, or look at --dry_run"
    scratch="$(umask 077 && mktemp -d "${TMPDIR:-/tmp}/tsrec.XXXXXX")"
    trap 'rm -rf -- "$scratch"' EXIT
fi

case "$verb" in
create) create ;;
install) install_commit ;;
run) start_run ;;
logs) on_hosts "$host" 'tail -n 100 -F tsrec/log.txt' ;;
status) status ;;
babysit) babysit ;;
stop) worker stop "$grace" ;;
delete)
    if "$existing"; then fail "a machine given as --existing is not deleted; leave that option out"; fi
    machine_delete
    ;;
esac
