"""One run at a time in a working directory."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pathlib
import socket
import time
from collections.abc import Iterator

from filelock import FileLock, Timeout

from tsrec_jax.errors import UserError
from tsrec_jax.processes import first
from tsrec_jax.progress import report

LOCK_FILE = "run.lock"
WAIT_SECONDS = 2.0  # between two looks at a lock that another run holds
PATIENCE = 0.2  # seconds after which a lock counts as held; before that, it may just be being released


class InUse(UserError):
    """Another run is at work in a folder."""


@contextlib.contextmanager
def alone_in(workdir: pathlib.Path, verb: str) -> Iterator[None]:
    """Keeps every other run out of `workdir`; the folder is made, and removed again if nothing was written into it.

    If a run has several processes, the first takes the lock for all.

    The lock is the kernel's (flock) on the file `run.lock`, which says who holds it. It is released when its process
    ends, in whatever way, so that a file left by a killed run blocks nobody.

    Raises:
      InUse: another run is at work there; the message says which, on what host and since when.
    """
    if not first():
        yield
        return
    made = [each for each in (workdir, *workdir.parents) if not each.exists()]
    path = workdir / LOCK_FILE
    lock = FileLock(path, fallback_to_soft=False)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock.acquire(PATIENCE)
    except (Timeout, FileNotFoundError, FileExistsError):  # whoever held it may have removed the folder just now
        if workdir.exists() and not workdir.is_dir():
            raise
        raise InUse(_refusal(path)) from None
    try:
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "verb": verb,
        }
        path.write_text(json.dumps(holder), encoding="utf-8")
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()
        with contextlib.suppress(OSError):  # not empty: the run has left something
            for folder in made:
                folder.rmdir()


@contextlib.contextmanager
def alone_when_free(workdir: pathlib.Path, verb: str) -> Iterator[None]:
    """Like `alone_in`, but waits for a run that is at work there, and says so once."""
    told = False
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(alone_in(workdir, verb))
                break
            except InUse as refusal:
                if not told:
                    report(f"{verb}: waiting, since {refusal}")
                told = True
            time.sleep(WAIT_SECONDS)
        yield


def _refusal(path: pathlib.Path) -> str:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        who = f"`{facts['verb']}`, process {facts['pid']} on {facts['host']} since {facts['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        who = "a run that is just starting"
    return (
        f"{path.parent} is in use by {who}; wait for it or end it, or give another --workdir (on a shared file system, "
        f"where a host that is gone may still hold the lock: delete {path.name} once that process is known to be dead)"
    )
