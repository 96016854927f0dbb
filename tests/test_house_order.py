"""No module of the package imports in a circle, and none imports a room above its own (see CONTRIBUTING.md)."""

import ast
import collections
import graphlib
import pathlib

import pytest

import tsrec_jax

PACKAGE = pathlib.Path(tsrec_jax.__file__).parent
# From the ground up. A room may import those below it and those of its own floor that come before it.
FLOORS = (
    ("errors", "files", "processes", "cache", "text_table", "section", "progress"),
    ("text",),
    ("data",),
    ("prepare", "shop", "models"),
    ("sid", "teacher", "decoding", "baselines"),
    ("training",),
    ("evaluation", "planning"),
    ("serving",),
    ("settings", "old_keys", "configuration", "experiments", "command_flags", "configs"),
    ("pipeline",),
    ("main", "__main__"),
)
EXCEPTIONS = {}
