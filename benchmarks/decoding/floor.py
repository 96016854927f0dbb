"""The arithmetic no exact search can avoid, and the rate at which this machine multiplies matrices."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.decoding.problem import Problem
from tsrec_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Floor:
    """Floating-point operations (2 x multiply-adds) of one search of all requests.

    Attributes:
      prefill: every layer over every uncached prompt token, but of the last layer only its keys and values, except for
        each prompt's last token.
      steps: every layer over the tokens that beams write, the last token apart, which nobody reads.
      head: rows of the output table for each prompt's last token and each beam of the steps.
    """

    prefill: float
    steps: float
    head: float

    @property
    def total(self) -> float:
        """Of the whole search."""
        return self.prefill + self.steps + self.head


def fed_beams(problem: Problem, beams: int) -> list[int]:
    """Beams of a request that each step feeds to the model: no more than there are prefixes."""
    return [min(beams, nodes) for nodes in problem.nodes[:-1]]


def floor_of(problem: Problem, beams: int) -> Floor:
    """The floor at the true prompt lengths; attention counts the keys that a token may see, no masked ones."""
    config = problem.model.config
    d, f, h = config.d_model, config.d_mlp, config.head_dim
    kv = 2 * d * config.num_kv_heads * h
    token = d * config.num_heads * h * 2 + kv + 3 * d * f
    see = 2 * config.num_heads * h  # scores and weighted values, a visible key
    prefill = steps = 0.0
    fed = fed_beams(problem, beams)
    for prompt in problem.prompts:
        length = len(prompt)
        uncached = length - problem.shared
        keys = (length * (length + 1) - problem.shared * (problem.shared + 1)) / 2
        prefill += (config.num_layers - 1) * (uncached * token + keys * see)
        prefill += uncached * kv + (token - kv) + length * see
        for step, width in enumerate(fed, 1):
            steps += width * config.num_layers * (token + (length + step) * see)
    head = len(problem.prompts) * (1 + sum(fed)) * d * problem.num_tokens
    return Floor(2 * prefill, 2 * steps, 2.0 * head)


def program_shapes(problem: Problem, beams: int) -> dict[str, tuple[int, int, int]]:
    """(rows, inner, columns) of the matrix products that the search consists of, by name."""
    config = problem.model.config
    batch = len(problem.prompts)
    tokens = sum(len(prompt) - problem.shared for prompt in problem.prompts)
    d, f, heads = config.d_model, config.d_mlp, config.num_heads * config.head_dim
    shapes = {}
    for name, rows in [("prompt", tokens), ("step", batch * fed_beams(problem, beams)[-1])]:
        shapes[f"{name}: query, output"] = (rows, d, heads)
        shapes[f"{name}: key, value"] = (rows, d, config.num_kv_heads * config.head_dim)
        shapes[f"{name}: gate, up"] = (rows, d, f)
        shapes[f"{name}: down"] = (rows, f, d)
        shapes[f"{name}: head"] = (rows if name == "step" else batch, d, problem.num_tokens)
    return shapes


@jax.jit
def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return a @ b


def gemm_rate(rows: int, inner: int, columns: int, seconds: float = 0.3) -> float:
    """float32 operations a second of one matrix product, the best of the runs that fit into `seconds`."""
    rng = np.random.default_rng(0)
    a = jnp.asarray(rng.standard_normal((rows, inner), np.float32))
    b = jnp.asarray(rng.standard_normal((inner, columns), np.float32))
    _product(a, b).block_until_ready()
    best, spent, runs = np.inf, 0.0, 0
    while runs < 3 or (spent < seconds and runs < 1000):
        started = time.perf_counter()
        _product(a, b).block_until_ready()
        taken = time.perf_counter() - started
        best, spent, runs = min(best, taken), spent + taken, runs + 1
    return 2.0 * rows * inner * columns / best


def square_rate(sizes: Sequence[int] = (512, 1024, 1536, 2048)) -> float:
    """The GEMM rate: operations a second of the best of a few square products."""
    return max(gemm_rate(size, size, size) for size in sizes)


def time_at_own_shapes(problem: Problem, beams: int, rates: dict[str, float], square: float) -> float:
    """Seconds of the floor when each product runs at the rate of its own shape, and attention at the square rate."""
    config = problem.model.config
    floor = floor_of(problem, beams)
    fed, batch = sum(fed_beams(problem, beams)), len(problem.prompts)
    tokens = sum(len(prompt) - problem.shared for prompt in problem.prompts)
    shapes = program_shapes(problem, beams)
    copies = {"query, output": 2, "key, value": 2, "gate, up": 2, "down": 1}
    seconds = counted = 0.0
    for name, (_, inner, columns) in shapes.items():
        part, product = name.split(": ")
        if product == "head":
            flops = 2.0 * (batch if part == "prompt" else batch * fed) * inner * columns
        elif part == "step":
            flops = 2.0 * batch * fed * config.num_layers * copies[product] * inner * columns
        else:
            whole = config.num_layers if product == "key, value" else config.num_layers - 1
            flops = 2.0 * tokens * whole * copies[product] * inner * columns
        seconds += flops / rates[name]
        counted += flops
    return seconds + max(0.0, floor.total - counted) / square


def flops_a_token(config: ModelConfig) -> float:
    """Operations of all layers for one token, attention apart."""
    heads = config.num_heads + config.num_kv_heads
    return 2.0 * config.num_layers * config.d_model * (2 * heads * config.head_dim + 3 * config.d_mlp)
