"""Training with transformers on torch: padded batches, full logits, its own loss, AdamW, as its Trainer does."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, PreTrainedModel

from benchmarks.training.problem import CLIP_NORM, HORIZON, LEARNING_RATE, WARMUP, Problem, shuffled
from tsrec_jax.data.tasks.task import Example
from tsrec_jax.models.hf import save_hf

IGNORED = -100
MULTIPLE = 8  # of a padded length
LENGTH_WINDOW = 50  # batches that are sorted by length together, as group_by_length does


def torch_model(problem: Problem, dtype: str) -> PreTrainedModel:
    """The problem's weights as transformers' own class with sdpa, on the GPU where torch has one."""
    with tempfile.TemporaryDirectory(prefix="tsrec-bench-") as folder:
        save_hf(problem.model, folder)
        model = AutoModelForCausalLM.from_pretrained(
            pathlib.Path(folder), dtype=getattr(torch, dtype), attn_implementation="sdpa"
        )
        model = model.to("cuda" if torch.cuda.is_available() else "cpu")
        # Reading maps the file; training on copies lets it go.
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        return model.train()


class _Padding:
    """What the collator asks of a tokenizer: padding on the left, as the reference sets it."""

    padding_side = "left"

    def __init__(self):
        self.deprecation_warnings = {}

    def pad(self, features, pad_to_multiple_of, **_):
        longest = max(len(row["input_ids"]) for row in features)
        longest += -longest % (pad_to_multiple_of or 1)
        fill = {"input_ids": 0, "attention_mask": 0}
        return {
            name: torch.tensor([[value] * (longest - len(row[name])) + list(row[name]) for row in features])
            for name, value in fill.items()
        }


def collate(examples: list[Example]) -> dict[str, torch.Tensor]:
    """A padded batch with labels at the completions only, by transformers' own collator."""
    features = []
    for example in examples:
        tokens = example.tokens.tolist()
        labels = [IGNORED] * example.prompt_length + tokens[example.prompt_length :]
        features.append({"input_ids": tokens, "attention_mask": [1] * len(tokens), "labels": labels})
    return DataCollatorForSeq2Seq(_Padding(), pad_to_multiple_of=MULTIPLE, return_tensors="pt")(features)


def make_step(
    examples: Mapping[str, Sequence[Example]], model: PreTrainedModel, rows: int, by_length: bool
) -> Callable[[], tuple[float, int, float]]:
    """A function that trains one step and gives (loss, examples, share of useful tokens)."""
    fused = model.device.type == "cuda"  # as its Trainer does
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=fused)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / WARMUP, max(0.0, (HORIZON - step) / (HORIZON - WARMUP)))
    )
    batches = _sorted(shuffled(examples, rows)) if by_length else shuffled(examples, rows)

    def step() -> tuple[float, int, float]:
        batch = collate(next(batches))
        useful = float(batch["attention_mask"].float().mean())
        batch = {name: value.to(model.device) for name, value in batch.items()}
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
        return float(loss.detach()), rows, useful

    return step


def loss_of(model: PreTrainedModel, examples: list[Example]) -> float:
    """The loss of these examples in one padded batch, before any step."""
    batch = {name: value.to(model.device) for name, value in collate(examples).items()}
    with torch.inference_mode():
        return float(model(**batch, use_cache=False).loss)


def _sorted(batches: Iterator[list[Example]]) -> Iterator[list[Example]]:
    """Batches of rows of about one length: some batches' rows are sorted and cut anew, in a mixed order."""
    generator = torch.Generator().manual_seed(0)
    while True:
        window = [next(batches) for _ in range(LENGTH_WINDOW)]
        rows = sorted((row for batch in window for row in batch), key=lambda row: -len(row.tokens))
        size = len(window[0])
        cut = [rows[first : first + size] for first in range(0, len(rows), size)]
        for number in torch.randperm(len(cut), generator=generator).tolist():
            yield cut[number]
