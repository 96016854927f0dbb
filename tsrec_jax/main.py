"""The command line: one verb per stage.

    python -m tsrec_jax VERB --config=FILE.py|NAME --workdir=DIR [--config.a.b=value]

Exit codes: 0 done, or stopped by a signal and saved; 2 the user's mistake (one line says which); 1 ours.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from tsrec_jax import __version__
from tsrec_jax.cache import compiled_folder, keep_compiled_programs, mend_compiled_programs
from tsrec_jax.command_flags import help_lines, parse
from tsrec_jax.errors import Stopped, UserError, no_space, not_allowed
from tsrec_jax.serving.settings import ServerSettings, require_extra
from tsrec_jax.settings import GIVE, Settings, load_saved, settings_of

if TYPE_CHECKING:
    from tsrec_jax.processes import Group

USAGE = """usage: python -m tsrec_jax VERB --config=FILE.py|NAME --workdir=DIR [--config.a.b=value ...]
       python -m tsrec_jax VERB --help     the flags of a verb
       python -m tsrec_jax --version

verbs
  run        what the config asks for, in order; finished stages are skipped
  download   the raw files of an Amazon category, resumable (config.prepare)
  prepare    raw reviews or plain tables to a folder of texts and interactions (config.prepare)
  check      FOLDER: what a dataset folder holds, and every fault of it (docs/dataset.md); needs no workdir, and
             --config only for the settings of config.dataset
  index      item texts to semantic IDs, with a report on them (config.index)
  describe   keywords and descriptions for the SID tokens (config.describe); --dry_run: what it would ask and cost
  config     every setting with its default, what it may be and what it means, as Markdown (docs/config.md)
  pretrain   the small language model of the embedded default (only when config.model.path is empty)
  plan       what a training costs: parameters, memory, FLOPs, time; needs no workdir and none of the devices
             [--chip=v5e --devices=16 --mfu=0.4]; refuses a mesh that cannot work, with one that does
  train      the recommender; resumes where it stopped; --profile=10:13 writes a trace of these steps (also with run)
  rl         the second stage, from the best weights of `train` (config.rl, docs/rl.md); resumes where it stopped
  study      arms x seeds of config.study, each cell once, and one report with paired tests (docs/studies.md); several
             processes may work in one workdir [--arms=a,b --seeds=1,2: only these cells]
  evaluate   predictions.json, results.json, results.md and plots of the trained recommender
  export     a Hugging Face folder with the SID tokens and the catalogue
  recommend  --history=ID,ID,... [--k=10]: items for one history, from the exported folder; ids with a comma, or with
             blanks at their ends: --item=ID for each of them instead; --histories=FILE --out=FILE [--unknown=skip]
             for many, each file .jsonl, .csv or .parquet; resumes where it stopped (docs/serving.md) [--weights=int8]
  serve      an HTTP service and a web page on the exported folder, or on --export=FOLDER without a workdir
             [--host=127.0.0.1 --port=8000 --beams --max_beams --max_batch --weights=int8 --queue --batch_wait_ms
             --deadline_ms --keep_alive --connections --drain_delay --reuse_port --cors --log=text|json --access_log]
  catalogue  list, add, block, unblock, remove, restore, import, journal, verify, compact or adopt: the items of an
             export and their changes, beside a running server too (docs/catalogue.md)
             [ID ...|WORD ...|FILE.csv|FILE.jsonl --export=FOLDER --catalogue=FILE --title --sid --who --after]
  code       NEW.csv|NEW.json CODED.csv|CODED.jsonl: semantic IDs for new items from their texts, by the codebooks of an
             export; changes nothing (docs/serving.md) [--export=FOLDER --catalogue=FILE --encoder=FOLDER]

several processes as one run, over all their devices (run, pretrain, train, rl, evaluate, export), on a shared workdir:
  --multi_host               where JAX finds the others itself (TPU pods, Slurm, Open MPI)
  --coordinator=HOST:PORT --num_processes=N --process_id=I   elsewhere; process 0 answers at HOST:PORT
  --heartbeat_seconds=60     silence after which a process is taken for dead, which ends the others

