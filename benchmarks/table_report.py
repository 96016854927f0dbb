"""A report of one table: what was measured, on which machine, at which commit and by which command."""

from __future__ import annotations

import pathlib

from benchmarks.facts import command
from tsrec_jax.files import write_text
from tsrec_jax.pipeline.provenance import commit, machine
from tsrec_jax.progress import report
from tsrec_jax.text_table import markdown_table


def write_table_report(out: pathlib.Path, title: str, measured: str, rows: list[list[str]]) -> None:
    """Writes and says the report.

    Args:
      out: Markdown that is written.
      title: its heading.
      measured: sentences on what the figures are of.
      rows: the header and the lines of the table.
    """
    made = f"{machine()}, commit {commit()}.\n\n```bash\n{command()}\n```"
    text = f"# {title}\n\n{measured} {made}\n\n{markdown_table(rows)}\n"
    write_text(out, text)
    report(text)
