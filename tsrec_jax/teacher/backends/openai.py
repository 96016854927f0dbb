"""Any server that speaks OpenAI's chat completions, through the openai SDK."""

from __future__ import annotations

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
)
from tsrec_jax.teacher.settings import DescribeSettings

_FORMATS = {
    "schema": {
        "type": "json_schema",
        "json_schema": {"name": "cluster", "strict": True, "schema": ANSWER_SCHEMA},
    },
    "object": {"type": "json_object"},
}


class OpenAITeacher:
    """Asks a model by chat completions. A server at your own `base_url` may need no key.

    Raises:
      UserError: the SDK is not installed, or OPENAI_API_KEY is unset and no `base_url` is given.
    """

    def __init__(self, settings: DescribeSettings) -> None:
        try:
            import openai
        except ImportError:
            raise UserError("config.describe.backend='openai' needs openai: pip install 'tsrec_jax[openai]'") from None
        self._key = Key.from_environment("OPENAI_API_KEY", required=not settings.base_url)
        self._openai = openai
        self._client = openai.OpenAI(
            api_key=self._key.secret or "none",  # the SDK insists on one
            base_url=settings.base_url or None,
            timeout=settings.timeout_seconds,
            max_retries=0,
        )
        self._request: dict[str, Any] = {"model": settings.model}
        if settings.temperature >= 0:
            self._request["temperature"] = settings.temperature
        if settings.answer_format in _FORMATS:
            self._request["response_format"] = _FORMATS[settings.answer_format]

    def ask(self, prompt: str) -> Reply:
        """See `Teacher`."""
        request = {**self._request, "messages": [{"role": "user", "content": prompt}]}
        try:
            with reading_reply(self._key):
                return self._reply(self._client.chat.completions.create(**request))
        except self._openai.APIStatusError as error:
            retry_after = retry_after_seconds(error.response.headers)
            code = str(error.code or "")
            message = f"{code}: {error.message}" if code else error.message
            raise failure_of_status(error.status_code, message, self._key, retry_after, code) from None
        except self._openai.APIConnectionError as error:  # time-outs too
            cause = f"{type(error).__name__}: {error.__cause__ or error}"
            raise Retryable(self._key.scrub_line(cause)) from None
        except self._openai.APIError as error:
            raise Retryable(self._key.scrub_line(f"the server's reply is not readable: {error}")) from None

    def close(self) -> None:
        """See `Teacher`."""
        self._client.close()

    def _reply(self, answer: Any) -> Reply:
        choices = getattr(answer, "choices", None)
        if not choices:
            raise Refused("the server sent no choice")
        message, finish = choices[0].message, choices[0].finish_reason
        text = self._key.scrub(message.content or "")
        reply = Reply(text, _tokens(answer.usage, "prompt_tokens"), _tokens(answer.usage, "completion_tokens"))
        if getattr(message, "refusal", None):
            raise Refused(self._key.scrub_line(f"the model refused: {message.refusal}"), reply)
        if finish == "content_filter":
            raise Refused("the answer was withheld (content_filter)", reply)
        if finish == "length":
            raise Refused("the answer was cut off at the model's output limit", reply)
        return reply


def _tokens(usage: Any, name: str) -> int:
    """The server's count; 0 if it is missing or not an integer, which does not make the answer any worse."""
    count = getattr(usage, name, 0)
    return count if isinstance(count, int) else 0
