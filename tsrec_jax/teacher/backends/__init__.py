"""The backends by name. A new one is a file, and a row in `BACKENDS`."""

from __future__ import annotations

import dataclasses

from tsrec_jax.entry import Entry


@dataclasses.dataclass(frozen=True)
class Backend(Entry):
    """A row of the table.

    Attributes:
      entry: entry of a callable. If the backend asks a model: settings -> `protocol.Teacher`. Otherwise: catalogue,
        settings, number of levels -> descriptions of all tokens on at least so many first levels.
      asks_a_model: whether it sends questions over the network.
      needs: a setting that must not be empty, and what it holds.
    """

    asks_a_model: bool = False
    needs: tuple[str, str] | None = None


_MODEL = ("model", "the name of a model")
BACKENDS: dict[str, Backend] = {
    "offline": Backend("tsrec_jax.teacher.backends.offline:describe_tokens"),
    "file": Backend("tsrec_jax.teacher.backends.file:describe_tokens", needs=("path", "a description_keywords.json")),
    "gemini": Backend("tsrec_jax.teacher.backends.gemini:GeminiTeacher", asks_a_model=True, needs=_MODEL),
    "gemini_legacy": Backend(
        "tsrec_jax.teacher.backends.gemini_legacy:GeminiLegacyTeacher", asks_a_model=True, needs=_MODEL
    ),
    "openai": Backend("tsrec_jax.teacher.backends.openai:OpenAITeacher", asks_a_model=True, needs=_MODEL),
}
