"""How alike the rows are that the SID tokens of a level start with: the mean cosine over all pairs of them.

    python benchmarks/sid_init.py --model=smollm2 --dataset=../shared/data/amazon/Industrial_and_Scientific

Tokens that start alike must first be told apart. Prints a line for each initialisation.
"""

import argparse

import numpy as np

from tsrec_jax.data.dataset import Dataset, read_dataset
from tsrec_jax.pipeline.recommender_parts import load_parts
from tsrec_jax.settings import default_config, settings_of

STARTS = {
    "sa": {"centred": False},
    "sa, centred": {"centred": True},
    "sa_shuffled": {"mode": "sa_shuffled", "centred": False},
    "hf": {"mode": "hf"},
    "normal": {"mode": "normal"},
}


def cosines(dataset: Dataset, model: str, start: dict) -> tuple[list[float], float]:
    """The mean cosine of each level's rows with each other, and the mean norm of all rows."""
    config = default_config()
    config.model.path = model
    config.model.num_layers = 1  # the table alone is looked at
    config.sid_init.update(start)
    parts = load_parts(settings_of(config), dataset, model)
    levels_n = dataset.catalogue.token_levels
    table_VD = np.asarray(parts.model.embedding[...], np.float32)
    rows_nD = table_VD[parts.base_vocab_size : parts.base_vocab_size + len(levels_n)]
    norms_n1 = np.linalg.norm(rows_nD, axis=1, keepdims=True)
    means = []
    for level in range(dataset.catalogue.num_levels):
        unit_nD = (rows_nD / norms_n1)[levels_n == level]
        count = len(unit_nD)
        means.append(float((np.square(unit_nD.sum(axis=0)).sum() - count) / max(count * (count - 1), 1)))
    return means, float(norms_n1.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2", help="any path that config.model.path takes")
    parser.add_argument("--dataset", required=True, help="a folder with SIDs and keywords")
    given = parser.parse_args()
    dataset = read_dataset(given.dataset)
    for name, start in STARTS.items():
        means, norm = cosines(dataset, given.model, start)
        print(f"{name:12} mean cosine by level {', '.join(f'{mean:.3f}' for mean in means)}; mean norm {norm:.2f}")


if __name__ == "__main__":
    main()
