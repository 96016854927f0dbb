"""The stage `describe`: words for each SID token, in the folder `describe/` of the workdir."""

from __future__ import annotations

import hashlib
import json
import pathlib
from typing import Any

from tsrec_jax.data.catalogue import Catalogue, TokenDescription
from tsrec_jax.data.dataset import DESCRIPTIONS_FILE
from tsrec_jax.data.token_descriptions import read_token_descriptions, write_token_descriptions
from tsrec_jax.files import read_facts, write_json
from tsrec_jax.pipeline.provenance import input_facts
from tsrec_jax.progress import report
from tsrec_jax.teacher.backends import BACKENDS
from tsrec_jax.teacher.cost import Plan
from tsrec_jax.teacher.describe import CACHE_NAME, describe, plan
from tsrec_jax.teacher.settings import DescribeSettings
from tsrec_jax.training.checkpoints import refuse_differences

FOLDER = "describe"
IDENTITY = "identity.json"  # what finished words were made with
# Settings that do not shape the words, only how fast they come and what they cost.
LOGISTICS = ("words", "concurrency", "requests_per_minute", "max_attempts", "timeout_seconds", "input_price",
             "output_price", "max_questions", "max_cost")  # fmt: skip


def describe_tokens(
    settings: DescribeSettings, path: pathlib.Path, catalogue: Catalogue, numbered: bool
) -> tuple[TokenDescription, ...]:
    """Asks the teacher for the words of all tokens; finished words are read back and never changed.

    Args:
      settings: the teacher's settings.
      path: receives the folder `describe`, with the teacher's answers and the keyword file.
      catalogue: the items and their SIDs.
      numbered: whether the last level only counts the items with the same code.

    Raises:
      UserError: the teacher fails, or `path` holds the words of other settings or items.
    """
    folder = path / FOLDER
    identity = _identity(settings, catalogue)
    file = folder / DESCRIPTIONS_FILE.lstrip(".")
    if file.exists():
        made_with = _shaping(read_facts(folder / IDENTITY, f"delete {file}, and the words are made again"))
        answers = folder / CACHE_NAME
        hint = f"; copy {answers} to a new one, and what it answers is not asked again" if answers.exists() else ""
        refuse_differences(folder, made_with, identity, hint)
        report("describe: finished before, skipped")
    else:
        token_descriptions = describe(catalogue, settings, folder, numbered=numbered)
        write_json(folder / IDENTITY, identity)
        write_token_descriptions(file, token_descriptions)
    return tuple(read_token_descriptions(file, catalogue).values())


def _identity(settings: DescribeSettings, catalogue: Catalogue) -> dict[str, Any]:
    """What determines the words."""
    files = ("path",) if settings.backend == "file" else ()
    return _shaping({"data": _catalogue_hash(catalogue), **input_facts(settings, files, LOGISTICS)})


def _shaping(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts without the path settings if those had no effect, so that token words keep the identity that they had
    before there were such settings."""
    paths = facts.get("describe.unit", "token") == "path"
    asked = paths and BACKENDS[facts["describe.backend"]].asks_a_model
    idle = {"describe.unit": not paths, "describe.least_items": not asked}
    return {key: value for key, value in facts.items() if not idle.get(key, False)}


def plan_description(settings: DescribeSettings, path: pathlib.Path, catalogue: Catalogue, numbered: bool) -> Plan:
    """What `describe_tokens` would ask and what it might cost; asks nothing."""
    return plan(catalogue, settings, path / FOLDER, numbered=numbered)


def _catalogue_hash(catalogue: Catalogue) -> str:
    digest = hashlib.sha256()
    for item, sid in zip(catalogue.items, catalogue.sids, strict=True):
        digest.update(json.dumps([*item.read_by_models.values(), *sid]).encode())
    return digest.hexdigest()
