"""Errors that say what the user can do, and the end of a run that was told to stop."""

from __future__ import annotations

import errno
import os
import pathlib
import shutil

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


class UserError(Exception):
    """A mistake in the input, described in one line together with the way out.

    The command line prints the message alone and exits with code 2; library users catch it like any exception.
    """


class Stopped(Exception):
    """The run was told to stop, has saved its state and resumes from there; the command line exits with code 0."""


def no_space(error: BaseException, folder: pathlib.Path) -> UserError | None:
    """The UserError for a write that failed for lack of space, naming the free space; None for other errors.

    Args:
      error: what was raised; libraries that write outside Python keep only the system's message about the cause.
      folder: where the file was to be written.
    """
    for code in _NO_SPACE:
        if getattr(error, "errno", None) == code or os.strerror(code) in str(error):
            there = next((each for each in (folder, *folder.parents) if each.exists()), pathlib.Path.cwd())
            free = shutil.disk_usage(there).free / 2**20
            return UserError(
                f"{folder}: {os.strerror(code)} ({free:.0f} MiB are free there); make room and give the same command "
                "again: what was complete before is kept, and the run goes on from there"
            )
    return None


def not_allowed(error: BaseException) -> UserError | None:
    """The UserError for a file that this user may not read or write; None for other errors, network errors included."""
    if not isinstance(error, OSError) or error.errno not in _NOT_ALLOWED or error.filename is None:
        return None
    return UserError(
        f"{os.fsdecode(error.filename)}: {os.strerror(error.errno)}; let this user read and write there, or name "
        "another place; the same command then goes on from what is complete"
    )
