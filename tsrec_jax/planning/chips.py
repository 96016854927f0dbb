"""Accelerators as data: what one chip computes and holds.

Sources: Google's pages on v4, v5e, v5p and v6e (cloud.google.com/tpu/docs), NVIDIA's data sheets of A100, H100 and H200
(SXM, dense figures: those with sparsity are twice as high). A GPU's memory is the part that its driver leaves free.
"""

from __future__ import annotations

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as JAX counts them.

    Attributes:
      name: name that `--chip` takes.
      tflops: peak of bfloat16 matrix products, in 10^12 FLOPs per second.
      memory_gib: memory of the device.
      bandwidth_gbs: bandwidth of that memory, in 10^9 bytes per second.
      kinds: what `jax.Device.device_kind` begins with.
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
    """The chip that a `device_kind` means, by the longest matching prefix; None for a CPU or a chip not listed."""
    found = [(len(kind), chip) for chip in CHIPS.values() for kind in chip.kinds if device_kind.startswith(kind)]
    return max(found, key=lambda pair: pair[0])[1] if found else None
