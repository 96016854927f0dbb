"""Two ways to do the search with Hugging Face's torch models: `generate` as it comes, and by someone who knows both."""

from __future__ import annotations

import contextlib
import inspect
import pathlib
import tempfile
from collections.abc import Iterator

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from benchmarks.decoding.problem import Lists, Method, Problem, dense_tables
from tsrec_jax.models.hf import save_hf


@contextlib.contextmanager
def torch_model(problem: Problem) -> Iterator[PreTrainedModel]:
    """The problem's weights as transformers' own class, float32, on the GPU where torch has one."""
    with tempfile.TemporaryDirectory(prefix="tsrec-bench-") as folder:
        save_hf(problem.model, folder, num_tokens=problem.num_tokens)
        model = AutoModelForCausalLM.from_pretrained(
            pathlib.Path(folder), dtype=torch.float32, attn_implementation="sdpa"
        )
        # Reading maps the file; a copy lets the folder go.
        model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        yield model


def as_shipped(problem: Problem, model: PreTrainedModel, beams: int) -> Method:
    """`generate` with a prefix constraint over a dictionary of prefixes, as MiniOneRec (arXiv 2510.24431) decodes.

    `generate` repeats the prompts for the beams before it reads them, and asks the constraint once a beam and step.
    """
    first_ids, levels = problem.first_ids, problem.num_levels
    allowed: dict[tuple[int, ...], list[int]] = {}
    for codes in np.unique(problem.codes_NC, axis=0).tolist():
        ids = [first + code for first, code in zip(first_ids, codes, strict=True)]
        for level, token in enumerate(ids):
            allowed.setdefault(tuple(ids[:level]), []).append(token)
    allowed = {prefix: sorted(set(tokens)) for prefix, tokens in allowed.items()}
    tokens_BS, lengths_B = problem.padded_before()
    size = tokens_BS.shape[1]
    mask_BS = (np.arange(size) >= size - lengths_B[:, None]).astype(np.int64)
    tokens = torch.tensor(tokens_BS, dtype=torch.long, device=model.device)
    mask = torch.tensor(mask_BS, device=model.device)
    settings = GenerationConfig(
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=levels,
        length_penalty=0.0,
        do_sample=False,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )

    def following(_: int, ids: torch.Tensor) -> list[int]:
        # A beam that left the catalogue has no prefix here; it is at -1e9 already, whatever it writes next.
        return allowed.get(tuple(ids[size:].tolist()), [0])

    def search() -> Lists:
        with torch.inference_mode():
            found = model.generate(
                tokens, attention_mask=mask, generation_config=settings, prefix_allowed_tokens_fn=following
            )
        shape = (len(tokens), beams)
        codes = found.sequences[:, size:].reshape(*shape, levels).cpu().numpy() - np.array(first_ids)
        scores = found.sequences_scores.reshape(shape).float().cpu().numpy()
        return Lists(codes.astype(np.int32), np.where(scores < -1e8, -np.inf, scores))

    return search


def expert(problem: Problem, model: PreTrainedModel, beams: int) -> Method:
    """The prompt once a request, the cache repeated for the beams and reordered, the trie as tensors."""
    device = model.device
    # Older transformers name it otherwise, and a name that a model does not know it passes over without a word.
    cache_name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    tables = [torch.tensor(table, device=device) for table in dense_tables(problem.codes_NC, problem.level_sizes)]
    first_ids = problem.first_ids
    tokens_BS, lengths_B = problem.padded_before()
    batch, size = tokens_BS.shape
    tokens = torch.tensor(tokens_BS, dtype=torch.long, device=device)
    lengths = torch.tensor(lengths_B, dtype=torch.long, device=device)
    mask = torch.arange(size, device=device)[None] >= size - lengths[:, None]
    # Without padding there is nothing to mask, and attention takes its faster path.
    padded = bool((lengths_B != size).any())
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
    rows = torch.arange(batch, device=device)[:, None]

    @torch.inference_mode()
    def search() -> Lists:
        out = model(
            input_ids=tokens,
            attention_mask=mask.long() if padded else None,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
        )
        cache, logits = out.past_key_values, out.logits[:, -1:]
        scores = torch.zeros((batch, 1), device=device)
        nodes = torch.zeros((batch, 1), dtype=torch.long, device=device)
        path = torch.zeros((batch, 1, 0), dtype=torch.long, device=device)
        for level, table in enumerate(tables):
            before, codes_E = nodes.shape[1], table.shape[1]
            log_probs = torch.log_softmax(logits.float(), dim=-1)
            log_probs = log_probs[..., first_ids[level] : first_ids[level] + codes_E]
            children = table[nodes]
            totals = (scores[..., None] + log_probs).masked_fill(children < 0, -torch.inf).flatten(1)
            scores, picked = totals.topk(min(beams, totals.shape[1]), dim=-1)
            parents, codes = picked // codes_E, picked % codes_E
            # Dead beams stay on node 0: their -inf total never comes back.
            nodes = children.flatten(1).gather(1, picked).clamp(min=0).long()
            path = torch.cat([path[rows, parents], codes[..., None]], dim=-1)
            if level == len(tables) - 1:
                break
            width = scores.shape[1]
            if level == 0:
                cache.batch_repeat_interleave(width)
            else:
                cache.reorder_cache((rows * before + parents).flatten())
            flat_mask = None
            if padded:
                grown = torch.ones((batch, level + 1), dtype=torch.bool, device=device)
                flat_mask = torch.cat([mask, grown], dim=-1).long().repeat_interleave(width, 0)
            out = model(
                input_ids=(first_ids[level] + codes).reshape(-1, 1),
                attention_mask=flat_mask,
                position_ids=(lengths + level).repeat_interleave(width)[:, None],
                **{cache_name: cache},
                use_cache=True,
                logits_to_keep=1,
            )
            logits = out.logits[:, -1].unflatten(0, (batch, width))
        return Lists(path.int().cpu().numpy(), scores.cpu().numpy())

    return search
