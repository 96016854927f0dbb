"""Gemini through Google's maintained SDK, google-genai."""

from __future__ import annotations

import re
from typing import Any

from tsrec_jax.errors import UserError
from tsrec_jax.teacher.answers import ANSWER_SCHEMA
from tsrec_jax.teacher.backends.protocol import (
    Key,
    Refused,
    Reply,
    Retryable,
    failure_of_status,
    reading_reply,
    retry_after_seconds,
    transport_errors,
)
from tsrec_jax.teacher.settings import DescribeSettings

_DELAY = re.compile(r"([\d.]+)s")


class GeminiTeacher:
    """Asks a Gemini model for JSON of a given schema.

    Raises:
      UserError: the SDK is not installed, or GEMINI_API_KEY and GOOGLE_API_KEY are both unset.
    """

    def __init__(self, settings: DescribeSettings) -> None:
        try:
            from google import genai
            from google.genai import errors, types
        except ImportError:
            raise UserError(
                "config.describe.backend='gemini' needs google-genai: pip install 'tsrec_jax[gemini]'"
            ) from None
        self._key = Key.from_environment("GEMINI_API_KEY", "GOOGLE_API_KEY")
        self._model = settings.model
        self._errors = errors
        self._client = genai.Client(
            api_key=self._key.secret,
            vertexai=False,
            http_options=types.HttpOptions(
                base_url=settings.base_url or None,
                timeout=int(settings.timeout_seconds * 1000),  # milliseconds
                retry_options=types.HttpRetryOptions(attempts=1),
            ),
        )
        self._config = types.GenerateContentConfig(
            temperature=settings.temperature if settings.temperature >= 0 else None,
            response_mime_type="application/json",
            response_json_schema=ANSWER_SCHEMA,
        )

    def ask(self, prompt: str) -> Reply:
        """See `Teacher`."""
        try:
            with reading_reply(self._key):
                answer = self._client.models.generate_content(model=self._model, contents=prompt, config=self._config)
                return self._reply(answer)
        except self._errors.APIError as error:
            retry_after = retry_after_seconds(getattr(error.response, "headers", None)) or _delay(error.details)
            raise failure_of_status(error.code, str(error.message or error), self._key, retry_after) from None
        except transport_errors() as error:
            raise Retryable(self._key.scrub_line(f"{type(error).__name__}: {error}")) from None

    def close(self) -> None:
        """See `Teacher`."""
        self._client.close()

    def _reply(self, answer: Any) -> Reply:
        feedback = answer.prompt_feedback
        if feedback is not None and feedback.block_reason:
            raise Refused(f"the prompt was blocked ({_name(feedback.block_reason)})")
        if not answer.candidates:
            raise Refused("the server sent no candidate")
        candidate = answer.candidates[0]
        finish = _name(candidate.finish_reason)
        reply = self._paid(candidate, answer.usage_metadata)
        if finish == "MAX_TOKENS":
            raise Refused("the answer was cut off at the model's output limit", reply)
        if finish not in ("STOP", "FINISH_REASON_UNSPECIFIED", ""):
            raise Refused(f"the answer was withheld ({finish})", reply)
        return reply

    def _paid(self, candidate: Any, usage: Any) -> Reply:
        """The candidate's text and the tokens that it cost."""
        parts = (candidate.content.parts if candidate.content else None) or []
        text = self._key.scrub("".join(part.text or "" for part in parts if not part.thought))
        if usage is None:
            return Reply(text)
        output_tokens = (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)
        return Reply(text, usage.prompt_token_count or 0, output_tokens)


def _name(reason: Any) -> str:
    return "" if reason is None else str(getattr(reason, "name", reason))


def _delay(details: Any) -> float:
    """Seconds to wait from the RetryInfo that Gemini puts into the body of a 429."""
    error = details.get("error", details) if isinstance(details, dict) else {}
    for detail in error.get("details") or []:
        found = _DELAY.fullmatch(str(detail.get("retryDelay", ""))) if isinstance(detail, dict) else None
        if found:
            return float(found.group(1))
    return 0.0
