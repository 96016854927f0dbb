"""Compiled programs kept in a folder: a process that starts again loads them, where it would trace and lower anew.

JAX's own cache is asked by a hash of the lowered program, and tracing and lowering take longer than loading what they
find. Here a program is asked for by what it would be made of.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import pathlib
import pickle
import platform
import threading
import zlib
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
from jax.experimental import serialize_executable

import tsrec_jax
from tsrec_jax.files import replacing

_LOG = logging.getLogger(__name__)
_SHA256 = 32  # bytes
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
_SHORTEST = "jax_persistent_cache_min_compile_time_secs"
# XLA's default, said so that JAX's cache has no such program: one that comes out of it cannot be written again.
_APART: dict[str, str | bool] = {"xla_embed_ir_in_executable": False}
_COMPILING = threading.Lock()  # what is set meanwhile is the process's


class Programs:
    """Calls jitted functions by programs that this process or an earlier one compiled. Safe for several threads.

    A file holds one program of a function for arguments of one form, on one kind of machine. It is replaced where it
    was made by other versions of JAX or of this package, or under other settings of JAX. A file is run as it is: the
    folder must be one that only this user and root may write.

    Args:
      folder: of the files; it is made if need be. None: functions are called as they are.
    """

    def __init__(self, folder: pathlib.Path | None = None):
        self._folder = folder
        self._known: dict[Hashable, Callable[..., Any]] = {}
        self._made_by = b"" if folder is None else _maker()

    def call(self, function: Any, *arguments: Any, static: Mapping[str, Hashable] | None = None, **named: Any) -> Any:
        """What a jitted function gives.

        Args:
          function: made by `jax.jit`.
          arguments, named: trees of arrays. Where they lie on several devices, nothing is kept.
          static: the static arguments, whose `repr` tells them apart.
        """
        static = static or {}
        if self._folder is None:
            return function(*arguments, **named, **static)
        leaves, tree = jax.tree.flatten((arguments, named))
        form = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        key = function, tuple(static.items()), tree, form
        program = self._known.get(key)
        if program is not None:
            return program(*arguments, **named)
        devices = {device for leaf in leaves if isinstance(leaf, jax.Array) for device in leaf.devices()}
        if len(devices) != 1:
            return function(*arguments, **named, **static)
        (device,) = devices
        asked = repr((function.__qualname__, sorted(static.items()), str(tree), form, device.id, _machine(device)))
        path = self._folder / f"{function.__name__}-{hashlib.sha256(asked.encode()).hexdigest()}.program"
        kept = self._read(path, device, arguments, named)
        if kept is not None:
            self._known[key], found = kept
            return found
        program = self._known[key] = self._compile(path, function.lower(*arguments, **named, **static))
        return program(*arguments, **named)

    def _read(
        self, path: pathlib.Path, device: jax.Device, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[Callable[..., Any], Any] | None:
        """The kept program and what it gives; None where there is none that fits."""
        try:
            content = path.read_bytes()
            if content[:_SHA256] != self._made_by:
                raise ValueError("of other versions or settings")
            payload, out_tree = pickle.loads(zlib.decompress(content[_SHA256:]))
            in_tree = jax.tree.structure((arguments, named))
            program = serialize_executable.deserialize_and_load(payload, in_tree, out_tree, execution_devices=[device])
            return program, jax.block_until_ready(program(*arguments, **named))
        except FileNotFoundError:
            return None
        except Exception as error:  # whatever reading, unpacking and loading raise: it is compiled anew
            _LOG.warning("%s: this compiled program is thrown away (%s)", path, str(error).partition("\n")[0])
            return None

    def _compile(self, path: pathlib.Path, lowered: jax.stages.Lowered) -> Callable[..., Any]:
        with _COMPILING:
            shortest = getattr(jax.config, _SHORTEST)
            jax.config.update(_SHORTEST, math.inf)  # nor does JAX's cache keep it
            try:
                program = lowered.compile(compiler_options=_APART)
            finally:
                jax.config.update(_SHORTEST, shortest)
        payload, _, out_tree = serialize_executable.serialize(program)
        try:
            with replacing(path) as temporary:
                temporary.write_bytes(self._made_by + zlib.compress(pickle.dumps((payload, out_tree)), 1))
        except OSError as error:
            _LOG.warning("%s: %s; this compiled program is not kept", path, error.strerror)
        return program


def _maker() -> bytes:
    """A hash of what, besides a function and its arguments, decides what a program does."""
    found = hashlib.sha256()
    settings = {name: value for name, value in jax.config.values.items() if "cache" not in name}
    flags = [os.environ.get(name, "") for name in _FLAGS]
    found.update(repr((jax.__version__, jax.lib.__version__, sorted(settings.items(), key=str), flags)).encode())
    for source in sorted(pathlib.Path(tsrec_jax.__file__).parent.rglob("*.py")):
        found.update(source.read_bytes())
    return found.digest()


def _machine(device: jax.Device) -> tuple[str, ...]:
    """What programs that were compiled for a device need of another one."""
    return device.device_kind, device.client.platform_version, platform.machine(), _processor(), str(os.cpu_count())


def _processor() -> str:
    """What the processor can do, as Linux says it; on another system what Python knows of it."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
