"""Descriptions and keywords for every SID token or path of a catalogue, by the backend that the settings name."""

from __future__ import annotations

import contextlib
import pathlib
import time
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tsrec_jax.data.catalogue import Catalogue, TokenDescription
from tsrec_jax.errors import UserError
from tsrec_jax.files import write_json
from tsrec_jax.progress import report
from tsrec_jax.teacher.answers import ANSWER_SCHEMA, BadAnswer, parse_answer
from tsrec_jax.teacher.ask import AskResult, ask_all
from tsrec_jax.teacher.backends import BACKENDS
from tsrec_jax.teacher.cache import AnswerCache, answer_key
from tsrec_jax.teacher.cost import Budget, Plan, cost_of, estimate_tokens
from tsrec_jax.teacher.groups import Group, groups_of
from tsrec_jax.teacher.pace import Clock
from tsrec_jax.teacher.questions import SAMPLE_RULE, Question, make_questions
from tsrec_jax.teacher.settings import DescribeSettings

FACTS_NAME = "teacher.json"
CACHE_NAME = "teacher_answers.jsonl"
LISTED = 100  # questions without an answer that an error names


def describe(
    catalogue: Catalogue,
    settings: DescribeSettings,
    folder: pathlib.Path,
    clock: Clock | None = None,
    *,
    numbered: bool = False,
) -> tuple[TokenDescription, ...]:
    """The teacher's words for every token, in the order of `catalogue.tokens`, or for every path, level by level.

    If a model is asked about paths, those with fewer than `least_items` items are left out: they get the words that the
    offline teacher finds when it compares the texts of these items with those of their siblings.

    If the last level is `numbered` (it only numbers the items with the same codes), its tokens get the words of
    `_numbering`, unless a file has words for them.

    Writes into `folder` how it was done (FACTS_NAME) and, for backends that ask a model, each answer as it arrives
    (CACHE_NAME). A run that was killed, or in which some questions failed, is continued by running it again: questions
    with an answer in the cache are not asked a second time.

    Raises:
      UserError: a missing key or SDK, a model that the server does not know, a faulty file, paths although there is
        only one level, or questions without an answer after the last attempt (the first LISTED of them are listed).
    """
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    failures: Mapping[str, str] = {}
    facts: dict[str, Any] = {}
    groups = _groups(catalogue, settings, numbered)
    if settings.asks_a_model:
        found, failures, facts = _ask_model(catalogue, groups, settings, folder, clock)
        few = [group for group in groups if not _asked(group, settings)]
        found |= {words.name: words for words in _counted(catalogue, few, settings)}
        facts |= {"least_items": settings.least_items, "counted": len(few)}
    else:
        local = BACKENDS[settings.backend].load()(catalogue, settings, catalogue.num_levels - numbered)
        found = {words.name: words for words in local}
    numbering = _numbering(catalogue) if numbered else ()
    found = {words.name: words for words in numbering} | found
    descriptions = _ordered(catalogue, found.values())
    wanted = len(groups) + len(numbering)
    shared = {"backend": settings.backend, "unit": settings.unit, "questions": wanted, "answers": len(descriptions)}
    seconds = time.monotonic() - start
    write_json(folder / FACTS_NAME, {**shared, **facts, "seconds": round(seconds, 1)}, indent=1)
    if failures:
        failed = [name for name in (group.name for group in groups) if name in failures]
        lines = [f"{name}: {failures[name]}" for name in failed[:LISTED]]
        lines += [f"and {len(failed) - LISTED} more"] if len(failed) > LISTED else []
        head = (
            f"{len(failed)} of {wanted} {settings.unit}s have no answer; the others are kept in "
            f"{folder / CACHE_NAME}, and the same command asks only for these:"
        )
        raise UserError("\n  ".join([head, *lines]))
    report(f"describe: {len(descriptions)} {settings.unit}s by the backend {settings.backend!r} in {seconds:.1f} s")
    return descriptions


def plan(catalogue: Catalogue, settings: DescribeSettings, folder: pathlib.Path, *, numbered: bool = False) -> Plan:
    """What `describe` would ask and cost; sends nothing, writes nothing and needs no key."""
    groups = _groups(catalogue, settings, numbered)
    if not settings.asks_a_model:
        count = len(groups) + (len(catalogue.level_tokens[-1]) if numbered else 0)
        return Plan(settings.backend, "", count, 0, 0, 0, None, settings.unit)
    questions = _questions(catalogue, groups, settings)
    known = _known(questions, _keys(questions, settings), AnswerCache(folder / CACHE_NAME))
    return _plan(questions, known, settings, len(groups) - len(questions))


