"""docs/config.md, made from the settings themselves: every key with its default, what it may be and what it means."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from tsrec_jax.data.prompts import Template
from tsrec_jax.old_keys import GONE, OLD_MODULE, OLD_MODULE_NOW, RENAMED, RENAMED_VALUES
from tsrec_jax.section import Section, choices_of
from tsrec_jax.settings import BY_OBJECTIVE, Settings, default_config

HEAD = """# Settings

Every key of a config with its default, as `tsrec config` prints them. An experiment is a file that starts from
`default_config()` of `tsrec_jax.settings`, the recipe that we recommend, or from `paper_config()`, the paper's, and
sets what it needs; the command line changes single keys, as in `--config.train.max_steps=100`. Every value is checked
before anything begins. Where the default is `None`, [`objective` decides](#what-objective-decides).
"""


def settings_page() -> str:
    """The page as Markdown."""
    parts = [HEAD, *_section(Settings, default_config().to_dict()), _objective(), _old_keys()]
    return "\n".join(parts)


def _section(kind: type[Section], values: Mapping[str, Any]) -> Iterator[str]:
    """A table of a section's own keys, then its sections."""
    hints = typing.get_type_hints(kind)
    fields = [field for field in dataclasses.fields(kind) if field.name != "given"]  # type: ignore[arg-type]
    own = [field for field in fields if not dataclasses.is_dataclass(hints[field.name])]
    if kind is not Settings:
        yield f"## {kind.key}\n\n{(kind.__doc__ or '').splitlines()[0]}\n"
    if own:
        yield "| Key | Default | May be | Meaning |\n|---|---|---|---|"
        prefix = f"{kind.key}." if kind.key else ""
        for field in own:
            allowed = ", ".join(_shown(choice) for choice in choices_of(kind, field)) or _bounds(field)
            if allowed and isinstance(field.default, tuple):
                allowed = f"each: {allowed}"
            doc = field.metadata["doc"].replace("|", "\\|")
            yield f"| `{prefix}{field.name}` | {_shown(values[field.name])} | {allowed} | {doc} |"
        yield ""
    for field in fields:
        part = hints[field.name]
        if isinstance(part, type) and issubclass(part, Section):
            yield from _section(part, values[field.name])
        elif field not in own:
            yield from _templates(values[field.name])


def _templates(values: Mapping[str, Any]) -> Iterator[str]:
    yield "## templates\n\nThe wording of the examples; each text keeps the placeholders of its default.\n"
    yield "| Key | Default |\n|---|---|"
    for name, texts in values.items():
        if not isinstance(texts, Mapping):
            yield f"| `templates.{name}`, between the SIDs of a history | {_shown(texts)} |"
            continue
        for field in dataclasses.fields(Template):
            yield f"| `templates.{name}.{field.name}` | {_shown(texts[field.name])} |"
    yield ""


def _objective() -> str:
    lines = ["## What objective decides\n", f"| Key | {' | '.join(f'`{name}`' for name in BY_OBJECTIVE)} |"]
    lines.append("|---|" + "---|" * len(BY_OBJECTIVE))
    for key in next(iter(BY_OBJECTIVE.values())):
        lines.append(f"| `{key}` | {' | '.join(_shown(values[key]) for values in BY_OBJECTIVE.values())} |")
    return "\n".join([*lines, ""])


def _old_keys() -> str:
    lines = ["## Keys of earlier versions\n", "| Then | Now |\n|---|---|"]
    lines += [f"| {old} | `{new}` |" for old, new in RENAMED.items()]
    lines += [
        f"| {key}: {_shown(old)} | {_shown(new)} |"
        for key, values in RENAMED_VALUES.items()
        for old, new in values.items()
    ]
    lines += [f"| {old} | {why} |" for old, why in GONE.items()]
    lines += [f"| the module {OLD_MODULE} | {OLD_MODULE_NOW} |"]
    return "\n".join([*lines, ""])


def _bounds(field: dataclasses.Field[Any]) -> str:
    least, above, most = (field.metadata.get(name) for name in ("least", "above", "most"))
    if most is not None:
        return f"{least or 0:g} to {most:g}"
    return f"above {above:g}" if above is not None else f"{least:g} or more" if least is not None else ""


def _shown(value: Any) -> str:
    text = repr(value).replace("|", "\\|")
    return f"`{text}`"
