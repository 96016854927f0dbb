"""What this machine's accelerator does with the project, in so many minutes: rates, decoding, training, a study.

    python benchmarks/accelerator.py --minutes=8 --out=runs/accelerator --data=../shared/data/amazon/Industrial_rebuilt

Cells are measured in the order of their worth (benchmarks/device/cells.py). Each is written to --out the moment it
ends, and none is begun that would not end in time; the same command goes on with those that are left, also on another
machine to which the files were brought. What it measures and what it leaves: docs/accelerators.md.
"""

from __future__ import annotations

import argparse
import pathlib
import shlex
import sys
from collections.abc import Sequence

if __name__ == "__main__":  # as a script it stands in its own folder, not in the checkout's
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks.device.cells import PARTS, all_cells
from benchmarks.device.runner import Options, run
from benchmarks.device.store import TABLES, Store
from tsrec_jax.errors import UserError
from tsrec_jax.pipeline.provenance import commit


def parse(arguments: Sequence[str] | None = None) -> Options:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="after which the run has ended")
    parser.add_argument(
        "--out", type=pathlib.Path, required=True, help="folder of what was measured, at most seven files"
    )
    parser.add_argument("--work", type=pathlib.Path, help="folder of what may be lost; default: OUT-work")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {','.join(PARTS)}")
    parser.add_argument("--data", type=pathlib.Path, help="a dataset folder with SIDs and words, for train and study")
    parser.add_argument("--tiny", action="store_true", help="shapes that a CPU does in seconds: to try the machinery")
    parser.add_argument("--again", action="store_true", help="try cells again that failed")
    given = parser.parse_args(arguments)
    parts = given.parts.split(",")
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        parser.error(f"--parts: {unknown[0]!r} is not one of {', '.join(PARTS)}")
    if given.data is not None and not given.data.is_dir():
        parser.error(f"--data={given.data}: no such folder")
    missing = {}
    if not given.tiny:
        from benchmarks.device.study import weights_missing  # and with it most of the package

        why = "no dataset folder (--data)" if given.data is None else weights_missing()
        missing = {"study": why} if why else {}
    out = given.out.absolute()
    return Options(
        minutes=given.minutes,
        out=out,
        work=given.work.absolute() if given.work else out.with_name(f"{out.name}-work"),
        parts=parts,
        data=str(given.data.absolute()) if given.data else "",
        missing=missing,
        tiny=given.tiny,
        again=given.again,
    )


def main() -> int:
    """Measures; the exit code is 0 even if cells are left for another run."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    about = {"command": shlex.join(["python", *sys.argv]), "commit": commit(), "tiny": options.tiny}
    for part, why in options.missing.items():
        print(f"{part}: left out, {why}", flush=True)
    try:
        store = Store(options.out, about)
    except UserError as error:
        print(f"accelerator: {error}", file=sys.stderr)
        return 2
    left = run(options, all_cells(options.tiny), store)
    if (options.out / TABLES).exists():
        print((options.out / TABLES).read_text(encoding="utf-8"))
    print(f"{left} cells are left; the same command goes on" if left else "all cells were tried", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
