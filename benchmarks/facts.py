"""What a report says of how it was made."""

from __future__ import annotations

import shlex
import subprocess
import sys


def command() -> str:
    """The command line of this process, as it is typed at the root of the repository."""
    return f"PYTHONPATH=. {shlex.join(['python', *sys.argv])}"


def backend_and_machine() -> tuple[str, str]:
    """Asked in another process: one that holds an accelerator leaves none of it to those that measure."""
    code = (
        "import jax; from tsrec_jax.pipeline.provenance import machine; "
        "print(jax.default_backend(), machine(), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    backend, machine = done.stdout.splitlines()[-2:]
    return backend, machine
