"""Loading reads every byte once and holds little beside the parameters themselves."""

import json
import os
import pathlib
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from tsrec_jax.models import hf
from tsrec_jax.models.sharding import make_mesh

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Sizes of a checkpoint of 324 MB in bfloat16; its largest tensors are the tables, of 64 MB.
D, F, LAYERS, ROWS = 1024, 4096, 6, 32768
LARGEST = ROWS * D * 2  # bytes
ALLOWANCE = 1.3  # of it; 0.3 passes as well
# Loads under a limit of the memory that a process may write to (Linux: RLIMIT_DATA, anonymous private mappings, so that
# pages of the mapped file do not count): what it had before, its own shards and 1.3 x the largest tensor.
LIMITED = """
import resource, sys
import jax
from tsrec_jax.models import hf
from tsrec_jax.models.sharding import make_mesh

allowed, *folders = sys.argv[1:]
mesh = make_mesh(1, 4, 2)
# Threads, arenas and what is imported late come with the first use of a device.
jax.block_until_ready([jax.device_put(0.0, device) for device in jax.devices()])
before = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (before + int(allowed), resource.RLIM_INFINITY))
for folder in folders:
    model = hf.load_hf(folder, param_dtype="float32", mesh=mesh)
    del model
"""


def checkpoint(folder, shards):
    """A Qwen2 folder with these sizes, in one file or two."""
    facts = {
        "model_type": "qwen2",
        "vocab_size": ROWS,
        "hidden_size": D,
        "intermediate_size": F,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(facts))
    shapes = {"model.embed_tokens": (ROWS, D), "lm_head": (ROWS, D), "model.norm": (D,)}
    biases = {}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}."
        shapes |= {f"{name}self_attn.{each}_proj": (D if each in "qo" else D // 2, D) for each in "qkvo"}
        shapes |= {f"{name}mlp.gate_proj": (F, D), f"{name}mlp.up_proj": (F, D), f"{name}mlp.down_proj": (D, F)}
        shapes |= {f"{name}input_layernorm": (D,), f"{name}post_attention_layernorm": (D,)}
        biases |= {f"{name}self_attn.{each}_proj.bias": (D if each == "q" else D // 2,) for each in "qkv"}
    shapes = {f"{name}.weight": shape for name, shape in shapes.items()} | biases
    places = {name: f"model-{number % shards}.safetensors" for number, name in enumerate(sorted(shapes))}
    for file in sorted(set(places.values())):
        arrays = {name: np.zeros(shapes[name], ml_dtypes.bfloat16) for name in shapes if places[name] == file}
        save_file(arrays, folder / file)
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return sum(int(np.prod(shape)) for shape in shapes.values())


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="the limit and its measure are Linux's")
def test_the_peak_is_the_shards_and_little_more(tmp_path):
    folders = [tmp_path / "one_file", tmp_path / "two_files"]
    for shards, folder in enumerate(folders, 1):
        folder.mkdir()
        count = checkpoint(folder, shards)
    allowed = 4 * count + int(ALLOWANCE * LARGEST)
    command = [sys.executable, "-c", LIMITED, str(allowed), *map(str, folders)]
    # glibc gives large pieces back when they are freed; left alone it begins to keep those of up to 32 MiB in its heap,
    # and then what the first model leaves there decides whether the second fits.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("sizes", [(1, 4, 2), (2, 4, 1)])
def test_every_byte_is_read_once_however_many_devices_hold_it(sizes, golden, write_checkpoint, monkeypatch):
    facts, weights, _, _ = golden("llama_tied")
    folder = write_checkpoint(facts, weights)
    read, sizes_read = hf._Folder.read, []

    def counted(self, key, index):
        array = read(self, key, index)
        sizes_read.append(array.size)
        return array

    monkeypatch.setattr(hf._Folder, "read", counted)
    hf.load_hf(folder, mesh=make_mesh(*sizes))
    assert sum(sizes_read) == sum(weight.size for weight in weights.values())
