"""The wording of every task, in one place, and the one builder that turns it into token ids.

Training, evaluation and serving use the same `PromptBuilder`, so that a prompt has the same ids everywhere. Header,
prompt and completion are tokenised separately and concatenated; a completion ends with a newline and the
end-of-text token. Titles and descriptions are never read as control tokens (`data.outside_text`).
"""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tsrec_jax.data.outside_text import encode_outside
from tsrec_jax.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclasses.dataclass(frozen=True)
class Template:
    """One task's texts: a constant header, the prompt with {placeholders}, and the completion that is learned."""

    header: str
    prompt: str
    completion: str


# The texts each task may use: (in the prompt, in the completion). An answer is never in its own prompt.
PLACEHOLDERS = {
    "next_sid": ("history", "sid"),
    "next_title": ("history", "title"),
    "title_to_sid": ("title", "sid"),
    "sid_to_title": ("sid", "title"),
    "token_to_description": ("token", "description"),
    "description_to_token": ("description", "token"),
}
OUTSIDE = ("title", "description")  # placeholders of texts that others wrote; the others take SIDs


@dataclasses.dataclass(frozen=True)
class Templates:
    """The wording of all tasks; short, since every prompt pays for its header."""

    next_sid: Template = Template("Continue the shopping history.\n", "History: {history}\nNext:", "{sid}")
    next_title: Template = Template("Name what is bought next.\n", "History: {history}\nTitle:", " {title}")
    title_to_sid: Template = Template("Give the code of this item.\n", "Title: {title}\nCode:", "{sid}")
    sid_to_title: Template = Template("Name the item behind this code.\n", "Code: {sid}\nTitle:", " {title}")
    token_to_description: Template = Template(
        "Say what items with this code part share.\n", "Part: {token}\nShared:", " {description}"
    )
    description_to_token: Template = Template(
        "Find the code part of items like these.\n", "Shared: {description}\nPart:", "{token}"
    )
    separator: str = ","  # between the SIDs of a history

    @classmethod
    def from_mapping(cls, changes: Mapping[str, Any]) -> Templates:
        """The default wording with some texts replaced: {task: {field: text}, "separator": text}.

        Raises:
          UserError: an unknown task, field or placeholder, a placeholder left out, or text beside the SID that a beam
            search generates; the message names the key.
        """
        templates = cls()
        for name, value in changes.items():
            if name == "separator":
                templates = dataclasses.replace(templates, separator=str(value))
                continue
            if name not in PLACEHOLDERS:
                raise UserError(f"templates.{name}: no such task; the tasks are {', '.join(PLACEHOLDERS)}")
            if not isinstance(value, Mapping) or not all(isinstance(text, str) for text in value.values()):
                raise UserError(f"templates.{name}: needs texts for header, prompt or completion, has {value!r}")
            unknown = set(value) - {"header", "prompt", "completion"}
            if unknown:
                raise UserError(f"templates.{name}.{sorted(unknown)[0]}: fields are header, prompt and completion")
            template = dataclasses.replace(getattr(templates, name), **value)
            _check(name, template)
            templates = dataclasses.replace(templates, **{name: template})
        return templates

    def to_mapping(self) -> dict[str, Any]:
        """What `from_mapping` takes to make these templates."""
        return dataclasses.asdict(self)

    def wording(self) -> list[str]:
        """Header and prompt of every task without their inputs: what a tokenizer has to spell again and again."""
        texts = []
        for name, (placeholder, _) in PLACEHOLDERS.items():
            template = getattr(self, name)
            texts.append(template.header + template.prompt.format(**{placeholder: ""}))
        return texts


def _check(name: str, template: Template) -> None:
    for field, wanted in zip(("header", "prompt", "completion"), (None, *PLACEHOLDERS[name]), strict=True):
        try:
            found = {part for _, part, _, _ in string.Formatter().parse(getattr(template, field)) if part is not None}
        except ValueError as error:
            raise UserError(f"templates.{name}.{field}: {error}") from None
        if found != ({wanted} if wanted else set()):
            needs = f"exactly the placeholder {{{wanted}}}" if wanted else "no placeholder"
            raise UserError(f"templates.{name}.{field}: takes {needs}, has {sorted(found) or 'none'}")
    if name == "next_sid" and template.completion != "{sid}":
        raise UserError(
            f"templates.next_sid.completion: must be {{sid}} alone, since the search generates SID tokens only; "
            f"move the rest of {template.completion!r} to templates.next_sid.prompt"
        )


