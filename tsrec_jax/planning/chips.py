"""Accelerators as data: what one chip computes and holds.

Sources: Google's pages on v4, v5e, v5p and v6e (cloud.google.com/tpu/docs), NVIDIA's data sheets of A100, H100 and H200
(SXM, dense figures: those with sparsity are twice as high). The memory of a GPU is what its driver leaves of it.
"""

from __future__ import annotations

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as JAX counts them.

    Attributes:
      name: as `--chip` takes it.
      tflops: peak bfloat16 matrix products, 10^12 a second.
      memory_gib: of the device.
      bandwidth_gbs: of that memory, 10^9 bytes a second.
      kinds: how `jax.Device.device_kind` begins.
    """

    name: str
    tflops: float
    memory_gib: float
    bandwidth_gbs: float
    kinds: tuple[str, ...]


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275, 32, 1228, ("TPU v4",)),
        Chip("v5e", 197, 16, 819, ("TPU v5 lite", "TPU v5e")),
        Chip("v5p", 459, 95, 2765, ("TPU v5p", "TPU v5")),
        Chip("v6e", 918, 32, 1638, ("TPU v6 lite", "TPU v6e")),
        Chip("a100", 312, 79, 2039, ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB")),
        Chip("h100", 989, 79, 3350, ("NVIDIA H100 80GB HBM3",)),
        Chip("h200", 989, 140, 4800, ("NVIDIA H200",)),
    )
}


def chip_of(device_kind: str) -> Chip | None:
    """The chip that a `device_kind` means, by the longest beginning that fits; None for a CPU or one not listed."""
    found = [(len(kind), chip) for chip in CHIPS.values() for kind in chip.kinds if device_kind.startswith(kind)]
    return max(found, key=lambda pair: pair[0])[1] if found else None
