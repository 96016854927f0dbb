"""The loss before any training step, by the words from which the rows of the SID tokens begin.

    PYTHONPATH=. python benchmarks/start_loss.py --model=smollm2 --dataset=../shared/data/amazon/Industrial_rebuilt \\
        --rows=128 --shuffles=2 --out=docs/results/start_loss.md

The whole pretrained model reads histories of valid, and its scores of the SID tokens, among the children of each node
of the catalogue, are held against what came next. Rows that say what a token means are long, and as output rows they
make the model sure of what it does not know. So the loss is shown as it is, and with the best scale of the scores of
each level, found on one half of the rows for the other. Words are compared with shuffled ones by paired differences, a
row of valid at a time.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.facts import command
from tsrec_jax.data.catalogue import TokenDescription
from tsrec_jax.data.dataset import Dataset, read_dataset
from tsrec_jax.data.input import packed_batches
from tsrec_jax.data.interactions import spread
from tsrec_jax.data.sid_paths import SidPaths
from tsrec_jax.data.tasks.next_sid import NextSid
from tsrec_jax.data.tasks.task import TaskInputs
from tsrec_jax.files import write_text
from tsrec_jax.models.sharding import parts_of
from tsrec_jax.pipeline.provenance import commit, machine
from tsrec_jax.pipeline.recommender_parts import load_parts
from tsrec_jax.settings import Settings, default_config, settings_of
from tsrec_jax.teacher.backends.offline import describe_tokens
from tsrec_jax.teacher.settings import DescribeSettings
from tsrec_jax.training.start import SidPlaces, sid_places

BATCH_ROWS = 4  # packed rows that the model reads at one time, or as many more as the devices want


@dataclasses.dataclass(frozen=True)
class Losses:
    """Nats of a SID, summed over its levels, of each row of valid, float64 (R,): as they are, and with best scales."""

    plain_R: np.ndarray
    scaled_R: np.ndarray


def losses_of(places: SidPlaces) -> Losses:
    """Of what a model says where the SIDs of rows are learned, a SID a row."""
    levels = places.paths.num_levels
    row_M = np.arange(len(places.target_M)) // levels
    halves = [dataclasses.replace(places, **_rows_of(places, row_M % 2 == half)) for half in (0, 1)]
    scaled_R = np.zeros(len(row_M) // levels)
    for half in (0, 1):
        scales_C = halves[1 - half].best_scales("constrained")
        scaled_R[half::2] = _nats(halves[half], scales_C)
    return Losses(_nats(places, np.ones(levels)), scaled_R)


def _rows_of(places: SidPlaces, chosen_M: np.ndarray) -> dict[str, np.ndarray]:
    return {name: getattr(places, name)[chosen_M] for name in ("logits_Mn", "rest_M", "node_M", "target_M")}


def _nats(places: SidPlaces, scales_C: np.ndarray) -> np.ndarray:
    """float64 (R,), of each SID."""
    one = [
        dataclasses.replace(places, **_rows_of(places, np.arange(len(places.target_M)) == place)).loss(
            "constrained", scales_C
        )[0]
        for place in range(len(places.target_M))
    ]
    return np.array(one).reshape(-1, places.paths.num_levels).sum(axis=1)


def measure(config: Settings, dataset: Dataset, rows: int, paths: SidPaths | None) -> tuple[Losses, SidPaths]:
    """The losses of one start on rows spread over valid; with the paths of another start its program is used again."""
    built = load_parts(config, dataset, config.model.path)
    paths = paths or SidPaths.of_catalogue(dataset.catalogue, built.base_vocab_size)
    examples = NextSid(user_sequences=False).examples(TaskInputs(dataset, "valid", built.builder))
    examples = [examples[number] for number in spread(len(examples), min(rows, len(examples)))]
    length = config.train.sequence_length
    parts = parts_of(built.mesh, "batch")
    batches = list(packed_batches(examples, length, -(-BATCH_ROWS // parts) * parts, length, paths=paths))
    return losses_of(sid_places(built.model, batches, paths)), paths


def _line(name: str, losses: Losses, levels: int) -> str:
    return f"| {name} | {losses.plain_R.mean() / levels:.3f} | {losses.scaled_R.mean() / levels:.3f} |"


def _difference(name: str, right: Losses, shuffled: Sequence[Losses], levels: int) -> str:
    """How much more shuffled words cost than right ones, with the standard error over rows."""
    cells = []
    for kind in ("plain_R", "scaled_R"):
        more_R = (np.mean([getattr(losses, kind) for losses in shuffled], axis=0) - getattr(right, kind)) / levels
        cells.append(f"{more_R.mean():+.3f} ({more_R.std(ddof=1) / np.sqrt(len(more_R)):.3f})")
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2", help="any path that config.model.path takes")
    parser.add_argument("--dataset", required=True, help="a folder with SIDs and words of tokens")
    parser.add_argument("--rows", type=int, default=256, help="of valid")
    parser.add_argument("--shuffles", type=int, default=3, help="seeds of each control")
    parser.add_argument("--out", required=True, help="the report")
    given = parser.parse_args()
    folder = read_dataset(given.dataset)
    levels = folder.catalogue.num_levels
    config = default_config()
    config.model.path, config.model.dtype = given.model, "float32"
    settings, paths = settings_of(config), None

    def start(words: Mapping[str, TokenDescription], mode: str, seed: int = 42) -> Losses:
        nonlocal paths
        dataset = dataclasses.replace(folder, token_descriptions=words)
        changed = settings.changed({"sid_init": {"mode": mode}, "seed": seed})
        losses, paths = measure(changed, dataset, given.rows, paths)
        print(_line(f"{mode}, seed {seed}", losses, levels), flush=True)
        return losses

    sets = {"the folder's, of tokens": folder.token_descriptions} if folder.token_descriptions else {}
    for unit in ("token", "path"):
        found = describe_tokens(folder.catalogue, DescribeSettings(unit=unit))
        sets[f"offline, of {unit}s"] = {words.name: words for words in found}
    random = start({}, "normal")
    starts, differences = [_line("none: rows of N(0, 0.02^2)", random, levels)], []
    for name, words in sets.items():
        right = start(words, "sa")
        shuffled = [start(words, "sa_shuffled", seed) for seed in range(given.shuffles)]
        starts.append(_line(name, right, levels))
        starts += [_line(f"{name}, shuffled by seed {seed}", losses, levels) for seed, losses in enumerate(shuffled)]
        differences.append(_difference(name, right, shuffled, levels))
    text = "\n".join(
        [
            f"# The loss before any step, by the words of the start ({folder.name})\n",
            f"`{command()}`\n",
            f"All layers of {given.model}, {len(random.plain_R)} rows spread over valid, centred rows of the norm "
            f"{settings.sid_init.target_norm:g} of the pretrained ones, data {folder.data_hash[:12]}, commit "
            f"{commit()}, {machine()}. Nats per SID token, constrained to the catalogue.\n",
            "| words | as it is | with the best scale for each level |\n|---|---:|---:|",
            *starts,
            f"\nWhat the words of another cost, beyond the right ones (standard error over rows, mean of "
            f"{given.shuffles} seeds):\n",
            "| words | as it is | with the best scale for each level |\n|---|---:|---:|",
            *differences,
            "",
        ]
    )
    write_text(pathlib.Path(given.out), text)
    print(text)


if __name__ == "__main__":
    main()
