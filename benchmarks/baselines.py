"""All baselines on one folder, without a language model: what is to be beaten, and which of them is best where.

    PYTHONPATH=. python benchmarks/baselines.py --dataset=../shared/data/amazon/Industrial_rebuilt \\
        --workdir=runs/baselines_industrial --out=runs/baselines_industrial.md

Settings are chosen on valid, and test is ranked once. Each baseline is kept as soon as it is measured, and is measured
again where its version is another one. With --level=item every item is a SID of its own, as in published leave-one-out
figures; that needs no SIDs, so a folder of `tsrec prepare` is enough. `knn` is measured where --vectors gives an .npy
file of item vectors, such as index/embeddings.npy of a run's workdir.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
from typing import Any

from benchmarks.facts import command
from benchmarks.kept import Kept, say
from tsrec_jax.baselines.names import BASELINES
from tsrec_jax.baselines.run import run_baseline
from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.dataset import Dataset, read_dataset
from tsrec_jax.data.folder_files import sha256_of
from tsrec_jax.data.target_ranks import find_targets
from tsrec_jax.data.text_folder import read_texts
from tsrec_jax.files import write_text
from tsrec_jax.pipeline.provenance import commit, machine
from tsrec_jax.sid.given import read_embeddings
from tsrec_jax.text_table import markdown_table

METRICS = ("HR@1", "HR@5", "HR@10", "HR@20", "NDCG@5", "NDCG@10")
LENGTH = 20


def open_dataset(path: str, level: str) -> Dataset:
    """The folder with its SIDs, or at level `item` with one SID for each item."""
    if level == "sid":
        return read_dataset(path)
    texts = read_texts(path)
    catalogue = Catalogue(texts.items, tuple((f"<a_{number}>",) for number in range(len(texts.items))))
    return Dataset(texts.name, texts.path, catalogue, texts.splits, {}, texts.data_hash)


def measure(name: str, dataset: Dataset, vectors: str, seed: int) -> dict[str, Any]:
    """Metrics on test, and facts, for one baseline."""
    train, valid, test = (dataset.splits[split] for split in ("train", "valid", "test"))
    read = functools.partial(read_embeddings, pathlib.Path(vectors), dataset.catalogue.num_items) if vectors else None
    result = run_baseline(name, dataset, train, valid, test, LENGTH, seed, say, read)
    found = find_targets(result.lists, test.targets, dataset.catalogue)
    metrics = {metric: found.mean("sid", metric) for metric in METRICS}
    return {"metrics": metrics, "facts": dict(result.facts), "commit": commit()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True, help="a folder with a test split")
    parser.add_argument("--level", default="sid", choices=("sid", "item"), help="what is ranked")
    parser.add_argument("--baselines", default="", help="names, with semicolons; empty: all")
    parser.add_argument("--vectors", default="", help=".npy of item vectors, in the order of the item file")
    parser.add_argument("--seed", type=int, default=1, help="of SASRec")
    parser.add_argument("--workdir", required=True, help="where measurements are kept")
    parser.add_argument("--out", required=True, help="the report")
    parser.add_argument("--fresh", action="store_true", help="measure again what is kept")
    given = parser.parse_args()
    dataset = open_dataset(given.dataset, given.level)
    facts = {"data": dataset.data_hash, "level": given.level}
    kept = Kept(pathlib.Path(given.workdir), facts, given.fresh)
    names = given.baselines.split(";") if given.baselines else [
        name for name, row in BASELINES.items() if given.vectors or not row.vectors
    ]  # fmt: skip
    rows, ends = [], []
    for name in names:
        row = BASELINES[name]
        seed, vectors = given.seed if row.seeded else 0, given.vectors if row.vectors else ""
        make = functools.partial(measure, name, dataset, vectors, seed)
        hashed = sha256_of(pathlib.Path(vectors)) if vectors else ""
        found = kept.get(name, {"seed": seed, "vectors": hashed, "version": row.version}, make)
        values = [f"{found['metrics'][metric]:.4f}" for metric in METRICS]
        cost = [f"{found['facts']['parameters']}", f"{found['facts']['fit_seconds']:.0f}"]
        rows.append([name, *values, *cost, found.get("commit", "unknown")[:7]])
        say(f"{name}: {' '.join(values)}")
        ends += [f"{name} ({setting})" for setting in found["facts"].get("at_end", ())]
    test = dataset.splits["test"]
    lines = [
        f"# Baselines on {dataset.name}, {given.level} level\n",
        f"`{command()}`\n",
        f"{len(dataset.splits['train'])} rows of train, {len(test)} of test, {dataset.catalogue.num_items} items; "
        f"chosen on valid; seed {given.seed}, data {dataset.data_hash[:12]}, {machine()}. A row says which commit "
        "measured it.\n",
        markdown_table([["baseline", *METRICS, "numbers kept", "seconds to fit", "commit"], *rows]),
        "",
        f"Chosen at the end of what was tried: {', '.join(ends) or 'nothing'}.",
        "",
    ]
    write_text(pathlib.Path(given.out), "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
