"""Raw data beyond one machine, thinned by Apache Beam to what one machine can prepare.

    python -m tsrec_jax.prepare.thin --source=amazon2023 --out=gs://BUCKET/thin \
        --interactions_file='gs://BUCKET/reviews/*.jsonl.gz' --items_file='gs://BUCKET/metadata/*.jsonl.gz' \
        --runner=DataflowRunner --project=PROJECT --region=REGION --temp_location=gs://BUCKET/tmp

It drops nothing that `prepare` would not drop under the same settings: lines that cannot be read, interactions outside
the time window or of items without a usable title, and most of what is not in the k-core, which a few rounds find. It
writes tables; `prepare` makes of them the folder that it would have made of the raw files, since it drops the rest
itself, exactly, and each user's lines stand in the order of the raw files. The facts beside the tables say under which
settings they were made, which `prepare` compares with its own, and which way the raw files ran.

A file is read by one worker, so many files are read faster than one. Flags that are not listed by `--help` are Beam's.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import sys
from collections.abc import Sequence
from typing import Any

from tsrec_jax.errors import UserError
from tsrec_jax.prepare.settings import PrepareSettings
from tsrec_jax.prepare.thin_facts import SETTINGS


def parser() -> argparse.ArgumentParser:
    """The flags of this program; what it does not know is for Beam."""
    made = argparse.ArgumentParser("python -m tsrec_jax.prepare.thin", description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    made.add_argument("--out", required=True, help="new folder or address for the tables")
    fields = {field.name: field for field in dataclasses.fields(PrepareSettings)}
    for name in SETTINGS:
        default, means = fields[name].default, f"as config.prepare.{name}"
        if name in ("source", "interactions_file", "items_file"):
            made.add_argument(f"--{name}", required=True, help=means)
            continue
        is_switch: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        made.add_argument(f"--{name}", default=default, help=f"{means}; default: {default!r}",
                          **(is_switch if isinstance(default, bool) else {"type": type(default)}))  # fmt: skip
    return made


def main(arguments: Sequence[str]) -> int:
    """The command line; returns the exit code."""
    given, of_beam = parser().parse_known_args(arguments)
    if importlib.util.find_spec("apache_beam") is None:
        print("thin: needs Apache Beam, which is not installed: pip install 'tsrec_jax[beam]'", file=sys.stderr)
        return 2
    from apache_beam.options.pipeline_options import PipelineOptions

    from tsrec_jax.prepare.thin_pipeline import thin

    settings = {name: getattr(given, name) for name in SETTINGS}
    options = PipelineOptions(of_beam)
    # Beam passes over what it does not know with a warning: a misspelt flag would thin by its default.
    unknown = options.get_all_options(retain_unknown_options=True).keys() - options.get_all_options().keys()
    if unknown:
        parser().error(f"neither a flag of this program nor of Beam: {', '.join(sorted(unknown))}")
    try:
        counts = thin(PrepareSettings(**settings), given.out, options)
    except UserError as error:
        print(f"thin: {error}", file=sys.stderr)
        return 2
    print(f"thin: {counts['left']:,} of {counts['read']:,} interactions are left in {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
