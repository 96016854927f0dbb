"""The flags of the command line: which there are, how a command is read, and how a verb's help shows them."""

from __future__ import annotations

import dataclasses
import math
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from tsrec_jax.errors import UserError
from tsrec_jax.experiments import experiment_file
from tsrec_jax.old_keys import OLD_MODULE, OLD_MODULE_NOW, what_became_of, what_became_of_last
from tsrec_jax.section import near
from tsrec_jax.serving.settings import ServerSettings


def define_flags() -> flags.FlagValues:
    """All flags with their defaults."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config",
        None,
        "experiment file, or the name of one of the package; --config.a.b=VALUE changes a key",
        lock_config=True,
        flag_values=values,
    )
    flags.DEFINE_string("workdir", None, "folder or address of the run", flag_values=values)
    flags.DEFINE_list("arms", [], "study: arms and baselines to work on; none: all", flag_values=values)
    flags.DEFINE_list("seeds", [], "study: seeds to work on; none: all", flag_values=values)
    flags.DEFINE_string("history", None, "item ids, oldest first, separated by commas", flag_values=values)
    flags.DEFINE_multi_string(
        "item", [], "one id of the history as it is, commas and blanks included; repeat it for each", flag_values=values
    )
    flags.DEFINE_string("histories", None, "recommend: file of many histories", flag_values=values)
    flags.DEFINE_string("out", None, "recommend: file for what is recommended to them", flag_values=values)
    flags.DEFINE_enum(
        "unknown",
        "refuse",
        ["refuse", "skip"],
        "recommend: whether an unknown item in --histories ends the work (refuse) or is left out (skip)",
        flag_values=values,
    )
    flags.DEFINE_boolean("multi_host", False, "one of several processes that JAX can find itself", flag_values=values)
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0", flag_values=values)
    flags.DEFINE_integer("num_processes", None, "processes of the run", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("process_id", None, "which of them this is, from 0", lower_bound=0, flag_values=values)
    flags.DEFINE_integer(
        "heartbeat_seconds", None, "silence after which a process is taken for dead", lower_bound=1, flag_values=values
    )
    flags.DEFINE_boolean("dry_run", False, "describe: say what would be asked, ask nothing", flag_values=values)
    flags.DEFINE_string("profile", "", "train, run: first and last step of a trace, as in 10:13", flag_values=values)
    flags.DEFINE_string(
        "chip", "", "plan: v4, v5e, v5p, v6e, a100, h100 or h200; none: all of them", flag_values=values
    )
    flags.DEFINE_integer(
        "devices", 0, "plan: chips of the machine; 0: what the mesh names", lower_bound=0, flag_values=values
    )
    flags.DEFINE_float("mfu", 0.4, "plan: share of the peak that a step is taken to reach", flag_values=values)
    flags.DEFINE_integer("k", 10, "number of items to recommend", lower_bound=1, flag_values=values)
    flags.DEFINE_string(
        "catalogue",
        None,
        "recommend, serve, catalogue, code: file with the changes of the catalogue; none: the one beside the export",
        flag_values=values,
    )
    flags.DEFINE_string("title", "", "catalogue: title of the item to add", flag_values=values)
    flags.DEFINE_string("sid", "", "catalogue: SID of the item to add, as in <a_1><b_2><c_3>", flag_values=values)
    flags.DEFINE_string(
        "who", "", "catalogue: who makes the change; none: this user of this machine", flag_values=values
    )
    flags.DEFINE_integer(
        "after",
        0,
        "catalogue: number of the change behind which the journal is shown",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_string(
        "export", None, "serve, catalogue, code: an exported folder, instead of a workdir's", flag_values=values
    )
    flags.DEFINE_string(
        "encoder",
        None,
        "serve, code: folder or hub id of what embeds item texts; none: as the export says",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "weights",
        "full",
        ["full", "int8"],
        "recommend, serve: how the model's matrices are held, in float32 (full) or in eight bits (int8)",
        flag_values=values,
    )
    flags.DEFINE_integer("beams", None, "serve: width of the search", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("max_batch", None, "serve: requests computed together", lower_bound=1, flag_values=values)
    defines: dict[type, Any] = {
        str: flags.DEFINE_string,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        bool: flags.DEFINE_boolean,
    }
    for field in dataclasses.fields(ServerSettings):
        defines[type(field.default)](field.name, field.default, f"serve: {field.metadata['doc']}", flag_values=values)
    return values


def parse(arguments: Sequence[str]) -> tuple[flags.FlagValues, list[str]]:
    """The flags of a command, and its other words.

    Raises:
      UserError: a flag or config key that does not exist (the nearest one is named), a value that makes no sense, or an
        experiment that does not exist or fails.
    """
    changed = [found[1] for argument in arguments if (found := re.match(r"--?config\.([^=]+)", argument))]
    for key in changed:
        if line := what_became_of(key):
            raise UserError(line)
    values = define_flags()
    # ml_collections looks for the --config.a.b overrides in sys.argv.
    saved, sys.argv = sys.argv, ["tsrec_jax", *_with_config_file(arguments)]
    try:
        rest = values(sys.argv)[1:]
        if values.config is not None:
            values.config.to_dict()  # a file that failed to load says so only when its config is used
    except flags.UnrecognizedFlagError as error:
        raise UserError(_no_such_flag(error.flagname, values)) from None
    except flags.Error as error:
        raise UserError(str(error)) from None
    except Exception as error:  # an override without a key, or whatever the experiment file raises: the user's code
        raise UserError(f"config: {_reason(error, changed)}") from None
    finally:
        sys.argv = saved
    for name in values:
        given = values[name].value
        if isinstance(given, float) and not math.isfinite(given):
            raise UserError(f"--{name}={given}: must be a finite number")
    return values, rest


def help_lines(names: Iterable[str]) -> list[str]:
    """A line for each of these flags, with its default and its meaning."""
    values = define_flags()
    lines = []
    for name in names:
        default = values[name].default
        shown = f"--{name}" if default in (None, "", []) or default is False else f"--{name}={default}"
        meaning = values[name].help.splitlines()[0].rstrip(";")  # absl adds a line to a flag that may be repeated
        meaning = re.sub(r"^(?:<[\w|]+>: )?(?:\w+, )*\w+: ", "", meaning)  # without the choices and verbs before it
        lines.append(f"  {shown:<24} {meaning}")
    return lines


def _with_config_file(arguments: Sequence[str]) -> list[str]:
    """The arguments with the file of the experiment that --config names."""
    found = list(arguments)
    for place, argument in enumerate(arguments):
        name, given, value = argument.partition("=")
        if name not in ("--config", "-config"):
            continue
        if given:
            found[place] = f"--config={experiment_file(value)}"
        elif place + 1 < len(arguments):
            found[place + 1] = str(experiment_file(arguments[place + 1]))
    return found


def _no_such_flag(name: str, known: Iterable[str]) -> str:
    return f"--{name}: no such flag{near(name, known, '--{}')}; `tsrec VERB --help` lists those of a verb"


def _reason(error: Exception, changed: Sequence[str]) -> str:
    """One line about an error of ml_collections, of an override of one of `changed`, or of an experiment file."""
    text = " ".join(str(error).replace("\\n", " ").replace("\\'", "'").split())
    if isinstance(error, ModuleNotFoundError) and error.name == OLD_MODULE:
        return f"{text}; {OLD_MODULE_NOW}"
    missing = re.search(r"\w+", text.replace("Key ", "", 1))
    if missing is None or not _of_a_config(error):
        return f"{type(error).__name__}: {text}"
    meant = re.search(r'Did you mean "(\w+)"', text)
    hint = f"did you mean {meant[1]!r}?" if meant else ""
    if not any(
        key.rpartition(".")[2] == missing[0] for key in changed
    ):  # the whole key of an override is known not to be old
        hint = what_became_of_last(missing[0]) or hint
    return f"no such key: {missing[0]!r}{hint and '; '}{hint}"


def _of_a_config(error: Exception) -> bool:
    """Whether ml_collections raised it for a missing config key, rather than the user's own code for some other key."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_by = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    return isinstance(error, AttributeError | KeyError) and raised_by.startswith("ml_collections.config_dict")
