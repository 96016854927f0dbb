"""The texts of a prompt and its answer, with placeholders that each example fills."""

from __future__ import annotations

import dataclasses
import string

from tsrec_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Template:
    """A constant header, a prompt with one {placeholder}, and a completion with another one, which is learned."""

    header: str
    prompt: str
    completion: str

    @property
    def placeholders(self) -> tuple[str, str]:
        """The placeholders of prompt and completion. An answer is never in its own prompt."""
        (asked,), (answered,) = _placeholders(self.prompt), _placeholders(self.completion)
        return asked, answered

    def changed(self, name: str, texts: dict[str, str]) -> Template:
        """The template with some of its texts replaced; each keeps its placeholder.

        Args:
          name: the template's name, for messages.
          texts: the new texts by field.

        Raises:
          UserError: an unknown field, a text that is not a template, or one with other placeholders.
        """
        unknown = sorted(set(texts) - {"header", "prompt", "completion"})
        if unknown:
            raise UserError(f"templates.{name}.{unknown[0]}: fields are header, prompt and completion")
        for field, text in texts.items():
            try:
                found, wanted = _placeholders(text), _placeholders(getattr(self, field))
            except ValueError as error:
                raise UserError(f"templates.{name}.{field}: {error}") from None
            if found != wanted:
                needs = f"exactly the placeholder {{{min(wanted)}}}" if wanted else "no placeholder"
                raise UserError(f"templates.{name}.{field}: takes {needs}, has {sorted(found) or 'none'}")
        return dataclasses.replace(self, **texts)


def _placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
