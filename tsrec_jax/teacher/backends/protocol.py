"""The interface of every teacher that asks a model, and the exceptions for its failures."""

from __future__ import annotations

import contextlib
import dataclasses
import email.utils
import os
import sys
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from tsrec_jax.errors import UserError

LONGEST_MESSAGE = 300  # number of characters of a server's message that are passed on
_RETRIED_STATUS = (408, 409, 425, 429)


@dataclasses.dataclass(frozen=True)
class Reply:
    """A model's answer and what it cost; 0 tokens if the server does not say.

    Raises:
      TypeError: the answer is not a text; a server that follows no schema may send such an answer.
    """

    text: str
    input_tokens: int = 0
    output_tokens: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise TypeError(f"the answer is a {type(self.text).__name__}, not a text")


class Teacher(Protocol):
    """A model that answers prompts; `ask` is called from several threads at once."""

    def ask(self, prompt: str) -> Reply:
        """One request, without retries of its own.

        Raises:
          Retryable, Refused, Rejected: this question has no answer yet.
          UserError: no question can be answered like this (key, model, address).
        """
        ...

    def close(self) -> None:
        """Closes the connections; nothing is asked afterwards."""
        ...


class Retryable(Exception):
    """The same request may succeed later, not before `retry_after` seconds if the server names a time."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Refused(Exception):
    """The model or a filter of its server declined to answer, or did not finish; another attempt may succeed.

    `reply` is what came nevertheless and must be paid for, if the server says so.
    """

    def __init__(self, reason: str, reply: Reply | None = None) -> None:
        super().__init__(reason)
        self.reply = reply


class Rejected(Exception):
    """The server found the request itself wrong; asking again would not help."""


@dataclasses.dataclass(frozen=True)
class Key:
    """An API key and the names of the variables that may hold it. Printed, it shows the variable, never the key."""

    variables: tuple[str, ...]
    secret: str = dataclasses.field(repr=False)

    @classmethod
    def from_environment(cls, *variables: str, required: bool = True) -> Key:
        """The first variable that is set.

        Raises:
          UserError: none is, and a key is required.
        """
        for variable in variables:
            secret = os.environ.get(variable, "").strip()
            if secret:
                return cls((variable,), secret)
        if required:
            raise UserError(f"no API key: set the environment variable {' or '.join(variables)}")
        return cls(variables, "")

    def scrub(self, text: str) -> str:
        """The text without the key, whether plain or URL-encoded."""
        if not self.secret:
            return text
        for form in {self.secret, urllib.parse.quote(self.secret, safe=""), urllib.parse.quote_plus(self.secret)}:
            text = text.replace(form, "[key]")
        return text

    def scrub_line(self, text: str) -> str:
        """A server's message as one line of bounded length, without the key."""
        line = self.scrub(" ".join(text.split()))
        return line if len(line) <= LONGEST_MESSAGE else f"{line[:LONGEST_MESSAGE]} ..."


def failure_of_status(status: int, message: str, key: Key, retry_after: float = 0.0, code: str = "") -> Exception:
    """The exception to raise for an HTTP status other than success.

    Args:
      status: the status.
      message: the server's message, only shown, not interpreted: even limits per minute speak of plans and billing.
      key: key to remove from the message.
      retry_after: seconds after which the server expects the request again; 0: it does not say.
      code: the server's own name for the error, as OpenAI defines these.
    """
    line = key.scrub_line(message)
    lowered = line.lower()
    variable = " or ".join(key.variables)
    if status in (401, 403) or (status == 400 and ("api key" in lowered or "api_key" in lowered)):
        return UserError(f"the server does not accept the API key in {variable} (HTTP {status}: {line})")
    if status == 404:
        return UserError(
            f"the server does not know the model or the address (HTTP 404: {line}); see config.describe.model and "
            "config.describe.base_url"
        )
    if status == 402 or (status == 429 and code == "insufficient_quota" and not retry_after):
        return UserError(f"the account of {variable} has no credit left (HTTP {status}: {line})")
    if status in _RETRIED_STATUS or status >= 500:
        return Retryable(f"HTTP {status}: {line}", retry_after)
    return Rejected(f"HTTP {status}: {line}")


@contextlib.contextmanager
def reading_reply(key: Key) -> Iterator[None]:
    """Turns the errors that the SDKs raise when a reply does not have the promised shape into `Retryable`.

    They build their objects from any JSON that a server sends, so that the fault shows only when a field is used.
    """
    try:
        yield
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        reason = f"the server's reply is not readable ({type(error).__name__}: {error})"
        raise Retryable(key.scrub_line(reason)) from None


def retry_after_seconds(headers: Mapping[str, Any] | None) -> float:
    """Seconds that a Retry-After header names, as a number or a date; 0 without one."""
    value = str((headers or {}).get("retry-after", "")).strip()
    if not value:
        return 0.0
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except ValueError:
        return 0.0


def transport_errors() -> tuple[type[Exception], ...]:
    """Time-outs and broken connections of the HTTP libraries that the SDKs have imported."""
    loaded = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
    return (OSError, *(module.TransportError for module in loaded))
