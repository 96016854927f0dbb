"""Tables for a terminal and for markdown, and lists of facts."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line for each row, its cells set flush right in columns two spaces apart."""
    widths = _widths(rows)
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def markdown_table(rows: Sequence[Sequence[str]], left: Container[int] = (0,)) -> str:
    """A markdown table whose first row is the header; the columns `left` are flush left, the others flush right."""
    widths = _widths(rows)
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(cells)} |")
    rule = ["-" * (width + 1) + ("-" if column in left else ":") for column, width in enumerate(widths)]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def fact_list(facts: Mapping[str, object]) -> str:
    """A markdown list of what something was made with: values as code, mappings and sequences on one line."""
    return "\n".join(f"- {key}: {_fact(value)}" for key, value in facts.items())


def _fact(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {entry}" for key, entry in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(f"`{entry}`" for entry in value)
    return f"`{value}`"
