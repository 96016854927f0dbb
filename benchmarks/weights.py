"""A search with its weights in float32, bfloat16 and eight bits: time, memory, and how far the scores are apart.

    PYTHONPATH=. python benchmarks/weights.py --out=runs/benchmark_weights.md

Random weights of the shape of Qwen2.5-0.5B; on a CPU, GPU or TPU. What eight bits cost in accuracy only trained weights
show: configs/studies/weights.py.
"""

from __future__ import annotations

import argparse
import pathlib

import jax
import numpy as np
from flax import nnx

from benchmarks.decoding.cases import generated_problem, qwen2_config
from benchmarks.decoding.problem import Lists, Method, Problem
from benchmarks.decoding.timing import take_turns
from benchmarks.table_report import write_table_report
from tsrec_jax.decoding.beam_search import SearchSettings, beam_search
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.models.attention import choose
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.inference import InferenceModel
from tsrec_jax.progress import report

KINDS = (("float32", "full"), ("bfloat16", "full"), ("float32", "int8"), ("bfloat16", "int8"))
MIB = 2**20


def parser() -> argparse.ArgumentParser:
    """The flags."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--width", type=int, default=896, help="of the model, a Qwen2 shape; a multiple of 64")
    flags.add_argument("--mlp", type=int, default=4864, help="width of its MLP")
    flags.add_argument("--layers", type=int, default=24)
    flags.add_argument("--rows", type=int, default=152_320, help="of its table, of which 768 are SID tokens")
    flags.add_argument("--batch", type=int, default=1, help="prompts")
    flags.add_argument("--length", type=int, default=150, help="tokens of a prompt")
    flags.add_argument("--beams", type=int, default=20)
    flags.add_argument("--normaliser", choices=("constrained", "vocabulary"), default="constrained")
    flags.add_argument("--repeats", type=int, default=20, help="timed searches of each")
    flags.add_argument("--out", type=pathlib.Path, required=True, help="Markdown that is written")
    return flags


def make_problem(options: argparse.Namespace) -> Problem:
    """Random weights, items and prompts."""
    config = qwen2_config(options.rows, options.width, options.mlp, options.layers, options.width // 64, 1)
    sizes = (256, 256, 256)
    return generated_problem(
        "weights", config, first_id=options.rows - sum(sizes), level_sizes=sizes, items=3670, batch=options.batch,
        length=options.length, shared=0,
    )  # fmt: skip


def model_of(model: Decoder, dtype: str, weights: str) -> InferenceModel:
    """The weights of a decoder as a search holds them, with another compute dtype."""
    changed = nnx.merge(*nnx.split(model))
    changed.dtype, changed.attention = dtype, choose("auto", model.config, dtype)
    return InferenceModel.of(changed, weights)


def method_of(problem: Problem, model: InferenceModel, options: argparse.Namespace) -> Method:
    """A whole search."""
    trie = Trie.from_codes(problem.codes_NC, problem.level_sizes, problem.token_ids).arrays
    tokens_BS, lengths_B = problem.padded_behind()
    settings = SearchSettings(options.beams, options.normaliser)

    def search() -> Lists:
        found = beam_search(model, trie, tokens_BS, lengths_B, settings)
        return Lists(np.asarray(found.codes_BWC), np.asarray(found.scores_BW))

    return search


def shared(first: Lists, second: Lists) -> float:
    """Of the SIDs in the lists of one search, the share that those of another have too."""
    rows = zip(first.codes_BWC.tolist(), second.codes_BWC.tolist(), strict=True)
    return float(np.mean([len({*map(tuple, one)} & {*map(tuple, other)}) / len(one) for one, other in rows]))


def main(arguments: list[str] | None = None) -> None:
    """Measures and writes the report."""
    options = parser().parse_args(arguments)
    problem = make_problem(options)
    models = {kind: model_of(problem.model, *kind) for kind in KINDS}
    names = {kind: f"{kind[1]}, computed in {kind[0]}" for kind in KINDS}
    methods = {names[kind]: method_of(problem, model, options) for kind, model in models.items()}
    timings, results = take_turns(methods, options.repeats, 600.0, report)
    exact = results[names[KINDS[0]]]
    rows = [["weights", "ms a search", "MiB of weights", f"of {options.beams} SIDs, those of float32"]]
    for kind, model in models.items():
        held = sum(leaf.nbytes for leaf in jax.tree.leaves((model.layers, model.embedding_VD, model.head_VD)))
        time, found = timings[names[kind]].median, results[names[kind]]
        rows.append([names[kind], f"{1e3 * time:.1f}", f"{held / MIB:,.0f}", f"{shared(exact, found):.1%}"])
    measured = (
        f"Medians of {options.repeats} searches in turns: {options.batch} random prompts of {options.length} tokens, "
        f"{options.beams} beams, scores {options.normaliser}; a random Qwen2 of width {options.width}, "
        f"{options.layers} layers and {options.rows:,} rows."
    )
    write_table_report(options.out, "Weights of a search", measured, rows)


if __name__ == "__main__":
    main()
