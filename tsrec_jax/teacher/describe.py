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
from tsrec_jax.teacher.ask import Manner, Outcome, ask_all
from tsrec_jax.teacher.backends import Teacher
from tsrec_jax.teacher.budget import Budget
from tsrec_jax.teacher.cache import AnswerCache, answer_key
from tsrec_jax.teacher.cost import Plan, cost_of, estimate_tokens
from tsrec_jax.teacher.file import file_clusters
from tsrec_jax.teacher.numbering import numbering_clusters
from tsrec_jax.teacher.offline import offline_clusters
from tsrec_jax.teacher.pace import Clock
from tsrec_jax.teacher.questions import SAMPLE_RULE, Question, make_questions
from tsrec_jax.teacher.settings import TeacherSettings

FACTS_NAME = "teacher.json"
CACHE_NAME = "teacher_answers.jsonl"


def describe(
    catalogue: Catalogue,
    settings: TeacherSettings,
    folder: pathlib.Path,
    report: Callable[[str], None],
    clock: Clock | None = None,
    *,
    numbered: bool = False,
) -> tuple[TokenDescription, ...]:
    """What the teacher says of every token, in the order of `catalogue.tokens`.

    Where the last level is `numbered` (it only counts the items of one code), its tokens get the words of
    `numbering_clusters`, unless a file has them.

    Writes into `folder` how it was done (FACTS_NAME) and, for backends that ask a model, each answer as it arrives
    (CACHE_NAME). A run that was killed, or in which some tokens failed, is continued by running it again: what the
    cache answers is not asked a second time.

    Raises:
      UserError: a missing key or SDK, a model that the server does not know, a faulty file, or tokens that have no
        answer after the last attempt (all of them are listed).
    """
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    if settings.asks_a_model:
        clusters, failures, facts = _ask_model(catalogue, settings, folder, report, clock, numbered)
    else:
        clusters, failures, facts = _local_clusters(catalogue, settings, numbered), {}, {}
    shared = {"backend": settings.backend, "questions": len(catalogue.tokens), "answers": len(clusters)}
    seconds = time.monotonic() - start
    write_json(folder / FACTS_NAME, {**shared, **facts, "seconds": round(seconds, 1)}, indent=1)
    if failures:
        raise UserError(_failure_text(failures, len(catalogue.tokens), folder / CACHE_NAME))
    report(f"describe: {len(clusters)} tokens by the backend {settings.backend!r} in {seconds:.1f} s")
    return clusters


def plan(catalogue: Catalogue, settings: TeacherSettings, folder: pathlib.Path, *, numbered: bool = False) -> Plan:
    """What `describe` would ask and cost; sends nothing, writes nothing and needs no key."""
    if not settings.asks_a_model:
        return Plan(settings.backend, "", len(catalogue.tokens), 0, 0, 0, None)
    questions = _questions(catalogue, settings, numbered)
    known = _known(questions, _keys(questions, settings), AnswerCache(folder / CACHE_NAME))
    prompts = [question.prompt for question in questions if question.token not in known]
    tokens = estimate_tokens(prompts, settings.num_keywords)
    cost = cost_of(*tokens, settings.input_price, settings.output_price)
    return Plan(settings.backend, settings.model, len(questions), len(known), *tokens, cost)


def _local_clusters(catalogue: Catalogue, settings: TeacherSettings, numbered: bool) -> tuple[TokenDescription, ...]:
    if settings.backend == "file":
        return file_clusters(settings.path, catalogue)
    if not numbered:
        return offline_clusters(catalogue, settings.num_keywords)
    coded = offline_clusters(catalogue, settings.num_keywords, catalogue.num_levels - 1)
    return coded + numbering_clusters(catalogue)


def _ask_model(
    catalogue: Catalogue,
    settings: TeacherSettings,
    folder: pathlib.Path,
    report: Callable[[str], None],
    clock: Clock | None,
    numbered: bool,
) -> tuple[tuple[TokenDescription, ...], Mapping[str, str], dict[str, Any]]:
    """The clusters, the tokens without one with their reasons, and the facts of the run."""
    questions = _questions(catalogue, settings, numbered)
    keys, cache = _keys(questions, settings), AnswerCache(folder / CACHE_NAME)
    known = _known(questions, keys, cache)
    missing = [question for question in questions if question.token not in known]
    report(f"{plan(catalogue, settings, folder, numbered=numbered)}")
    outcome = Outcome()
    if missing:
        manner = Manner(
            settings.concurrency,
            settings.requests_per_minute,
            settings.max_attempts,
            settings.input_price,
            settings.output_price,
        )
        with contextlib.closing(connect(settings)) as teacher:
            outcome = ask_all(missing, keys, teacher, cache, manner, report, clock, Budget(settings, *cache.spent()))
    found = known | outcome.clusters
    if numbered:
        found |= {cluster.token: cluster for cluster in numbering_clusters(catalogue)}
    facts = {
        "questions": len(questions),
        "model": settings.model,
        "server": urllib.parse.urlsplit(settings.base_url).hostname or "",
        "temperature": settings.temperature,
        "items_per_token": settings.items_per_token,
        "sample": SAMPLE_RULE,
        "num_keywords": settings.num_keywords,
        "cached": len(known),
        "failed": len(outcome.failures),
        "requests": outcome.requests,
        "input_tokens": outcome.input_tokens,
        "output_tokens": outcome.output_tokens,
        "cost": cost_of(outcome.input_tokens, outcome.output_tokens, settings.input_price, settings.output_price),
    }
    failures = {token: outcome.failures[token] for token in catalogue.tokens if token in outcome.failures}
    return tuple(found[token] for token in catalogue.tokens if token in found), failures, facts


def connect(settings: TeacherSettings) -> Teacher:
    """The network backend of the settings; imports its SDK and reads its key from the environment.

    Raises:
      UserError: the SDK is not installed or the key is not set.
    """
    if settings.backend == "gemini":
        from tsrec_jax.teacher.gemini import GeminiTeacher

        return GeminiTeacher(settings)
    if settings.backend == "gemini_legacy":
        from tsrec_jax.teacher.gemini_legacy import GeminiLegacyTeacher

        return GeminiLegacyTeacher(settings)
    from tsrec_jax.teacher.openai import OpenAITeacher

    return OpenAITeacher(settings)


def _questions(catalogue: Catalogue, settings: TeacherSettings, numbered: bool) -> tuple[Question, ...]:
    """What to ask: of every token, or of those that are not mere numbers."""
    levels = catalogue.num_levels - 1 if numbered else catalogue.num_levels
    questions = make_questions(
        catalogue,
        items_per_token=settings.items_per_token,
        num_keywords=settings.num_keywords,
        description_chars=settings.description_chars,
    )
    return tuple(question for question in questions if question.level < levels)


def _keys(questions: Sequence[Question], settings: TeacherSettings) -> dict[str, str]:
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


def _failure_text(failures: Mapping[str, str], count: int, cache: pathlib.Path) -> str:
    head = (
        f"{len(failures)} of {count} tokens have no answer; the others are kept in {cache}, and the same command asks "
        "only for these:"
    )
    return "\n  ".join([head, *(f"{token}: {reason}" for token, reason in failures.items())])
