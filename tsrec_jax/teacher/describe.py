"""Descriptions and keywords for every SID token of a catalogue, by the backend that the settings name."""

from __future__ import annotations

import contextlib
import pathlib
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tsrec_jax.data.catalogue import Catalogue, TokenDescription
from tsrec_jax.errors import UserError
from tsrec_jax.files import write_json
from tsrec_jax.teacher.answers import ANSWER_SCHEMA, BadAnswer, parse_answer
from tsrec_jax.teacher.ask import AskResult, ask_all
from tsrec_jax.teacher.backends import BACKENDS
from tsrec_jax.teacher.cache import AnswerCache, answer_key
from tsrec_jax.teacher.cost import Budget, Plan, cost_of, estimate_tokens
from tsrec_jax.teacher.pace import Clock
from tsrec_jax.teacher.questions import SAMPLE_RULE, Question, make_questions
from tsrec_jax.teacher.settings import DescribeSettings

FACTS_NAME = "teacher.json"
CACHE_NAME = "teacher_answers.jsonl"


def describe(
    catalogue: Catalogue,
    settings: DescribeSettings,
    folder: pathlib.Path,
    report: Callable[[str], None],
    clock: Clock | None = None,
    *,
    numbered: bool = False,
) -> tuple[TokenDescription, ...]:
    """What the teacher says of every token, in the order of `catalogue.tokens`.

    Where the last level is `numbered` (it only counts the items of one code), its tokens get the words of
    `_numbering`, unless a file has them.

    Writes into `folder` how it was done (FACTS_NAME) and, for backends that ask a model, each answer as it arrives
    (CACHE_NAME). A run that was killed, or in which some tokens failed, is continued by running it again: what the
    cache answers is not asked a second time.

    Raises:
      UserError: a missing key or SDK, a model that the server does not know, a faulty file, or tokens that have no
        answer after the last attempt (all of them are listed).
    """
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    failures: Mapping[str, str] = {}
    facts: dict[str, Any] = {}
    if settings.asks_a_model:
        found, failures, facts = _ask_model(catalogue, settings, folder, report, clock, numbered)
    else:
        local = BACKENDS[settings.backend].load()(catalogue, settings, _levels(catalogue, numbered))
        found = {words.token: words for words in local}
    if numbered:
        found = {words.token: words for words in _numbering(catalogue)} | found
    descriptions = tuple(found[token] for token in catalogue.tokens if token in found)
    shared = {"backend": settings.backend, "questions": len(catalogue.tokens), "answers": len(descriptions)}
    seconds = time.monotonic() - start
    write_json(folder / FACTS_NAME, {**shared, **facts, "seconds": round(seconds, 1)}, indent=1)
    if failures:
        lines = [f"{token}: {failures[token]}" for token in catalogue.tokens if token in failures]
        head = (
            f"{len(failures)} of {len(catalogue.tokens)} tokens have no answer; the others are kept in "
            f"{folder / CACHE_NAME}, and the same command asks only for these:"
        )
        raise UserError("\n  ".join([head, *lines]))
    report(f"describe: {len(descriptions)} tokens by the backend {settings.backend!r} in {seconds:.1f} s")
    return descriptions


def plan(catalogue: Catalogue, settings: DescribeSettings, folder: pathlib.Path, *, numbered: bool = False) -> Plan:
    """What `describe` would ask and cost; sends nothing, writes nothing and needs no key."""
    if not settings.asks_a_model:
        return Plan(settings.backend, "", len(catalogue.tokens), 0, 0, 0, None)
    questions = _questions(catalogue, settings, numbered)
    known = _known(questions, _keys(questions, settings), AnswerCache(folder / CACHE_NAME))
    return _plan(questions, known, settings)


def _ask_model(
    catalogue: Catalogue,
    settings: DescribeSettings,
    folder: pathlib.Path,
    report: Callable[[str], None],
    clock: Clock | None,
    numbered: bool,
) -> tuple[dict[str, TokenDescription], Mapping[str, str], dict[str, Any]]:
    """{token: description}, {token: why it has none}, and the facts of the run."""
    questions = _questions(catalogue, settings, numbered)
    keys, cache = _keys(questions, settings), AnswerCache(folder / CACHE_NAME)
    known = _known(questions, keys, cache)
    missing = [question for question in questions if question.token not in known]
    report(f"{_plan(questions, known, settings)}")
    result = AskResult()
    if missing:
        with contextlib.closing(BACKENDS[settings.backend].load()(settings)) as teacher:
            budget = Budget(settings, *cache.spent())
            result = ask_all(missing, keys, teacher, cache, settings, report, clock, budget)
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


def _levels(catalogue: Catalogue, numbered: bool) -> int:
    """Levels whose tokens are more than numbers."""
    return catalogue.num_levels - numbered


def _questions(catalogue: Catalogue, settings: DescribeSettings, numbered: bool) -> tuple[Question, ...]:
    """What to ask: of every token, or of those that are more than numbers."""
    levels = _levels(catalogue, numbered)
    return tuple(question for question in make_questions(catalogue, settings) if question.level < levels)


def _plan(questions: Sequence[Question], known: Mapping[str, TokenDescription], settings: DescribeSettings) -> Plan:
    prompts = [question.prompt for question in questions if question.token not in known]
    tokens = estimate_tokens(prompts, settings.num_keywords)
    return Plan(settings.backend, settings.model, len(questions), len(known), *tokens, cost_of(settings, *tokens))


def _keys(questions: Sequence[Question], settings: DescribeSettings) -> dict[str, str]:
    generation = {"temperature": settings.temperature, "format": settings.answer_format, "schema": ANSWER_SCHEMA}
    return {
        question.token: answer_key(settings.backend, settings.model, question.prompt, generation)
        for question in questions
    }


def _known(questions: Sequence[Question], keys: Mapping[str, str], cache: AnswerCache) -> dict[str, TokenDescription]:
    """What the cache answers; an answer that does not pass today's checks is asked again."""
    replies = cache.read()
    known = {}
    for question in questions:
        reply = replies.get(keys[question.token])
        if reply is None:
            continue
        try:
            known[question.token] = parse_answer(reply.text, question.token)
        except BadAnswer:
            continue
    return known


def _numbering(catalogue: Catalogue) -> tuple[TokenDescription, ...]:
    """Words for a last level that only numbers the items of one code (the collision policy `extra_level`).

    Its tokens say nothing of their items: a code's second item is second because it stands later in the item file.
    Words found in them would be chance, so they get the same plain ones from every teacher, and no model is asked.
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
