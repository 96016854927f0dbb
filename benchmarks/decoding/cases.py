"""The cases: a tiny Qwen2 shape, real SmolLM2-135M with real prompts, and the shape of Qwen2.5-0.5B."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from benchmarks.decoding.problem import Problem
from tsrec_jax.decoding.generate import BUCKETS
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.layers import parameter_shapes

# Our own words, as long as the reference's header: 74 tokens in SmolLM2's spelling.
LONG_HEADER = (
    "You are the recommender of an online shop. Every item of the shop is named by a code of three parts, and items "
    "that are alike have codes that begin alike. The line below lists what one customer has bought so far, the "
    "oldest purchase first. Read it, consider what this person may need, and write the code of the item that "
    "comes next.\n"
)


def random_model(config: ModelConfig, num_tokens: int, seed: int = 0) -> Decoder:
    """A decoder with normal weights (deviation 0.02), whose embeddings spread the scores as training would."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, (shape, _) in parameter_shapes(config).items():
        if name.endswith("norm"):
            weights[name] = jnp.ones(shape)
            continue
        array = rng.standard_normal(shape, np.float32)
        array *= 0.1 if name == "embedding" else 0.02
        weights[name] = jnp.asarray(array)
    return Decoder(config, weights=weights, num_tokens=num_tokens)


def qwen2_config(rows: int, d_model: int, d_mlp: int, layers: int, heads: int, kv_heads: int) -> ModelConfig:
    """A tied Qwen2 shape."""
    return ModelConfig(
        family="qwen2",
        vocab_rows=rows,
        d_model=d_model,
        d_mlp=d_mlp,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=d_model // heads,
        rope_theta=1e6,
        rms_eps=1e-6,
        tied=True,
        qkv_bias=True,
        max_positions=32768,
    )


def generated_problem(
    name: str,
    config: ModelConfig,
    *,
    first_id: int,
    level_sizes: Sequence[int],
    items: int,
    batch: int,
    length: int,
    shared: int,
    num_tokens: int | None = None,
    seed: int = 0,
) -> Problem:
    """Random weights, random distinct items, random prompts of one length with a common start.

    `num_tokens`: vocabulary ids in use; None: those up to the last SID token.
    """
    rng = np.random.default_rng(seed)
    keys = rng.choice(int(np.prod(level_sizes)), items, replace=False)
    codes_NC = np.stack(np.unravel_index(keys, level_sizes), axis=1).astype(np.int32)
    start = rng.integers(1, first_id, shared).tolist()
    prompts = [start + rng.integers(1, first_id, length - shared).tolist() for _ in range(batch)]
    model = random_model(config, num_tokens or first_id + sum(level_sizes), seed)
    return Problem(name, model, codes_NC, tuple(level_sizes), first_id, prompts, shared)


def tiny_qwen2() -> Problem:
    """D 256, 4 layers, V 20,768 of which 3 x 256 are SID tokens; 8 prompts of 150 tokens, nothing cached."""
    config = qwen2_config(20768, 256, 688, 4, 4, 2)
    return generated_problem(
        "tiny Qwen2 shape",
        config,
        first_id=20000,
        level_sizes=(256, 256, 256),
        items=10_000,
        batch=8,
        length=150,
        shared=0,
    )


def qwen2_5_half_billion() -> Problem:
    """The shape of Qwen2.5-0.5B extended by 560 SID tokens; one prompt of 150 tokens, 74 of them a cached header.

    The ids start at 151,665, inside the table's padding rows, and end at 152,225: beyond its 151,936 rows, so that the
    table grows to the next multiple of 128, as `extend_vocabulary` would have it.
    """
    config = qwen2_config(152320, 896, 4864, 24, 14, 2)
    return generated_problem(
        "Qwen2.5-0.5B shape",
        config,
        first_id=151665,
        level_sizes=(48, 256, 256),
        items=3670,
        batch=1,
        length=150,
        shared=74,
    )


def smollm2(dataset: pathlib.Path, *, long_header: bool, batch: int = 8) -> Problem:
    """SmolLM2-135M's weights extended with SID rows as a run does it, and the first batch of the test split.

    The batch is one that `search_all` makes: prompts of one bucket of lengths, the one that most prompts fall into.
    """
    from tsrec_jax.data.dataset import read_dataset
    from tsrec_jax.pipeline.recommender_parts import load_parts
    from tsrec_jax.settings import paper_config, settings_of

    config = paper_config()
    config.model.path = "smollm2"
    if long_header:
        config.templates.next_sid.header = LONG_HEADER
    data = read_dataset(dataset)
    parts = load_parts(settings_of(config), data, "smollm2")
    histories = [[data.catalogue.sid(item) for item in history] for history in data.splits["test"].histories]
    prompts = parts.builder.prompts_next_sid(histories, data.catalogue.num_levels)
    sizes = tuple(len(tokens) for tokens in data.catalogue.level_tokens)
    return Problem(
        f"SmolLM2-135M, real prompts, {'long' if long_header else 'short'} header",
        parts.model,
        np.asarray(data.catalogue.codes_IC),
        sizes,
        parts.base_vocab_size,
        _fullest_bucket(prompts)[:batch],
        _common_start(prompts),
    )


def _common_start(prompts: Sequence[Sequence[int]]) -> int:
    """Leading tokens that all prompts have in common."""
    columns = zip(*prompts, strict=False)
    return next((place for place, tokens in enumerate(columns) if len(set(tokens)) > 1), min(map(len, prompts)))


def _fullest_bucket(prompts: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """The prompts of the bucket that holds most of them, in their order."""
    members: dict[int, list[Sequence[int]]] = {}
    for prompt in prompts:
        members.setdefault(next(size for size in BUCKETS if size >= len(prompt)), []).append(prompt)
    return max(members.values(), key=len)


def miniature() -> Problem:
    """A case of a second, for tests: fewer first-level nodes than beams would fill, and a cached start."""
    config = qwen2_config(128, 32, 48, 2, 4, 2)
    return generated_problem(
        "miniature", config, first_id=64, level_sizes=(6, 8, 8), items=90, batch=3, length=12, shared=4
    )


def all_cases(dataset: pathlib.Path) -> dict[str, tuple[Callable[[], Problem], tuple[int, ...]]]:
    """{name: (maker, beam widths)}."""
    return {
        "tiny": (tiny_qwen2, (20, 50)),
        "smollm2_short": (lambda: smollm2(dataset, long_header=False), (20, 50)),
        "smollm2_long": (lambda: smollm2(dataset, long_header=True), (20, 50)),
        "qwen2_5": (qwen2_5_half_billion, (20,)),
        "miniature": (miniature, (4,)),
    }
