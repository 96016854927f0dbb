"""What a section of the settings is: a frozen dataclass whose fields carry their meaning, their choices and bounds."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import typing
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from tsrec_jax.errors import UserError


def setting(
    default: Any, doc: str, *, least: float | None = None, above: float | None = None, most: float | None = None
) -> Any:
    """A field of a section.

    Args:
      default: its value where nobody sets it; a tuple's bounds hold for each of its parts.
      doc: what it means, with its unit; docs/config.md is made of these.
      least, above, most: the smallest value, the value that it must exceed, and the largest one.
    """
    return dataclasses.field(default=default, metadata={"doc": doc, "least": least, "above": above, "most": most})


def section(kind: Callable[[], Any]) -> Any:
    """A field that holds a section of its own."""
    return dataclasses.field(default_factory=kind)


class Section:
    """Base of the dataclasses that hold settings; `key` is their place in the config, such as `tasks.next_sid`.

    A value that is none of a field's `Literal` choices or beyond its bounds is refused by name.
    """

    key: ClassVar[str] = ""

    def __init_subclass__(cls, key: str = "") -> None:
        super().__init_subclass__()
        cls.key = key or cls.key

    def __post_init__(self) -> None:
        choices = choices_of(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value = getattr(self, field.name)
            if field.name in choices:
                refuse_other(self.config_key(field.name), value, choices[field.name])
            if type(field.default) is int and type(value) is not int:
                raise UserError(f"{self.config_key(field.name)}={value!r} must be a whole number")
            for part in value if isinstance(value, tuple) else (value,):
                if isinstance(part, int | float) and not isinstance(part, bool):
                    _check_number(self.config_key(field.name), value, part, field.metadata)

    @classmethod
    def config_key(cls, field: str) -> str:
        """How messages call a field: `config.train.max_steps`."""
        return f"config.{cls.key}.{field}" if cls.key else f"config.{field}"


def choices_of(kind: type) -> dict[str, tuple[str, ...]]:
    """The choices of each field that is a `Literal`."""
    hints = hints_of(kind)
    return {name: typing.get_args(hint) for name, hint in hints.items() if typing.get_origin(hint) is Literal}


@functools.cache
def hints_of(kind: type) -> Mapping[str, Any]:
    """The types of a section's fields. Kept, because a study makes every section anew for each of its arms."""
    return typing.get_type_hints(kind)


def refuse_other(name: str, value: Any, allowed: typing.Collection[str]) -> None:
    """Refuses a value that is not one of those allowed.

    Raises:
      UserError: with the choices and the nearest of them.
    """
    if value not in allowed:
        raise UserError(f"{name}={value!r} is not one of {', '.join(allowed)}{near(str(value), allowed)}")


def near(text: str, known: typing.Iterable[str]) -> str:
    """A hint at what a misspelt text may mean; empty where nothing is near."""
    found = difflib.get_close_matches(text, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def _check_number(name: str, value: Any, part: float, bounds: Mapping[str, Any]) -> None:
    shown = list(value) if isinstance(value, tuple) else value
    least, above, most = bounds.get("least"), bounds.get("above"), bounds.get("most")
    if not math.isfinite(part):
        raise UserError(f"{name}={shown} must be finite")
    if above is not None and not part > above:
        raise UserError(f"{name}={shown} must be above {above:g}")
    if most is not None and not (0 if least is None else least) <= part <= most:
        raise UserError(f"{name}={shown} must lie between {0 if least is None else least:g} and {most:g}")
    if least is not None and part < least:
        raise UserError(f"{name}={shown} must be {least:g} or more")
