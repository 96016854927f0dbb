"""The most memory that this process has held since it began, or since the peak was last reset."""

from __future__ import annotations

import pathlib

_PROCESS = pathlib.Path("/proc/self")


def forget_peak() -> bool:
    """Resets the peak; False if the system cannot do it (only Linux can)."""
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_bytes() -> int | None:
    """Bytes of the peak resident set; None if the system does not report it."""
    try:
        lines = (_PROCESS / "status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(found[0]) * 1024 if found else None
