"""Compiled programs kept in a folder: a process that starts again loads them instead of tracing and lowering again.

JAX's own cache looks a program up by a hash of its lowered form, and tracing and lowering take longer than loading what
is found. Here a program is looked up by what it would be made from.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import pathlib
import pickle
import platform
import threading
import time
import zlib
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
from jax.experimental import serialize_executable

import tsrec_jax
from tsrec_jax.cache import only_ours
from tsrec_jax.files import replacing

_LOG = logging.getLogger(__name__)
_SHA256 = 32  # bytes
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
_UNREAD_SECONDS = 60 * 24 * 3600.0  # after which a program is taken to be no longer in use
_SHORTEST = "jax_persistent_cache_min_compile_time_secs"
# XLA's default, set so that JAX's cache has no such program: a program loaded from it cannot be written again.
_APART: dict[str, str | bool] = {"xla_embed_ir_in_executable": False}
_COMPILING = threading.Lock()  # what is set meanwhile holds for the whole process


class Programs:
    """Calls jitted functions through programs that this process or an earlier one compiled. Safe for several threads.

    A file holds one program: one function, for arguments of one form, on one kind of machine, compiled by one version
    of JAX and of this package under the settings that JAX had when this object was made. What is set later, or in a
    `with` around a call, is not noticed. A function must not be a closure, since only its name would be known.

    A file is run as it is. So nothing is read or kept where anyone but this user and root may write. A folder that
    cannot be written to is only read.

    Args:
      folder: where the files are; it is made if need be. None: functions are called as they are.
    """

    def __init__(self, folder: pathlib.Path | None = None):
        self._folder = folder
        self._keeping = False
        self._known: dict[Hashable, Callable[..., Any]] = {}
        self._made_by = "" if folder is None else _maker()
        if folder is not None and (fault := _fault(folder)):
            self._keep_no_more(fault)
            self._folder = None
        elif folder is not None:
            self._keeping = os.access(folder, os.W_OK)

    def call(self, function: Any, *arguments: Any, static: Mapping[str, Hashable] | None = None, **named: Any) -> Any:
        """What a jitted function returns.

        Args:
          function: made by `jax.jit`.
          arguments, named: trees of arrays. If they lie on several devices, nothing is kept.
          static: the static arguments, whose `repr` tells them apart.
        """
        static = static or {}
        if self._folder is None:
            return function(*arguments, **named, **static)
        leaves, tree = jax.tree.flatten((arguments, named))
        form = tuple((leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)) for leaf in leaves)
        key = function, tuple(static.items()), tree, form
        program = self._known.get(key)
        if program is None:
            devices = {device for leaf in leaves if isinstance(leaf, jax.Array) for device in leaf.devices()}
            if len(devices) != 1:
                return function(*arguments, **named, **static)
            (device,) = devices
            name = f"{function.__module__}.{function.__qualname__}"
            asked = name, sorted(static.items()), str(tree), form, device.id, _machine(device), self._made_by
            digest = hashlib.sha256(repr(asked).encode()).digest()
            path = self._folder / f"{function.__name__}-{digest.hex()}.program"
            program = _read(path, digest, device, jax.tree.structure((arguments, named)))
            if program is None:
                program = self._compile(path, digest, function.lower(*arguments, **named, **static))
            self._known[key] = program
        return program(*arguments, **named)

    def _compile(self, path: pathlib.Path, digest: bytes, lowered: jax.stages.Lowered) -> Callable[..., Any]:
        with _COMPILING:
            shortest = getattr(jax.config, _SHORTEST)
            jax.config.update(_SHORTEST, math.inf)  # so that JAX's cache does not keep it either
            try:
                program = lowered.compile(compiler_options=_APART)
            except jax.errors.JaxRuntimeError as error:  # from a backend that has no such option
                _LOG.warning("%s: %s; this compiled program is not kept", path, _first_line(error))
                return lowered.compile()
            finally:
                jax.config.update(_SHORTEST, shortest)
        if self._keeping and _is_changed():  # since the start
            self._keep_no_more(_CHANGED)
        if self._keeping:
            try:
                _keep(path, digest, program)
            except OSError as error:
                self._keep_no_more(error.strerror or str(error))
            except Exception as error:  # whatever a backend that cannot write a program raises
                _LOG.warning("%s: %s; this compiled program is not kept", path, _first_line(error))
        return program

    def _keep_no_more(self, why: str) -> None:
        _LOG.warning("%s: %s; compiled programs are not kept", self._folder, why)
        self._keeping = False


def _keep(path: pathlib.Path, digest: bytes, program: jax.stages.Compiled) -> None:
    """Writes a program, and removes those long unread: programs of other versions, catalogues, settings."""
    payload, _, out_tree = serialize_executable.serialize(program)
    with replacing(path) as temporary:
        temporary.touch(mode=0o644)
        temporary.write_bytes(digest + zlib.compress(pickle.dumps((payload, out_tree)), 1))
    for other in path.parent.glob("*.program"):
        with contextlib.suppress(OSError):  # another process has removed it, or this user may not
            if time.time() - other.stat().st_atime > _UNREAD_SECONDS:
                other.unlink()


def _read(path: pathlib.Path, digest: bytes, device: jax.Device, in_tree: Any) -> Callable[..., Any] | None:
    """The kept program; None if none fits."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if not only_ours(found):
                raise ValueError("others may write it")
            content = file.read()
        if content[:_SHA256] != digest:
            raise ValueError("of another name")
        payload, out_tree = pickle.loads(zlib.decompress(content[_SHA256:]))
        program = serialize_executable.deserialize_and_load(payload, in_tree, out_tree, execution_devices=[device])
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever reading, unpacking and loading raise: it is compiled again
        _LOG.warning("%s: this compiled program is thrown away (%s)", path, _first_line(error))
        return None
    with contextlib.suppress(OSError):  # the folder may be read-only
        os.utime(path, ns=(time.time_ns(), found.st_mtime_ns))
    return program


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0]


def _fault(folder: pathlib.Path) -> str:
    """Why no program may be read from a folder, which is made if need be, or kept there; empty if it may."""
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        if not only_ours(folder.stat()):
            return "others than this user and root may write there (chmod go-w), and what lies there would be run"
    except OSError as error:
        return os.strerror(error.errno or 0)
    return _CHANGED if _is_changed() else ""


def _sources() -> list[pathlib.Path]:
    return sorted(pathlib.Path(tsrec_jax.__file__).parent.rglob("*.py"))


_CHANGED = "this package is not as it was when the process started, which is to be started again"
# What runs is what was imported, not what an upgrade has put in its place since.
_SOURCES = hashlib.sha256(b"".join(source.read_bytes() for source in _sources())).hexdigest()


def _is_changed() -> bool:
    """Whether a source is newer than the import, so that what runs may not be what was hashed."""
    return max(source.stat().st_ctime for source in _sources()) > tsrec_jax.IMPORTED


def _maker() -> str:
    """What, besides a function and its arguments, decides what a program does."""
    settings = {name: value for name, value in jax.config.values.items() if "cache" not in name}
    flags = [os.environ.get(name, "") for name in _FLAGS]
    return repr((jax.__version__, jax.lib.__version__, sorted(settings.items(), key=str), flags, _SOURCES))


def _machine(device: jax.Device) -> tuple[str, ...]:
    """What a device must share with the one that programs were compiled for; XLA divides loops among the processors."""
    may = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return device.device_kind, device.client.platform_version, platform.machine(), _processor(), str(may)


def _processor() -> str:
    """What the processor can do, as Linux reports it; on other systems what Python knows of it."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
