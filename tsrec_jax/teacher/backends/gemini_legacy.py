"""Gemini through google-generativeai, for accounts that are still tied to it.

Google ended support for this SDK on 2025-11-30; its successor is google-genai (`gemini`). It pins protobuf below 6 and
so belongs in an environment of its own. Nothing else in the package imports it.
"""

from __future__ import annotations

from typing import Any

from tsrec_jax.errors import UserError
from tsrec_jax.teacher.backends.protocol import (
    Key,
    Refused,
    Reply,
    Retryable,
    failure_of_status,
    reading_reply,
    retry_after_seconds,
)
from tsrec_jax.teacher.settings import DescribeSettings


class GeminiLegacyTeacher:
    """Asks a Gemini model for JSON, over REST.

    Raises:
      UserError: the SDK is not installed, or GEMINI_API_KEY and GOOGLE_API_KEY are both unset.
    """

    def __init__(self, settings: DescribeSettings) -> None:
        try:
            import google.generativeai as genai
            import requests
            from google.api_core import exceptions
            from google.protobuf.json_format import ParseError
        except ImportError:
            raise UserError(
                "config.describe.backend='gemini_legacy' needs google-generativeai, whose support ended on 2025-11-30 "
                "and which pins protobuf < 6: pip install 'tsrec_jax[gemini_legacy]' in an environment of its own, or "
                "use the backend 'gemini'"
            ) from None
        self._key = Key.from_environment("GEMINI_API_KEY", "GOOGLE_API_KEY")
        self._call_error = exceptions.GoogleAPICallError
        self._broken = (exceptions.RetryError, requests.RequestException, OSError, ParseError)
        options = {"api_endpoint": settings.base_url} if settings.base_url else None
        genai.configure(api_key=self._key.secret, transport="rest", client_options=options)
        generation: dict[str, Any] = {"response_mime_type": "application/json"}
        if settings.temperature >= 0:
            generation["temperature"] = settings.temperature
        self._model = genai.GenerativeModel(settings.model, generation_config=generation)
        self._options = {"timeout": settings.timeout_seconds, "retry": None}

    def ask(self, prompt: str) -> Reply:
        """See `Teacher`."""
        try:
            with reading_reply(self._key):
                return self._reply(self._model.generate_content(prompt, request_options=self._options))
        except self._call_error as error:
            headers = getattr(error.response, "headers", None)
            raise failure_of_status(
                int(error.code or 500), str(error.message), self._key, retry_after_seconds(headers)
            ) from None
        except self._broken as error:
            raise Retryable(self._key.scrub_line(f"{type(error).__name__}: {error}")) from None

    def close(self) -> None:
        """Does nothing: this SDK keeps its connections to itself."""

    def _reply(self, answer: Any) -> Reply:
        if answer.prompt_feedback.block_reason:
            raise Refused(f"the prompt was blocked ({answer.prompt_feedback.block_reason.name})")
        if not answer.candidates:
            raise Refused("the server sent no candidate")
        candidate = answer.candidates[0]
        finish = candidate.finish_reason.name
        if finish == "MAX_TOKENS":
            raise Refused("the answer was cut off at the model's output limit")
        if finish not in ("STOP", "FINISH_REASON_UNSPECIFIED"):
            raise Refused(f"the answer was withheld ({finish})")
        text = self._key.scrub("".join(part.text for part in candidate.content.parts))
        usage = answer.usage_metadata
        return Reply(text, usage.prompt_token_count, usage.candidates_token_count)
