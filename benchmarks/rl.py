"""A step of the second stage against the usual loop on torch: `generate`, then an update of every candidate's sequence.

    PYTHONPATH=. python benchmarks/rl.py --out=runs/benchmark_rl.md

Needs the extra `peers` (torch). Both have the same weights, prompts and catalogue, and update on the same candidates;
the losses of the first step are compared. Ours searches and updates in one compiled program; the loop calls `generate`
with a prefix constraint, writes each candidate behind its prompt and runs the sequences of one prompt at a time.
Scoring is the forward pass of the candidates by itself; the update is what a step takes beside search and scoring.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import torch

from benchmarks.decoding.cases import generated_problem, qwen2_config
from benchmarks.decoding.problem import Problem
from benchmarks.decoding.torch_peers import as_shipped, torch_model
from benchmarks.facts import command
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.files import write_text
from tsrec_jax.pipeline.provenance import commit, machine
from tsrec_jax.progress import report
from tsrec_jax.rl.objectives.grpo import advantages
from tsrec_jax.rl.propose import propose
from tsrec_jax.rl.scores import score_candidates
from tsrec_jax.rl.settings import RlSettings
from tsrec_jax.rl.step import first_rl_step_and_state
from tsrec_jax.text_table import aligned
from tsrec_jax.training.settings import TrainSettings

RATE = 1e-5


def parser() -> argparse.ArgumentParser:
    """The flags."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--prompts", type=int, default=16, help="of a step")
    flags.add_argument("--length", type=int, default=96, help="tokens of a prompt")
    flags.add_argument("--beams", type=int, default=16, help="candidates of a prompt")
    flags.add_argument("--width", type=int, default=256, help="of the model, a Qwen2 shape of four layers")
    flags.add_argument("--items", type=int, default=3686)
    flags.add_argument("--repeats", type=int, default=5, help="timed steps")
    flags.add_argument("--out", type=pathlib.Path, required=True, help="Markdown that is written")
    return flags


def make_problem(options: argparse.Namespace) -> Problem:
    """Random weights, items and prompts."""
    config = qwen2_config(20768, options.width, 3 * options.width, 4, 4, 2)
    return generated_problem(
        "rl", config, first_id=20000, level_sizes=(256, 256, 256), items=options.items, batch=options.prompts,
        length=options.length, shared=0,
    )  # fmt: skip


def batch_of(problem: Problem) -> dict[str, np.ndarray]:
    """The prompts, with targets drawn from the catalogue, as `rl.batches.PromptBatches` has them; no teacher."""
    tokens_BT, lengths_B = problem.padded_behind()
    drawn = np.random.default_rng(1).integers(0, len(problem.codes_NC), len(tokens_BT))
    made = {
        "tokens_BT": tokens_BT,
        "segment_ids_BT": np.ones_like(tokens_BT),
        "lengths_B": lengths_B,
        "target_BC": problem.codes_NC[drawn],
        "items_B": np.ones(len(tokens_BT), np.float32),
        "teacher_BMC": np.zeros((len(tokens_BT), 0, problem.num_levels), np.int32),
        "teacher_gain_BM": np.zeros((len(tokens_BT), 0), np.float32),
    }
    return {name: array[None] for name, array in made.items()}


def median_seconds(call: Callable[[], Any], repeats: int) -> float:
    """The median seconds of some calls, after one that is not timed."""
    call()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def measure_ours(problem: Problem, batch: dict[str, Any], beams: int, repeats: int) -> dict[str, Any]:
    """Seconds of a step and of its parts, the first loss, and what the loop on torch updates on."""
    settings = RlSettings(objective="grpo", reward="rule", group=beams, teacher="", kl=0.0, nll=0.0)
    train = TrainSettings(max_steps=1000, learning_rate=RATE, warmup_steps=0, schedule="constant", clip_norm=0.0)
    trie = Trie.from_codes(problem.codes_NC, problem.level_sizes, problem.token_ids).arrays
    micro = {name: np.asarray(array[0]) for name, array in batch.items()}
    search = jax.jit(lambda model: propose(model, trie, micro, jax.random.key(0), group=beams))
    found = search(problem.model)
    score = jax.jit(
        lambda model: score_candidates(model, trie, micro["tokens_BT"], micro["lengths_B"], found.codes_BWC).log_p_BW
    )
    parts = {
        "search": median_seconds(lambda: jax.block_until_ready(search(problem.model)), repeats),
        "scoring": median_seconds(lambda: jax.block_until_ready(score(problem.model)), repeats),
    }
    reward_BW = np.zeros(found.group_BW.shape, np.float32)
    reward_BW[:, 0] = 1
    given = np.asarray(advantages(reward_BW, found.group_BW, found.codes_BWC)), np.asarray(found.codes_BWC)
    step, state = first_rl_step_and_state(problem.model, trie, settings, train)
    state, metrics = step.update(state, batch)
    loss = float(metrics["loss"])

    def one() -> None:
        nonlocal state
        state, metrics = step.update(state, batch)
        jax.block_until_ready(metrics["loss"])

    return {"step": median_seconds(one, repeats), **parts, "loss": loss, "given": given,
            "group": np.asarray(found.group_BW)}  # fmt: skip


