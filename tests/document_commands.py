"""Reads the commands that documents give: from code blocks, inline code and the docstrings of scripts and configs."""

import ast
import dataclasses
import inspect
import json
import pathlib
import re
import shlex
from collections.abc import Iterator, Sequence

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SCRIPTS = sorted(path for folder in ("benchmarks", "configs") for path in (ROOT / folder).rglob("*.py"))
REPORTS = sorted((ROOT / "docs" / "results").glob("*.json"))

OURS = ("tsrec", "python", "bash", "source")
OTHERS = (
    "pip",
    "curl",
    "docker",
    "gcloud",
    "export",
    "eval",
    "ssh-add",
    "tensorboard",
    "sha256sum",
    "trec_eval",
    "python3.12",
    "image/bin/pip",
)
WRAPPERS = {"nice": ("-n",), "taskset": ("-c",), "env": (), "exec": ()}  # programs that start another, with their flags
ENDS = ("&&", "||", "|", ";", "&")
SHELLS = ("", "bash", "sh", "console")  # languages of code blocks that hold commands
# What a report says about a command that today's code no longer accepts: `command` (runs at commit `0123abc`).
HISTORICAL = re.compile(r"^[\s`,.]*\(runs at commit `([0-9a-f]{7,40})`")


@dataclasses.dataclass(frozen=True)
class Command:
    """A command and its place.

    Attributes:
      place: document and line, as in `docs/tpu.md:52`.
      words: program and arguments, without variables and wrappers before them.
      variables: those set for it, as in `PYTHONPATH=.`.
      commit: at which it runs, where that is not HEAD; else empty.
    """

    place: str
    words: tuple[str, ...]
    variables: tuple[str, ...] = ()
    commit: str = ""

    @property
    def text(self) -> str:
        return shlex.join(self.words)


class UnknownProgram(ValueError):
    """A code block contains a line that does not begin with a known program."""


def commands_of(path: pathlib.Path) -> list[Command]:
    """All commands of a document (`.md`), a report (`.json`) or a script's docstring (`.py`).

    Raises:
      UnknownProgram: with the place and the way out.
    """
    name, text = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return list(_of_report(name, json.loads(text)))
    if path.suffix == ".py":
        text = inspect.cleandoc(ast.get_docstring(ast.parse(text), clean=False) or "")
    return list(of_markdown(name, text))


def _of_report(name: str, facts: object) -> Iterator[Command]:
    found = facts if isinstance(facts, dict) else {}
    for part in (found, found.get("about", {})):
        if "command" in part:
            yield from _of_shell(name, part["command"], known_only=False)


def of_markdown(name: str, text: str) -> Iterator[Command]:
    lines = text.splitlines()
    prose: list[str] = []
    number = 0
    while number < len(lines):
        fence = re.match(r" *```(\w*)\s*$", lines[number])
        if fence:
            end = next((n for n in range(number + 1, len(lines)) if lines[n].strip() == "```"), len(lines))
            if fence[1] in SHELLS:
                block = "\n".join(lines[number + 1 : end])
                yield from _of_shell(name, block, known_only=not fence[1], first=number + 2)
            prose += [""] * (end + 1 - number)
            number = end + 1
        elif lines[number].startswith("    ") and not (prose and prose[-1].strip()):
            end = next((n for n in range(number, len(lines)) if not lines[n].startswith("    ")), len(lines))
            yield from _of_shell(name, "\n".join(lines[number:end]), known_only=True, first=number + 1)
            prose += [""] * (end - number)
            number = end
        else:
            prose.append(lines[number])
            number += 1
    joined = "\n".join(prose)
    for span in re.finditer(r"(?<!`)`((?:[^`\n]|\n(?!\s*\n))+)`(?!`)", joined):
        place = f"{name}:{joined.count(chr(10), 0, span.start()) + 1}"
        historical = HISTORICAL.match(joined[span.end() :])
        for command in _of_shell(place, span[1].replace("\n", " "), known_only=True):
            yield dataclasses.replace(command, commit=historical[1] if historical else "")


def _of_shell(place: str, text: str, known_only: bool, first: int = 0) -> Iterator[Command]:
    """Commands of shell text that begins in line `first`; 0: the place is that of all.

    With `known_only`, text that does not begin with a known program is something else.
    """
    for number, line in _whole_lines(text):
        here = f"{place}:{first + number}" if first else place
        for variables, words in _simple_commands(line):
            words = (words[0].removeprefix(".venv/bin/"), *words[1:])
            program = words[0]
            if known_only and program.endswith(".sh") and "/" not in program:
                continue  # a script that is spoken of
            if program.endswith(".sh"):
                words = ("bash", *words)
            elif program.startswith("benchmarks/") and program.endswith(".py"):
                words = ("python", *words)
            elif program not in (*OURS, *OTHERS):
                if not known_only:
                    raise UnknownProgram(
                        f"{here}: {program!r} is no program that tests/document_commands.py knows; add it there to "
                        "OTHERS, or, where it is one of ours, to OURS with a test of its commands"
                    )
                continue
            if program == "python" and not (words[1] == "-m" or words[1].endswith(".py")):
                continue  # its version
            yield Command(here, words, variables)


def _whole_lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """The words of each command line and the number of its first line, from 0; a backslash or an open quotation joins
    lines."""
    waiting, first = "", 0
    for number, line in enumerate(text.splitlines()):
        first = first if waiting else number
        waiting += line
        if line.endswith("\\"):
            waiting = waiting[:-1]
            continue
        lexer = shlex.shlex(waiting, posix=True, punctuation_chars="();<>|&")
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # a quotation is open
            waiting += "\n"
            continue
        waiting = ""
        yield first, words


def _simple_commands(words: Sequence[str]) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Variables and words of the commands of a line, without wrappers and the brackets of a synopsis."""
    command: list[str] = []
    variables: list[str] = []
    for word in [*words, ";"]:
        if word not in ENDS:
            command.append(word)
            continue
        while command and (re.fullmatch(r"[A-Z_]+=.*", command[0]) or command[0] in WRAPPERS):
            if command[0] not in WRAPPERS:
                variables.append(command.pop(0))
                continue
            flags = WRAPPERS[command.pop(0)]
            while command and command[0] in flags:
                del command[:2]
        plain = [part[1:-1] if part.startswith("[") else part for part in command]
        if plain and plain[0] == "python" and "..." in plain:
            plain.remove("...")
        if plain:
            yield tuple(variables), tuple(plain)
        command, variables = [], []
