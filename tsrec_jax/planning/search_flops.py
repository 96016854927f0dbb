"""What one request costs, as arithmetic on the shapes of model and catalogue: nothing is run.

FLOPs are those of matrix products (a multiply and an add are two) of the search in `decoding.beam_search`, without the
padding of a batch. The beginning that all prompts share is computed once per process and left out, but attention to its
positions counts. Also left out are the few products of a beam with its own tokens, and what a fusion adds: its tables,
and a dense head's 2 x items x width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.layers import layer_shapes


def search_flops(
    config: ModelConfig,
    *,
    prompt: int,
    shared: int,
    codes: Sequence[int],
    widths: Sequence[int],
    beams: int,
    whole_vocabulary: bool,
) -> float:
    """FLOPs of one request.

    Args:
      config: the model's shape.
      prompt: number of tokens of the prompt, without those that all prompts share.
      shared: number of tokens before them that all prompts share.
      codes: number of codes on each SID level, whose logits are computed for every beam.
      widths: for each level, how many codes the search reads after a prefix.
      beams: number of beams of the search.
      whole_vocabulary: whether scores are normalised over the vocabulary.
    """
    kernels = {name: math.prod(shape[1:]) for name, (shape, _) in layer_shapes(config).items()}
    kernels = {name: size for name, size in kernels.items() if not name.endswith(("norm", "bias"))}
    one_layer = 2 * sum(kernels.values())  # for one token
    keys = 2 * (kernels["k"] + kernels["v"])
    scores = 4 * config.num_heads * config.head_dim * (shared + prompt)  # for one token in one layer
    # The last layer computes keys and values for the whole prompt, and everything else for its last position only.
    total = prompt * ((config.num_layers - 1) * (one_layer + scores) + keys) + one_layer - keys + scores
    row = 2 * config.d_model
    live = 1
    for level, (size, width) in enumerate(zip(codes, widths, strict=True)):
        if level:
            total += live * config.num_layers * (one_layer + scores)
        total += live * row * (size + (config.vocab_rows if whole_vocabulary else 0))
        live = min(beams, live * width)
    return float(total)