def measure_torch(problem: Problem, ours: dict[str, Any], beams: int, repeats: int) -> dict[str, Any]:
    """The same for the loop on torch."""
    advantage_BW, codes_BWC = ours["given"]
    group_BW, children = ours["group"], legal_children(problem)
    with torch_model(problem) as model:
        search = as_shipped(problem, model, beams)
        optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0, eps=1e-8)
        members_B = [np.flatnonzero(group_W) for group_W in group_BW]
        masks = [  # of the rows' candidates, made once
            legal_mask(problem, codes_BWC[row, members], children, model.config.vocab_size).to(model.device)
            for row, members in enumerate(members_B)
        ]

        def score() -> None:
            with torch.no_grad():
                for row, prompt in enumerate(problem.prompts):
                    torch_log_p(model, problem, prompt, codes_BWC[row, members_B[row]], masks[row])

        def update() -> float:
            total = 0.0
            optimiser.zero_grad()
            for row, prompt in enumerate(problem.prompts):
                members = members_B[row]
                log_p_W = torch_log_p(model, problem, prompt, codes_BWC[row, members], masks[row])
                advantage_W = torch.tensor(advantage_BW[row, members], device=model.device)
                loss = -(advantage_W * log_p_W).mean() / len(problem.prompts)
                loss.backward()
                total += loss.item()
            optimiser.step()
            return total

        model.train()
        loss = update()
        timed = {"search": median_seconds(search, repeats), "scoring": median_seconds(score, repeats)}
        return {"loss": loss, "step": timed["search"] + median_seconds(update, repeats), **timed}


def legal_mask(
    problem: Problem, codes_WC: np.ndarray, children: dict[tuple[int, ...], list[int]], vocabulary: int
) -> torch.Tensor:
    """float32 (W, C, V): 0 on the codes that may follow the prefixes of some SIDs, -inf on all else."""
    masks_WCV = np.full((*codes_WC.shape, vocabulary), -np.inf, np.float32)
    for row, codes in enumerate(codes_WC.tolist()):
        for level, first in enumerate(problem.first_ids):
            masks_WCV[row, level, first + np.array(children[tuple(codes[:level])])] = 0
    return torch.tensor(masks_WCV)


def torch_log_p(
    model: Any, problem: Problem, prompt: Sequence[int], codes_WC: np.ndarray, masks_WCV: torch.Tensor
) -> torch.Tensor:
    """log P of SIDs behind a prompt among those of the catalogue, each a sequence of its own."""
    levels, first_ids = problem.num_levels, np.array(problem.first_ids)
    ids_WT = np.concatenate([np.tile(prompt, (len(codes_WC), 1)), codes_WC + first_ids], axis=1)
    logits = model(torch.tensor(ids_WT, device=model.device), logits_to_keep=levels + 1).logits[:, :-1].float()
    log_p = torch.log_softmax(logits + masks_WCV, dim=-1)
    wanted = torch.tensor(codes_WC + first_ids, device=model.device)[..., None]
    return log_p.gather(-1, wanted)[..., 0].sum(dim=-1)


def legal_children(problem: Problem) -> dict[tuple[int, ...], list[int]]:
    """The codes that may follow each prefix."""
    found: dict[tuple[int, ...], set[int]] = {}
    for codes in problem.codes_NC.tolist():
        for level, code in enumerate(codes):
            found.setdefault(tuple(codes[:level]), set()).add(code)
    return {prefix: sorted(codes) for prefix, codes in found.items()}


def main() -> None:
    """Measures both and writes the report."""
    options = parser().parse_args()
    problem = make_problem(options)
    batch = batch_of(problem)
    ours = measure_ours(problem, batch, options.beams, options.repeats)
    theirs = measure_torch(make_problem(options), ours, options.beams, options.repeats)
    if abs(ours["loss"] - theirs["loss"]) > 1e-4:
        raise SystemExit(f"the losses of the first step differ: {ours['loss']} and {theirs['loss']}")
    rows = [("", "s/step", "prompts/s", "search", "scoring", "update")]
    for name, found in (("ours", ours), ("generate + update", theirs)):
        whole = found["step"]
        shares = [found["search"] / whole, found["scoring"] / whole]
        rows.append((name, f"{whole:.3f}", f"{options.prompts / whole:.1f}",
                     *(f"{share:.0%}" for share in (*shares, 1 - sum(shares)))))  # fmt: skip
    text = "\n".join(aligned(rows))
    ratio = theirs["step"] / ours["step"]
    text += f"\n\nratio {ratio:.1f}; losses of the first step {ours['loss']:.6f} and {theirs['loss']:.6f}\n"
    made = f"`{command()}`\n\n{machine()}, commit {commit()}"
    write_text(options.out, f"# A step of the second stage\n\n{made}\n\n```\n{text}```\n")
    report(text)


if __name__ == "__main__":
    main()
