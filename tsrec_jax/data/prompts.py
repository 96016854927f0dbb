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
from tsrec_jax.data.tasks import TEMPLATES
from tsrec_jax.data.template import Template
from tsrec_jax.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from tsrec_jax.models.written_tokenizer import WrittenTokenizer

OUTSIDE = ("title", "description")  # placeholders for texts that others wrote; all other placeholders take SIDs


@dataclasses.dataclass(frozen=True)
class Templates:
    """The wording of all tasks; short, since every prompt pays for its header.

    Attributes:
      by_name: the templates.
      separator: the text between the SIDs of a history.
    """

    by_name: Mapping[str, Template] = dataclasses.field(default_factory=lambda: TEMPLATES)
    separator: str = ","

    def __getitem__(self, name: str) -> Template:
        return self.by_name[name]

    def changed(self, changes: Mapping[str, Any]) -> Templates:
        """The wording with some texts replaced: {name: {field: text}, "separator": text}.

        Raises:
          UserError: an unknown task, field or placeholder, a missing placeholder, or text around the SID that a beam
            search generates; the message names the key.
        """
        changes = dict(changes)
        separator, by_name = str(changes.pop("separator", self.separator)), dict(self.by_name)
        for name, texts in changes.items():
            if name not in by_name:
                raise UserError(f"templates.{name}: no such task; the tasks are {', '.join(by_name)}")
            if not isinstance(texts, Mapping) or not all(isinstance(text, str) for text in texts.values()):
                raise UserError(f"templates.{name}: needs texts for header, prompt or completion, has {texts!r}")
            by_name[name] = by_name[name].changed(name, dict(texts))
        if (completion := by_name["next_sid"].completion) != "{sid}":
            raise UserError(
                f"templates.next_sid.completion: must be {{sid}} alone, since the search generates SID tokens only; "
                f"move the rest of {completion!r} to templates.next_sid.prompt"
            )
        return Templates(by_name, separator)

    @classmethod
    def from_mapping(cls, changes: Mapping[str, Any]) -> Templates:
        """The default wording, `changed`."""
        return cls().changed(changes)

    def to_mapping(self) -> dict[str, Any]:
        """What `from_mapping` takes to make these templates."""
        return {**{name: dict(vars(template)) for name, template in self.by_name.items()}, "separator": self.separator}

    def wording(self) -> list[str]:
        """Header and prompt of every task without their inputs: the text that a tokenizer spells again and again."""
        return [
            template.header + template.prompt.format(**{template.placeholders[0]: ""})
            for template in self.by_name.values()
        ]


class PromptBuilder:
    """Turns texts into token ids by the templates.

    Args:
      tokenizer: one with the SID tokens and an end-of-text token; for titles and descriptions, a transformers
        tokenizer.
      templates: the wording.
      max_length: longest sequence in tokens; a longer one keeps its last `max_length`.

    Attributes:
      end: token ids that every completion ends with.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast | WrittenTokenizer, templates: Templates, max_length: int = 512
    ):
        self.templates = templates
        self.max_length = max_length
        self._tokenizer: Any = tokenizer
        self._headers = {name: self._encode([each.header])[0] for name, each in templates.by_name.items()}
        self.end = (*self._encode(["\n"])[0], tokenizer.eos_token_id)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return self._tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []

    def history(self, sids: Sequence[str]) -> str:
        """The SIDs of a history as the text that prompts carry."""
        return self.templates.separator.join(sids)

    def prompts(self, task: str, inputs: Sequence[str]) -> list[list[int]]:
        """Token ids of header and prompt for each input text of one task, not yet cut to `max_length`."""
        header, template = self._headers[task], self.templates[task]
        return [[*header, *ids] for ids in self._filled(template.prompt, template.placeholders[0], inputs)]

    def _filled(self, wording: str, field: str, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of a wording with its placeholder replaced by each text."""
        whole = [wording.format(**{field: text}) for text in texts]
        if field not in OUTSIDE:
            return self._encode(whole)
        parts = list(string.Formatter().parse(wording))
        behind, last, *_ = parts[-1]
        return encode_outside(self._tokenizer, whole, len(parts[0][0]), len(behind) if last is None else 0)

    def prefix(self, task: str) -> list[int]:
        """Token ids that all prompts of a task begin with: a search computes them once."""
        text, *_ = next(iter(string.Formatter().parse(self.templates[task].prompt)))
        return [*self._headers[task], *self._encode([text])[0]]

    def completions(self, task: str, answers: Sequence[str]) -> list[list[int]]:
        """Token ids of each answer with its newline and end-of-text token."""
        template = self.templates[task]
        return [[*ids, *self.end] for ids in self._filled(template.completion, template.placeholders[1], answers)]

    def sequences(self, sequences: Sequence[Sequence[str]], firsts: Sequence[int]) -> list[tuple[list[int], list[int]]]:
        """Sequences of SIDs, learned from one position on, each SID after the prompt that a search would get.

        Args:
          sequences: SIDs, oldest first.
          firsts: for each sequence, the position of the first SID that is learned, at least 1.

        Returns:
          Prompt and completion of each. A completion ends with its last SID.

        Raises:
          UserError: the prompt of `next_sid` continues after the history with something other than the separator.
        """
        separator, prompt = self.templates.separator, self.templates["next_sid"].prompt
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
          histories: for each request, the SIDs of its history, oldest first.
          levels: tokens per SID; room is kept for them and for the completion's end.
        """
        room = self.max_length - levels - len(self.end)
        return [ids[-room:] for ids in self.prompts("next_sid", [self.history(sids) for sids in histories])]