class PromptBuilder:
    """Turns texts into token ids by the templates.

    Args:
      tokenizer: with the SID tokens added and an end-of-text token.
      templates: the wording.
      max_length: longest sequence in tokens; of a longer one the last `max_length` are kept.

    Attributes:
      end: token ids that every completion ends with.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, templates: Templates, max_length: int = 512):
        self.templates = templates
        self.max_length = max_length
        self._tokenizer = tokenizer
        self._headers = {name: self._encode([getattr(templates, name).header])[0] for name in PLACEHOLDERS}
        self.end = (*self._encode(["\n"])[0], tokenizer.eos_token_id)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return self._tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []

    def history(self, sids: Sequence[str]) -> str:
        """The SIDs of a history as the text that prompts carry."""
        return self.templates.separator.join(sids)

    def prompts(self, task: str, inputs: Sequence[str]) -> list[list[int]]:
        """Token ids of header and prompt for each input text of one task, not yet cut to `max_length`."""
        header, wording = self._headers[task], getattr(self.templates, task).prompt
        return [[*header, *ids] for ids in self._filled(wording, PLACEHOLDERS[task][0], inputs)]

    def _filled(self, wording: str, field: str, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of a wording with each text in the place of its placeholder."""
        whole = [wording.format(**{field: text}) for text in texts]
        if field not in OUTSIDE:
            return self._encode(whole)
        parts = list(string.Formatter().parse(wording))
        behind, last, *_ = parts[-1]
        return encode_outside(self._tokenizer, whole, len(parts[0][0]), len(behind) if last is None else 0)

    def prefix(self, task: str) -> list[int]:
        """Token ids that the prompts of a task begin with, whatever their input: a search computes them once."""
        text, *_ = next(iter(string.Formatter().parse(getattr(self.templates, task).prompt)))
        return [*self._headers[task], *self._encode([text])[0]]

    def completions(self, task: str, answers: Sequence[str]) -> list[list[int]]:
        """Token ids of each answer with its newline and end-of-text token."""
        wording = getattr(self.templates, task).completion
        return [[*ids, *self.end] for ids in self._filled(wording, PLACEHOLDERS[task][1], answers)]

    def chains(self, sequences: Sequence[Sequence[str]], firsts: Sequence[int]) -> list[tuple[list[int], list[int]]]:
        """Sequences of SIDs, learned from one place on, each SID after the prompt that a search would get.

        Args:
          sequences: SIDs, oldest first.
          firsts: for each sequence the place of the first SID that is learned, at least 1.

        Returns:
          Prompt and completion of each. A completion ends with its last SID.

        Raises:
          UserError: the prompt of `next_sid` goes on behind the history with something else than the separator.
        """
        separator, prompt = self.templates.separator, self.templates.next_sid.prompt
        if not prompt.endswith("{history}" + separator):
            raise UserError(
                f"templates.next_sid.prompt={prompt!r} cannot be continued: behind {{history}} it needs the separator "
                f"{separator!r} and nothing else, so that a history goes on where a prompt ends"
            )
        pairs = list(zip(sequences, firsts, strict=True))
        prompts = self.prompts("next_sid", [self.history(sids[:first]) for sids, first in pairs])
        return list(zip(prompts, self._encode([self.history(sids[first:]) for sids, first in pairs]), strict=True))

    def prompts_next_sid(self, histories: Sequence[Sequence[str]], levels: int) -> list[list[int]]:
        """Prompts that ask for the next SID of `levels` tokens, cut exactly as in training: what a search starts from.

        Args:
          histories: for each request the SIDs of its history, oldest first.
          levels: tokens of a SID, for which room is kept beside the completion's end.
        """
        room = self.max_length - levels - len(self.end)
        return [ids[-room:] for ids in self.prompts("next_sid", [self.history(sids) for sids in histories])]
