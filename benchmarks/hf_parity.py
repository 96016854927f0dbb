"""An exported folder against `transformers` on real rows: logits, and top-k lists by its own constrained beam search.

    python benchmarks/hf_parity.py --export=runs/industrial/export \
        --dataset=../shared/data/amazon/Industrial_and_Scientific

Needs torch (extra `peers`). Prints the largest difference of the logits and how many ranked lists are the same; exits
with 1 where a logit differs by more than 1e-3 or a list differs in a place that scores more than 1e-4 apart decide.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from tsrec_jax import Recommender
from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.dataset import read_dataset
from tsrec_jax.decoding.generate import search_all
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.hf import load_hf

LOGITS_TOLERANCE = 1e-3
NEAR = 1e-4  # nats: neighbours nearer than this may swap in float32


def logits_difference(model: Decoder, reference: PreTrainedModel, prompts: Sequence[list[int]]) -> float:
    """Largest absolute difference over all positions and tokens."""
    largest = 0.0
    for prompt in prompts:
        with torch.no_grad():
            theirs_TV = reference(torch.tensor([prompt])).logits[0].numpy()
        ours_TV = np.asarray(model(np.array([prompt], np.int32)))[0, :, : theirs_TV.shape[-1]]
        largest = max(largest, float(np.abs(ours_TV - theirs_TV).max()))
    return largest


def prefix_children(catalogue: Catalogue, tokenizer: PreTrainedTokenizerFast) -> dict[tuple[int, ...], list[int]]:
    """{ids so far: ids that may follow}, read off the exported tokenizer's spelling of every SID."""
    children: dict[tuple[int, ...], set[int]] = {}
    for sid in catalogue.items_of_sid:
        ids = tokenizer(sid, add_special_tokens=False)["input_ids"]
        for level, token in enumerate(ids):
            children.setdefault(tuple(ids[:level]), set()).add(token)
    return {prefix: sorted(tokens) for prefix, tokens in children.items()}


def reference_lists(
    catalogue: Catalogue,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[list[int]],
    beams: int,
) -> list[tuple[list[str], np.ndarray | None]]:
    """For each prompt the SIDs and scores (nats) of transformers' beam search under a prefix constraint.

    With one beam it is a greedy search, which returns no scores: None.
    """
    children = prefix_children(catalogue, tokenizer)
    found = []
    for prompt in prompts:
        start = len(prompt)
        answer = reference.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones((1, start), dtype=torch.long),
            num_beams=beams,
            num_return_sequences=beams,
            max_new_tokens=catalogue.num_levels,
            length_penalty=0.0 if beams > 1 else None,
            prefix_allowed_tokens_fn=lambda _, ids, start=start: children[tuple(ids.tolist()[start:])],
            pad_token_id=tokenizer.eos_token_id,
            return_dict_in_generate=True,
            output_scores=True,
        )
        sids = ["".join(tokenizer.convert_ids_to_tokens(row[start:].tolist())) for row in answer.sequences]
        found.append((sids, answer.sequences_scores.numpy() if beams > 1 else None))
    return found


def clear_places(scores: np.ndarray) -> np.ndarray:
    """True for each rank whose score is more than NEAR from its neighbours'."""
    near = np.abs(np.diff(scores)) <= NEAR
    return ~(np.append(near, False) | np.append(False, near))


def main() -> int:
    """Compares and prints; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", required=True, help="folder that the verb `export` wrote")
    parser.add_argument("--dataset", required=True, help="dataset folder with a test split")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--beams", type=int, default=20)
    options = parser.parse_args()
    if options.beams < 2:
        parser.error("--beams must be at least 2: with one beam transformers states no scores")

    recommender = Recommender.load(options.export)
    reference = AutoModelForCausalLM.from_pretrained(options.export, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.export)
    dataset = read_dataset(options.dataset)
    histories = dataset.splits["test"].histories[: options.rows]
    sids = [[dataset.catalogue.sid(item) for item in history] for history in histories]
    prompts = recommender.finder.builder.prompts_next_sid(sids, dataset.catalogue.num_levels)

    prefix = recommender.finder.builder.prefix("next_sid")

    difference = logits_difference(load_hf(options.export), reference, prompts)
    print(f"logits, float32, {sum(map(len, prompts))} positions of {len(prompts)} rows: max abs diff {difference:.2e}")
    trie = recommender.catalogue.trie
    ours = search_all(
        recommender.finder.model, trie, dataset.catalogue, prompts, beams=options.beams, batch_size=16, prefix=prefix
    )
    theirs = reference_lists(dataset.catalogue, reference, tokenizer, prompts, options.beams)
    same, clear_same, score_difference = 0, 0, 0.0
    for mine, (wanted, scores) in zip(ours, theirs, strict=True):
        ranked = [sid for sid, _ in mine]
        same += ranked == wanted
        clear_same += bool((np.array(ranked) == np.array(wanted))[clear_places(scores)].all())
        score_difference = max(score_difference, float(np.abs(np.array([score for _, score in mine]) - scores).max()))
    print(f"top-{options.beams} lists, {options.beams} beams: {same} of {len(ours)} rows identical in every place,")
    print(f"  {clear_same} of {len(ours)} identical wherever neighbouring scores differ by more than {NEAR:g} nats;")
    print(f"  scores of equal ranks differ by at most {score_difference:.2e} nats")
    return 0 if difference <= LOGITS_TOLERANCE and clear_same == len(ours) else 1


if __name__ == "__main__":
    sys.exit(main())
