"""What bfloat16 costs a model with adapters: with A and B beside W, as it trains, and with W + A B, as it is searched.

    python -m tsrec_jax run --config=quickstart --config.model.dtype=bfloat16 --config.train.freeze=trunk \\
        --config.train.adapter.rank=16 --workdir=runs/adapter
    PYTHONPATH=. python benchmarks/adapter_forms.py --workdir=runs/adapter --out=docs/results/adapter_forms.md

The same trained weights are read on rows of the evaluated split: in float32, where both forms agree, in bfloat16 beside
each other, and in bfloat16 with the sum rounded. The search, which has the second form alone, gives HR@10.
"""

from __future__ import annotations

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy.special import logsumexp

from benchmarks.table_report import write_table_report
from tsrec_jax.data.input import packed_batches
from tsrec_jax.data.interactions import spread
from tsrec_jax.data.sid_paths import SidPaths
from tsrec_jax.data.target_ranks import find_targets
from tsrec_jax.data.tasks.next_sid import NextSid
from tsrec_jax.data.tasks.task import TaskInputs
from tsrec_jax.models.adapter import merged_layers
from tsrec_jax.models.attention import choose
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.settings import LAYER_KERNELS
from tsrec_jax.models.sharding import parts_of
from tsrec_jax.pipeline.evaluate import evaluated_rows
from tsrec_jax.pipeline.inputs import make_inputs
from tsrec_jax.pipeline.job import Job
from tsrec_jax.pipeline.mesh import on_mesh
from tsrec_jax.pipeline.train import trained_parts
from tsrec_jax.pipeline.training_run import searched_by
from tsrec_jax.pipeline.workdir import Workdir
from tsrec_jax.settings import load_saved
from tsrec_jax.training.start import SidPlaces, sid_places

BATCH_ROWS = 8  # packed rows that the model reads at one time, or as many more as the devices want
FORMS = (("float32", "float32", False), ("bfloat16, A and B beside W", "bfloat16", False),
         ("bfloat16, W + A B", "bfloat16", True))  # fmt: skip


def form_of(model: Decoder, dtype: str, merge: bool) -> Decoder:
    """The weights of a decoder in another compute dtype, with its adapter merged into its kernels if requested."""
    changed = nnx.merge(*nnx.split(model))
    changed.dtype, changed.attention = dtype, choose("auto", model.config, dtype)
    if merge:
        layers = changed.layers()
        for name in LAYER_KERNELS:
            setattr(changed.blocks, name, nnx.Param(merged_layers(name, layers).astype(dtype)))
        changed.adapter = None
    return jax.tree.map(lambda array: array.astype(jnp.float32), changed) if dtype == "float32" else changed


def log_p(places: SidPlaces, objective: str) -> np.ndarray:
    """float64 (M, n + 1), of each SID token and of all others together, which is nothing if constrained."""
    logits_Mn, rest_M1 = places.logits_Mn.astype(np.float64), places.rest_M[:, None].astype(np.float64)
    if objective == "constrained":
        logits_Mn = np.where(places.paths.allowed_Nn[places.node_M], logits_Mn, -np.inf)
        rest_M1 = np.full_like(rest_M1, -np.inf)
    both_Mn = np.concatenate([logits_Mn, rest_M1], axis=1)
    return both_Mn - logsumexp(both_Mn, axis=1, keepdims=True)


def divergence(exact_Mn: np.ndarray, other_Mn: np.ndarray) -> float:
    """The mean KL from the first to the second, in nats."""
    possible_Mn = np.isfinite(exact_Mn)
    change_Mn = np.subtract(exact_Mn, other_Mn, where=possible_Mn, out=np.zeros_like(exact_Mn))
    return float(np.mean(np.sum(np.exp(exact_Mn) * change_Mn, axis=1)))


def table(workdir: pathlib.Path, count: int) -> tuple[list[list[str]], str]:
    """The table of all forms, and the rows it was measured on."""
    settings = load_saved(workdir)
    with on_mesh(settings):
        dataset, base = make_inputs(settings, workdir)
        parts = trained_parts(Job(settings, Workdir(workdir), dataset, base))
        split, rows = evaluated_rows(settings, dataset)
        rows = rows.spread(min(count, len(rows)))
        examples = NextSid(user_sequences=False).examples(TaskInputs(dataset, split, parts.builder))
        examples = [examples[number] for number in spread(len(examples), len(rows))]
        length, paths = settings.train.sequence_length, SidPaths.of_catalogue(dataset.catalogue, parts.base_vocab_size)
        devices = parts_of(parts.mesh, "batch")
        batches = list(packed_batches(examples, length, -(-BATCH_ROWS // devices) * devices, length, paths=paths))
        search, lines, exact_Mn = searched_by(settings, parts, rows), [], None
        for name, dtype, merge in FORMS:
            model = form_of(parts.model, dtype, merge)
            places = sid_places(model, batches, paths, settings.train.loss_chunk)
            found_Mn = log_p(places, settings.objective)
            exact_Mn = found_Mn if exact_Mn is None else exact_Mn
            loss = places.loss(settings.objective, np.ones(paths.num_levels))[0]
            ranks = find_targets(search(model), rows.targets, dataset.catalogue) if merge or not lines else None
            lines.append(
                [name, f"{loss:.4f}", f"{divergence(exact_Mn, found_Mn):.2e}",
                 "" if ranks is None else f"{ranks.mean('sid', 'HR@10'):.4f}"]
            )  # fmt: skip
    heads = ["computed in", "nats per SID token", "KL from float32", "HR@10"]
    return [heads, *lines], f"{len(rows)} rows of {split}, {dataset.name}, data {dataset.data_hash[:12]}"


def main() -> None:
    """Measures and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="of a run that has trained adapters")
    parser.add_argument("--rows", type=int, default=1000, help="of the evaluated split, spread over it")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="Markdown that is written")
    given = parser.parse_args()
    measured, rows = table(given.workdir, given.rows)
    settings = load_saved(given.workdir)
    said = (
        f"{rows}; adapters of rank {settings.train.adapter.rank}, trained in {settings.model.dtype} with the objective "
        f"{settings.objective}, seed {settings.seed}."
    )
    write_table_report(given.out, "Adapters in bfloat16", said, measured)


if __name__ == "__main__":
    main()