def _ask_model(
    catalogue: Catalogue,
    groups: Sequence[Group],
    settings: DescribeSettings,
    folder: pathlib.Path,
    clock: Clock | None,
) -> tuple[dict[str, TokenDescription], Mapping[str, str], dict[str, Any]]:
    """{name: description}, {name: why it has none}, and the facts of the run."""
    questions = _questions(catalogue, groups, settings)
    keys, cache = _keys(questions, settings), AnswerCache(folder / CACHE_NAME)
    known = _known(questions, keys, cache)
    missing = [question for question in questions if question.name not in known]
    report(f"{_plan(questions, known, settings, len(groups) - len(questions))}")
    result = AskResult()
    if missing:
        with contextlib.closing(BACKENDS[settings.backend].load()(settings)) as teacher:
            budget = Budget(settings, *cache.spent())
            result = ask_all(missing, keys, teacher, cache, settings, clock, budget)
    facts = {
        "questions": len(questions),
        "model": settings.model,
        "server": urllib.parse.urlsplit(settings.base_url).hostname or "",
        "temperature": settings.temperature,
        "items_per_token": settings.items_per_token,
        "sample": SAMPLE_RULE,
        "num_keywords": settings.num_keywords,
        "cached": len(known),
        "failed": len(result.failures),
        "requests": result.requests,
        "input_tokens": result.input_tokens,
        "output_tokens": result.output_tokens,
        "cost": cost_of(settings, result.input_tokens, result.output_tokens),
    }
    return known | result.descriptions, result.failures, facts


def _groups(catalogue: Catalogue, settings: DescribeSettings, numbered: bool) -> tuple[Group, ...]:
    """The groups to describe, on all levels except a last one that only numbers items."""
    levels = catalogue.num_levels - numbered
    if settings.unit == "path" and levels < 2:
        raise UserError("config.describe.unit=path: the SIDs have one level, where a path is a token; set it to token")
    return groups_of(catalogue, settings.unit, levels)


def _asked(group: Group, settings: DescribeSettings) -> bool:
    """Whether a model is asked about a group."""
    return settings.unit == "token" or len(group.items) >= settings.least_items


def _counted(catalogue: Catalogue, groups: Sequence[Group], settings: DescribeSettings) -> tuple[TokenDescription, ...]:
    """Words for the groups that no model is asked about."""
    if not groups:
        return ()
    from tsrec_jax.teacher.backends.offline import describe_groups  # with scikit-learn

    return describe_groups(catalogue, groups, settings.num_keywords)


def _questions(catalogue: Catalogue, groups: Sequence[Group], settings: DescribeSettings) -> tuple[Question, ...]:
    return make_questions(catalogue, [group for group in groups if _asked(group, settings)], settings)


def _ordered(catalogue: Catalogue, descriptions: Iterable[TokenDescription]) -> tuple[TokenDescription, ...]:
    """The descriptions level by level, in the order of the tokens."""
    place = {token: number for number, token in enumerate(catalogue.tokens)}
    level_of = dict(zip(catalogue.tokens, catalogue.token_levels.tolist(), strict=True))
    return tuple(
        sorted(descriptions, key=lambda words: (level_of[words.token], *(place[token] for token in words.path)))
    )


def _plan(
    questions: Sequence[Question], known: Mapping[str, TokenDescription], settings: DescribeSettings, counted: int
) -> Plan:
    prompts = [question.prompt for question in questions if question.name not in known]
    tokens = estimate_tokens(prompts, settings.num_keywords)
    cost = cost_of(settings, *tokens)
    return Plan(settings.backend, settings.model, len(questions), len(known), *tokens, cost, settings.unit, counted)


def _keys(questions: Sequence[Question], settings: DescribeSettings) -> dict[str, str]:
    generation = {"temperature": settings.temperature, "format": settings.answer_format, "schema": ANSWER_SCHEMA}
    return {
        question.name: answer_key(settings.backend, settings.model, question.prompt, generation)
        for question in questions
    }


def _known(questions: Sequence[Question], keys: Mapping[str, str], cache: AnswerCache) -> dict[str, TokenDescription]:
    """The answers in the cache; if one does not pass today's checks, its question is asked again."""
    replies = cache.read()
    known = {}
    for question in questions:
        reply = replies.get(keys[question.name])
        if reply is None:
            continue
        try:
            known[question.name] = parse_answer(reply.text, question.group.token, question.group.prefix)
        except BadAnswer:
            continue
    return known


def _numbering(catalogue: Catalogue) -> tuple[TokenDescription, ...]:
    """Words for a last level that only numbers the items with the same codes (the collision policy `extra_level`).

    Its tokens say nothing about their items: the second item is second because it comes later in the item file. Words
    found in the items' texts would be chance, so every teacher gives the same plain words, and no model is asked.
    """
    descriptions = []
    for token in catalogue.level_tokens[-1]:
        place = _ordinal(int(token.rpartition("_")[2].removesuffix(">")) + 1)
        text = f"The {place} of the items that share every token before it."
        descriptions.append(TokenDescription(token, text, (f"{place} item",)))
    return tuple(descriptions)


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
