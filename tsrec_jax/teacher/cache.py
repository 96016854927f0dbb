"""Answers that were paid for, written to disk as they arrive: one line of JSON each, always appended.

A run that is killed leaves at most half a last line. It is ignored when the file is read, and the next answer starts on
a line of its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from tsrec_jax.teacher.backends.protocol import Reply


def answer_key(backend: str, model: str, prompt: str, generation: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal, over everything that decides an answer. The server's address is not part of it."""
    parts = json.dumps([backend, model, prompt, generation], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(parts.encode("utf-8")).hexdigest()


@dataclasses.dataclass(frozen=True)
class AnswerCache:
    """The answers in one file; `append` may be called from several threads."""

    path: pathlib.Path
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock, repr=False, compare=False)

    def read(self) -> dict[str, Reply]:
        """{key: the latest usable answer}; empty if there is no file. Incomplete lines are skipped."""
        return {key: reply for key, reply, fault in self._entries() if not fault}

    def spent(self) -> tuple[int, int, int]:
        """Numbers of answers, unusable ones included, and of their input and output tokens."""
        replies = [reply for _, reply, _ in self._entries()]
        return len(replies), sum(r.input_tokens for r in replies), sum(r.output_tokens for r in replies)

    def _entries(self) -> Iterator[tuple[str, Reply, str]]:
        """(key, reply, fault) of every complete line."""
        if not self.path.is_file():
            return
        for line in self.path.read_bytes().split(b"\n"):
            try:
                entry = json.loads(line)
                reply = Reply(entry["text"], entry["input_tokens"], entry["output_tokens"])
                yield entry["key"], reply, entry["fault"]
            except (ValueError, TypeError, KeyError):
                continue

    def append(self, key: str, token: str, reply: Reply, fault: str = "") -> None:
        """Writes one answer through to the disk; an answer with a fault is kept only for people to read."""
        entry = {"key": key, "token": token, "fault": fault, **dataclasses.asdict(reply)}
        line = json.dumps(entry, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        with self._lock, self.path.open("ab+") as file:
            if file.tell() and not self._ends_with_newline(file):
                line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    @staticmethod
    def _ends_with_newline(file: Any) -> bool:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
