"""Where a result comes from: the command, the code, the versions of what it uses, the machine, the inputs."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import jax

import tsrec_jax
from tsrec_jax.data.folder_files import sha256_of
from tsrec_jax.errors import UserError
from tsrec_jax.section import Section
from tsrec_jax.settings import section_facts

PACKAGES = (
    "jax",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "tensorflow-datasets",
    "transformers",
    "numpy",
)


def versions() -> dict[str, str]:
    """Version of Python and of each package that shapes a result."""
    found = {"python": platform.python_version(), "tsrec_jax": tsrec_jax.__version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str:
    """The git commit of the code that runs, marked when files differ from it; `unknown` outside a checkout.

    For code that was packed without its repository, the variable TSREC_COMMIT gives the commit.
    """
    packed = os.environ.get("TSREC_COMMIT")
    if packed:
        return packed
    here = pathlib.Path(__file__).resolve().parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")


def command() -> str:
    """The command that this process was started with."""
    return shlex.join(["python", "-m", "tsrec_jax", *sys.argv[1:]])


def machine() -> str:
    """The hardware in words: devices, processor, cores and memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kind = jax.devices()[0].device_kind
    return f"{jax.device_count()} x {kind} ({platform.machine()}), {os.cpu_count()} CPU cores, {memory:.0f} GiB memory"


def input_facts(section: Section, files: Sequence[str], without: Sequence[str] = ()) -> dict[str, Any]:
    """The facts of a section, in which the settings named in `files` are replaced by the contents of their files.

    So a file that moved is the same input, and a file with new contents is another.

    Raises:
      UserError: a file that a setting names is missing.
    """
    facts = section_facts(section, (*without, *files))
    for key in files:
        path, name = getattr(section, key), section.config_key(key)
        if path and pathlib.Path(path).is_dir():
            raise UserError(f"{name}={path!r} is a folder; name the file in it")
        if path and not pathlib.Path(path).is_file():
            raise UserError(f"{name}={path!r}: no such file; name the place where it is now")
        facts[f"SHA-256 of {section.key}.{key}"] = sha256_of(pathlib.Path(path)) if path else ""
    return facts


def fingerprint(inputs: Any) -> str:
    """A hash of JSON-like inputs that does not depend on key order."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:16]