NAME is an experiment of the package, such as quickstart or studies/smoke; an unknown name lists them all.
After `train` or `run` a workdir knows its config: --config may then be left out.
A workdir may be an address, such as gs://BUCKET/FOLDER; the run then works in a folder of this machine.
Example: python -m tsrec_jax run --config=quickstart --workdir=runs/quickstart"""


def _settings(values: flags.FlagValues, workdir: pathlib.Path) -> Settings:
    return load_saved(workdir) if values.config is None else settings_of(values.config)


def _check(values: flags.FlagValues, folder: pathlib.Path) -> int:
    from tsrec_jax.data.inspection import inspect_folder

    if values.config is None:
        faults = inspect_folder(folder)
    else:
        dataset = settings_of(values.config).dataset
        faults = inspect_folder(folder, dataset.name, dataset)
    return 2 if faults else 0


def _plan(values: flags.FlagValues, workdir: pathlib.Path) -> None:
    settings = _settings(values, workdir)
    from tsrec_jax.pipeline.plan import PlanOptions, plan

    plan(settings, PlanOptions(values.chip, values.devices, values.mfu))


def _training(name: str) -> Callable[[flags.FlagValues, pathlib.Path], None]:
    def call(values: flags.FlagValues, workdir: pathlib.Path) -> None:
        settings = _settings(values, workdir)
        from tsrec_jax.pipeline import stages
        from tsrec_jax.pipeline.lock import alone_in
        from tsrec_jax.training.profile import profiled_steps

        profile = profiled_steps(values.profile)
        with alone_in(workdir, name):
            getattr(stages, name)(settings, workdir, profile=profile)

    return call


def _stage(name: str) -> Callable[[flags.FlagValues, pathlib.Path], None]:
    def call(values: flags.FlagValues, workdir: pathlib.Path) -> None:
        settings = _settings(values, workdir)
        from tsrec_jax.pipeline import stages
        from tsrec_jax.pipeline.lock import alone_in

        with alone_in(workdir, name):
            getattr(stages, name)(settings, workdir)

    return call


def _study(values: flags.FlagValues, workdir: pathlib.Path) -> int:
    settings = _settings(values, workdir)
    from tsrec_jax.pipeline.study import study

    return study(settings, workdir, values.arms, values.seeds)


def _describe(values: flags.FlagValues, workdir: pathlib.Path) -> None:
    settings = _settings(values, workdir)
    from tsrec_jax.pipeline import stages
    from tsrec_jax.pipeline.lock import alone_in

    with alone_in(workdir, "describe"):
        stages.describe(settings, workdir, dry_run=values.dry_run)


def _recommend(values: flags.FlagValues, workdir: pathlib.Path) -> None:
    if values.histories or values.out:
        _recommend_file(values, workdir)
        return
    history = values.item or [item.strip() for item in (values.history or "").split(",") if item.strip()]
    if not history:
        raise UserError("recommend needs --history=ID,ID,... or --item=ID, with at least one item id")
    if values.item and values.history is not None:
        raise UserError("recommend takes --history=ID,ID,... or --item=ID for each of the ids, not both")
    folder = _export_in(workdir)
    from tsrec_jax.serving.catalogue_changes import changes_file
    from tsrec_jax.serving.recommender import Recommender

    changes = values.catalogue or changes_file(folder)
    found = Recommender.load(folder, weights=values.weights, changes=changes).recommend([history], k=values.k)[0]
    width = max([len("item"), *(len(entry.item_id) for entry in found)])
    print(f"{'rank':>4}  {'item':<{width}}  {'score':>9}  title")
    for rank, entry in enumerate(found, 1):
        print(f"{rank:>4}  {entry.item_id:<{width}}  {entry.score:>9.4f}  {entry.title}")


def _export_in(workdir: pathlib.Path) -> pathlib.Path:
    folder = workdir / "export"
    if not folder.is_dir():
        raise UserError(f"{folder}: not there; run the verb `export` (or `run`) in this workdir first")
    return folder


def _recommend_file(values: flags.FlagValues, workdir: pathlib.Path) -> None:
    if not values.histories or not values.out:
        raise UserError("recommend takes --histories=FILE and --out=FILE together")
    if values.item or values.history is not None:
        raise UserError("recommend takes --histories=FILE, or one history by --history or --item, not both")
    folder = _export_in(workdir)
    from tsrec_jax.serving.catalogue_changes import changes_file
    from tsrec_jax.serving.offline import changes_for, recommend_file
    from tsrec_jax.serving.recommender import BEAMS, Recommender

    out = pathlib.Path(values.out)
    changes = changes_for(out, values.catalogue or changes_file(folder))
    recommend_file(
        Recommender.load(folder, weights=values.weights, beams=max(BEAMS, values.k), changes=changes),
        pathlib.Path(values.histories),
        out,
        k=values.k,
        skip_unknown=values.unknown == "skip",
        report=lambda line: print(line, flush=True),
    )


def _export_of(verb: str, values: flags.FlagValues, workdir: pathlib.Path) -> pathlib.Path:
    """The exported folder that a verb works on."""
    if values.workdir and values.export:
        raise UserError(f"{verb} takes --workdir=DIR, whose export it takes, or --export=FOLDER, not both")
    return pathlib.Path(values.export or workdir / "export")


def _serve(values: flags.FlagValues, workdir: pathlib.Path) -> None:
    folder = _export_of("serve", values, workdir)
    given: dict[str, Any] = {name: values[name].value for name in SERVER_FLAGS}
    settings = ServerSettings(**given)
    require_extra()
    from tsrec_jax.serving.catalogue_changes import changes_file
    from tsrec_jax.serving.server import serve

    search = {"beams": values.beams, "max_batch": values.max_batch, "encoder": values.encoder}
    given = {name: value for name, value in search.items() if value is not None} | {"weights": values.weights}
    given |= {"changes": values.catalogue or changes_file(folder), "programs": compiled_folder()}
    serve(folder, settings, given)


def _catalogue(values: flags.FlagValues, workdir: pathlib.Path, action: str = "", *words: str) -> int:
    folder = _export_of("catalogue", values, workdir)
    from tsrec_jax.serving.catalogue_command import Command, run

    file = None if values.catalogue is None else pathlib.Path(values.catalogue)
    return run(action, Command(folder, file, words, values.title, values.sid, values.who, values.after))


def _code(values: flags.FlagValues, workdir: pathlib.Path, *words: str) -> None:
    folder = _export_of("code", values, workdir)
    if len(words) != 2:
        raise UserError("code takes the file with the items and the one to write, as in `tsrec code NEW.csv CODED.csv`")
    from tsrec_jax.serving.catalogue_changes import changes_file
    from tsrec_jax.serving.code_command import Command, run

    changes = pathlib.Path(values.catalogue or changes_file(folder))
    run(Command(folder, changes, pathlib.Path(words[0]), pathlib.Path(words[1]), values.encoder))


def _print_settings(_values: flags.FlagValues, _workdir: pathlib.Path) -> None:
    from tsrec_jax.settings_page import settings_page

    print(settings_page(), end="")


# A verb takes the flags, the workdir and, if it is among WITH_WORDS, the words after it; it returns the exit code if
# that is not 0.
VERBS: dict[str, Callable[..., int | None]] = {
    "run": _training("run"),
    "download": _stage("download"),
    "prepare": _stage("prepare"),
    "check": _check,
    "config": _print_settings,
    "index": _stage("index"),
    "describe": _describe,
    "pretrain": _stage("pretrain"),
    "plan": _plan,
    "train": _training("train"),
    "rl": _stage("rl"),
    "study": _study,
    "evaluate": _stage("evaluate"),
    "export": _stage("export"),
    "recommend": _recommend,
    "serve": _serve,
    "catalogue": _catalogue,
    "code": _code,
}
WITH_WORDS = ("check", "catalogue", "code")
# Verbs that several processes run together.
TOGETHER = ("run", "prepare", "pretrain", "index", "describe", "train", "rl", "evaluate", "export")
TOGETHER_FLAGS = ("multi_host", "coordinator", "num_processes", "process_id", "heartbeat_seconds")

INSTEAD = {
    **dict.fromkeys(("serve", "catalogue", "code"), " or --export=FOLDER"),
    "plan": " or --config=FILE.py",
}  # what may be given instead of a workdir
NO_CONFIG = ("recommend", "serve", "catalogue", "code")  # what they need is in the exported folder
SERVER_FLAGS = tuple(field.name for field in dataclasses.fields(ServerSettings))
# Flags that only some verbs take.
ONLY_FOR = {
    "dry_run": ("describe",),
    "profile": ("train", "run"),
    "arms": ("study",),
    "seeds": ("study",),
    "chip": ("plan",),
    "devices": ("plan",),
    "mfu": ("plan",),
    **dict.fromkeys(("history", "item", "k", "histories", "out", "unknown"), ("recommend",)),
    "catalogue": ("recommend", "serve", "catalogue", "code"),
    "export": ("serve", "catalogue", "code"),
    "encoder": ("serve", "code"),
    "weights": ("recommend", "serve"),
    **dict.fromkeys(("title", "sid", "who", "after"), ("catalogue",)),
    **dict.fromkeys(("beams", "max_batch", *SERVER_FLAGS), ("serve",)),
}


def _dispatch(arguments: Sequence[str]) -> int:
    values, rest = parse(arguments)
    verb = rest[0] if rest else ""
    if verb not in VERBS:
        raise UserError(f"no such verb: {verb!r}; it is one of {', '.join(VERBS)}")
    if len(rest) > 1 and verb not in WITH_WORDS:
        raise UserError(f"{verb}: unexpected argument {rest[1]!r}; settings are given as --config.a.b=value")
    for flag, verbs in ONLY_FOR.items():
        if values[flag].present and verb not in verbs:
            raise UserError(f"--{flag} is for the verb {' or '.join(verbs)}, not for {verb}")
    if verb == "config":
        return VERBS[verb](values, pathlib.Path()) or 0
    if verb == "check":
        return _check(values, _checked_folder(values, rest[1:]))
    if not values.workdir and not values.export and not (verb == "plan" and values.config is not None):
        config = "" if verb in NO_CONFIG or values.config is not None else f" and, the first time, {GIVE}"
        raise UserError(f"{verb} needs --workdir=DIR{INSTEAD.get(verb, '')}{config}")
    if values.workdir and "://" not in values.workdir:
        _refuse_no_folder(pathlib.Path(values.workdir))
    if verb == "study" and "://" in values.workdir:
        raise UserError(f"--workdir={values.workdir}: a study works in a folder; run it in one and copy what it wrote")
    if verb in ("catalogue", "code") and "://" in (values.workdir or ""):
        raise UserError(f"--workdir={values.workdir}: changes are kept on this machine; give --export=FOLDER")
    served = values.export or (pathlib.Path(values.workdir or "") / "export")
    remote = "://" in (values.workdir or "")
    keep_compiled_programs(pathlib.Path(served) if verb == "serve" and not remote else None)
    if unusable := mend_compiled_programs():
        print(f"tsrec: {unusable}", file=sys.stderr)
    group = _join(verb, values)
    code = _exit_code(lambda: _work(verb, values, rest[1:]))
    if group is not None:
        group.leave(code)
    return code


def _checked_folder(values: flags.FlagValues, places: Sequence[str]) -> pathlib.Path:
    """The folder that `check` is given, as an argument or by config.dataset.path."""
    given = [*places, *([] if values.config is None else [values.config.dataset.path])]
    given = [place for place in given if place]
    if len(given) != 1:
        raise UserError(
            f"check takes one folder, as in `tsrec check FOLDER`, or --config.dataset.path; has {len(given)}"
        )
    return pathlib.Path(given[0])


def _refuse_no_folder(workdir: pathlib.Path) -> None:
    """Refuses a workdir that is not a folder and cannot become one."""
    for place in (workdir, *workdir.parents):
        try:
            if not place.is_symlink() and not place.exists():
                continue
            is_folder = place.is_dir()
        except OSError as error:
            raise UserError(f"--workdir={workdir}: {error.strerror}; give a folder") from None
        if not is_folder:
            what = "is a link to nothing" if place.is_symlink() and not place.exists() else "is a file"
            raise UserError(f"--workdir={workdir}: {place} {what}; give a folder")


def _join(verb: str, values: flags.FlagValues) -> Group | None:
    """Makes this process one of several, before JAX looks for devices; None where it is the only one."""
    given: dict[str, Any] = {name: values[name].value for name in TOGETHER_FLAGS}
    if not any(value is not None and value is not False for value in given.values()):
        return None
    if verb not in TOGETHER:
        raise UserError(f"{verb} is the work of one process; several do {', '.join(TOGETHER)}")
    from tsrec_jax.processes import Group, Launch

    return Group(Launch(**given))


def _work(verb: str, values: flags.FlagValues, words: Sequence[str]) -> int | None:
    with _local(values.workdir or "", verb) as workdir:
        return VERBS[verb](values, workdir, *words)


@contextlib.contextmanager
def _local(workdir: str, verb: str) -> Iterator[pathlib.Path]:
    """The folder of the run. One at an address is fetched, and what the verb has made is copied there at the end."""
    if "://" not in workdir:
        yield pathlib.Path(workdir)
        return
    from tsrec_jax.pipeline.lock import alone_in
    from tsrec_jax.pipeline.remote import fetch, local_folder
    from tsrec_jax.pipeline.workdir import Workdir
    from tsrec_jax.processes import gather

    local = local_folder(workdir)
    with alone_in(local.with_name(f"{local.name}.lock"), verb):
        fetch(workdir)
        gather(None)  # no process changes anything there before all have fetched it
        try:
            yield local
        except BaseException:
            try:
                Workdir(local).push()
            except Exception as second:  # the first error is the one to mend
                print(
                    f"tsrec: {workdir} lacks what was made since the last stage or checkpoint: {second}",
                    file=sys.stderr,
                )
            raise
        if verb not in ("recommend", "serve"):
            Workdir(local).push()


def main(arguments: Sequence[str]) -> int:
    """Runs one verb and returns the exit code.

    Args:
      arguments: what follows the program's name.
    """
    if not arguments or arguments[0] == "help" or {"-h", "--help"} & set(arguments):
        verb = next((argument for argument in arguments if argument in VERBS), "")
        print(_verb_usage(verb) if verb else USAGE)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"tsrec_jax {__version__}")
        return 0
    return _exit_code(lambda: _dispatch(arguments))


def _verb_usage(verb: str) -> str:
    """What `USAGE` says about a verb, and the flags that it takes."""
    words = USAGE.partition("verbs\n")[2].partition("\n\n")[0]
    texts = {found[1]: found[0] for found in re.finditer(r"^  (\w+)\b.*(?:\n {4}.*)*", words, re.MULTILINE)}
    text = texts[verb]
    taken = [name for name, verbs in ONLY_FOR.items() if verb in verbs]
    common = ["workdir"] if verb in NO_CONFIG else ["config", "workdir"]
    together = TOGETHER_FLAGS if verb in TOGETHER else ()
    lines = help_lines([*common, *taken, *together])
    return "\n".join([f"usage: python -m tsrec_jax {verb} [flags]", "", text, "", "flags", *lines])


def _exit_code(work: Callable[[], int | None]) -> int:
    """Does the work and says on stderr what ended it early; returns the exit code."""
    try:
        return work() or 0
    except UserError as error:
        print(f"tsrec: {error}", file=sys.stderr)
        return 2
    except Stopped as stop:
        print(f"tsrec: {stop}", file=sys.stderr)
        return 0
    except KeyboardInterrupt:
        print("tsrec: interrupted; the same command resumes from the last checkpoint", file=sys.stderr)
        return 1
    except Exception as error:
        if isinstance(error, OSError):
            folder = pathlib.Path(os.fsdecode(error.filename or "."))
            if mistake := no_space(error, folder) or not_allowed(error):
                print(f"tsrec: {mistake}", file=sys.stderr)
                return 2
        traceback.print_exc()
        from tsrec_jax.processes import lost

        if words := lost(error):
            print(f"tsrec: {words}", file=sys.stderr)
        return 1


def run() -> None:
    """Entry point of `tsrec` and `python -m tsrec_jax`."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it advises to install torch, which is not used
    sys.exit(main(sys.argv[1:]))
