"""Sections of the settings: frozen dataclasses whose fields carry their meaning, their choices and their bounds."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, ClassVar, Literal

from tsrec_jax.errors import UserError
from tsrec_jax.old_keys import RENAMED_VALUES

_TYPES = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}  # as messages say them


def setting(
    default: Any,
    doc: str,
    *,
    choices: Collection[str] = (),
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
) -> Any:
    """A field of a section. The choices and bounds of a tuple hold for each of its parts.

    Args:
      default: its value if nobody sets it.
      doc: what it means, with its unit; docs/config.md is made from these.
      choices: the names in a table that it is chosen from; a list of choices that never grows is a `Literal` instead.
      least, above, most: the smallest value, the value that it must exceed, and the largest one, which goes with
        `least`.
    """
    told = {"doc": doc, "choices": choices, "least": least, "above": above, "most": most}
    return dataclasses.field(default=default, metadata=told)


def section(kind: Callable[[], Any]) -> Any:
    """A field that holds a section of its own."""
    return dataclasses.field(default_factory=kind)


class Section:
    """Base of the dataclasses that hold settings; `key` is their place in the config, such as `tasks.next_sid`.

    A value that is not of its field's type, among its choices or within its bounds is refused, and the key is named.
    """

    key: ClassVar[str] = ""

    def __init_subclass__(cls, key: str = "") -> None:
        super().__init_subclass__()
        cls.key = key or cls.key

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            self._check(field, getattr(self, field.name))

    @classmethod
    def config_key(cls, field: str) -> str:
        """How messages call a field: `config.train.max_steps`."""
        return f"config.{cls.key}.{field}" if cls.key else f"config.{field}"

    def _check(self, field: dataclasses.Field[Any], value: Any) -> None:
        """Refuses a value that the field cannot have."""
        own: type = type(self)
        name, kind, choices = self.config_key(field.name), hints_of(own)[field.name], choices_of(own, field)
        parts = {name: value}
        if typing.get_origin(kind) is tuple:
            if not isinstance(value, tuple):
                raise UserError(f"{name}={value!r} must be a tuple")
            kind, *_ = typing.get_args(kind)
            parts = {f"{name}[{number}]": part for number, part in enumerate(value)}
        for place, part in parts.items():
            if kind in _TYPES and not _is_of(kind, part):
                raise UserError(f"{place}={part!r} must be {_TYPES[kind]}")
            if choices:
                refuse_other(place, part, choices)
            if kind in (int, float):
                _check_number(place, part, field.metadata)


def choices_of(kind: type, field: dataclasses.Field[Any]) -> Collection[str]:
    """What a field of a section may be, if it is chosen from names; otherwise empty."""
    hint = hints_of(kind)[field.name]
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else field.metadata.get("choices", ())


@functools.cache
def hints_of(kind: type) -> Mapping[str, Any]:
    """The types of a section's fields. Cached, because a study makes every section again for each of its arms."""
    return typing.get_type_hints(kind)


def refuse_other(name: str, value: Any, allowed: Collection[str]) -> None:
    """Refuses a value that is not one of those allowed.

    Raises:
      UserError: the value is another; the message has the choices, and the nearest of them or what it is called now.
    """
    if value not in allowed:
        now = RENAMED_VALUES.get(name.removeprefix("config."), {}).get(str(value))
        hint = f"; {value!r} is now called {now!r}" if now else near(str(value), allowed)
        raise UserError(f"{name}={value!r} is not one of {', '.join(filter(None, allowed))}{hint}")


def near(text: str, known: Iterable[str], form: str = "{!r}") -> str:
    """A hint at what a misspelt text may mean, shown in this form; empty if nothing is near."""
    found = difflib.get_close_matches(text, list(known), n=1)
    return f"; did you mean {form.format(found[0])}?" if found else ""


def _is_of(kind: type, value: Any) -> bool:
    """Whether a value is of a type. A whole number will do for a float, but True is no number."""
    return type(value) in (int, float) if kind is float else type(value) is kind


def _check_number(name: str, value: float, bounds: Mapping[str, Any]) -> None:
    least, above, most = bounds.get("least"), bounds.get("above"), bounds.get("most")
    if not math.isfinite(value):
        raise UserError(f"{name}={value} must be finite")
    if above is not None and value <= above:
        raise UserError(f"{name}={value} must be above {above:g}")
    if least is not None and most is not None and not least <= value <= most:
        raise UserError(f"{name}={value} must lie between {least:g} and {most:g}")
    if least is not None and value < least:
        raise UserError(f"{name}={value} must be {least:g} or more")
