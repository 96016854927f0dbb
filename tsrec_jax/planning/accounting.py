"""What a training step computes and what it holds, as arithmetic on the model's shape: nothing is run or allocated.

FLOPs are those of matrix products (a multiply and an add are two), as the program computes them: attention over whole
packed rows (T x T scores, even if a kernel leaves some of them out), the head at the loss slots only, padding included.
Norms, rotations and softmax, a few percent, are left out. Memory is the peak of one device during a step. The letters
are the decoder's.
"""

from __future__ import annotations

import dataclasses
import math

from tsrec_jax.models.adapter import adapter_shapes
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.dense_head import RECENT
from tsrec_jax.models.layers import layer_shapes, parameter_shapes
from tsrec_jax.models.settings import AdapterSettings
from tsrec_jax.models.sharding import RULES
from tsrec_jax.training.step import TABLES

FLOAT32 = 4  # bytes of parameters, moments, gradients and logits
MOMENTS = 2  # Adam's
# Numbers of arrays of one layer that its backward pass reads, by size (tokens times D, N x H, K x H, F, N x T): those
# in the compute type, and those that are always float32, in norms and softmax. The pass itself uses about as much more.
KEPT = {"d": 7, "query": 2, "key": 2, "mlp": 6, "scores": 1}
KEPT_FLOAT32 = {"d": 4, "scores": 1}
LOGITS = 2  # logits and their gradient
MASKS = 2  # cuDNN's: the mask that it adds to the scores of all heads (T x T per row), and the mask's gradient


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Number of devices along each axis of the mesh."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1

    @property
    def devices(self) -> int:
        """Number of all devices."""
        return self.data * self.fsdp * self.tensor


@dataclasses.dataclass(frozen=True)
class DenseShape:
    """A dense head.

    Attributes:
      items: number of items in the catalogue.
      slots: item slots per row.
      features: number of features of an item's text.
    """

    items: int
    slots: int
    features: int

    def parameters(self, d_model: int) -> int:
        """Number of parameters that it learns."""
        return (2 * self.features + 3 * d_model) * d_model + RECENT + 1

    def flops(self, d_model: int, rows: int) -> int:
        """FLOPs of its forward pass: both vectors of all items, the user vectors of `rows` rows, and their scores."""
        users = rows * self.slots
        products = 2 * self.items * (self.features + d_model) + users * (self.slots + d_model + self.items)
        return 2 * products * d_model


@dataclasses.dataclass(frozen=True)
class StepShape:
    """One optimiser step.

    Attributes:
      rows: packed rows per micro-batch (B), over all devices.
      sequence_length: token slots per row (T).
      loss_slots: positions of a group of rows whose logits are computed (P).
      accumulation: micro-batches per step.
      loss_chunk: loss slots of a group whose logits exist at one time; 0 means all.
      freeze, adapter, moments: as in `TrainSettings`.
      new_rows: number of the SID tokens' rows, which are trained even if the others are frozen.
      dtype: compute type, `float32` or `bfloat16`.
      remat: whether layers are computed again in the backward pass.
      rows_per_group: rows per group.
      sid_tokens: rows of the table that are scored at every position; 0 if SID tokens are learned at loss slots.
      attention: its implementation, as `models.attention.choose` names it; only `xla` keeps scores.
      dense: the dense head, if there is one.
      scaled: whether the levels' scores have a scale, which needs a copy of the output table with scaled rows.
    """

    rows: int
    sequence_length: int
    loss_slots: int
    accumulation: int = 1
    loss_chunk: int = 0
    freeze: str = "none"
    adapter: AdapterSettings = dataclasses.field(default_factory=AdapterSettings)
    moments: str = "float32"
    new_rows: int = 0
    dtype: str = "float32"
    remat: bool = True
    rows_per_group: int = 1
    sid_tokens: int = 0
    attention: str = "xla"
    scaled: bool = False
    dense: DenseShape | None = None

    @property
    def token_slots(self) -> int:
        """Token slots of the whole step, padding included."""
        return self.accumulation * self.rows * self.sequence_length

    @property
    def groups(self) -> int:
        """Number of groups of rows per micro-batch, over all devices."""
        return self.rows // self.rows_per_group


@dataclasses.dataclass(frozen=True)
class StepFlops:
    """Matrix-product FLOPs of an optimiser step over all devices.

    Attributes:
      model: those of the forward and the backward pass.
      recomputed: those that rematerialisation adds.
    """

    model: float
    recomputed: float

    @property
    def hardware(self) -> float:
        """All FLOPs that are computed."""
        return self.model + self.recomputed


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Bytes of one device at the peak of a step, by what holds them.

    Attributes:
      parameters: the trained ones in float32, and the frozen ones in the type in which they are kept.
      moments: Adam's two moments of the trained parameters.
      gradients: float32 gradients of the trained parameters; twice with accumulation.
      copies: weights and their gradients in the compute type, if they are kept in another; the layer that FSDP gathers;
        and tables that are assembled from frozen and trained rows or have scaled rows.
      activations: arrays that the layers keep for the backward pass.
      working: the larger of one layer's backward pass and the loss.
      batch: the token arrays.
    """

    parameters: float
    moments: float
    gradients: float
    copies: float
    activations: float
    working: float
    batch: float

    @property
    def total(self) -> float:
        """The peak."""
        return sum(dataclasses.astuple(self))


Shapes = dict[str, tuple[tuple[int, ...], tuple[str | None, ...]]]  # {name: (shape, logical axes)}


def parameter_count(config: ModelConfig) -> int:
    """Number of the model's parameters."""
    return _count(parameter_shapes(config))


def trained_count(config: ModelConfig, step: StepShape) -> int:
    """Number of parameters whose moments the optimiser holds."""
    return _count(_trained_shapes(config, step))


def parameter_bytes(config: ModelConfig, mesh: MeshShape) -> float:
    """float32 bytes of the parameters on one device."""
    return FLOAT32 * _elements(parameter_shapes(config), mesh)


def _trained_shapes(config: ModelConfig, step: StepShape) -> Shapes:
    """The trained arrays; from tables with frozen rows only the other rows, which every device holds."""
    shapes = parameter_shapes(config)
    if step.freeze == "none":
        return shapes
    rows = {name: ((step.new_rows, config.d_model), (None, None)) for name in TABLES if name in shapes}
    others = shapes if step.freeze == "pretrained_rows" else adapter_shapes(config, step.adapter)
    return others | rows


def _table_shapes(config: ModelConfig) -> Shapes:
    return {name: value for name, value in parameter_shapes(config).items() if name in TABLES}


def _count(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape, _ in shapes.values())


def _elements(shapes: Shapes, mesh: MeshShape) -> float:
    """Number of elements on one device."""
    return sum(math.prod(shape) / _shards(logical, mesh) for shape, logical in shapes.values())


def _shards(logical: tuple[str | None, ...], mesh: MeshShape) -> int:
    """Number of devices over which the rules spread an array."""
    axes = [axis for part in RULES.spec(*logical) for axis in ((part,) if isinstance(part, str) else part or ())]
    return math.prod(getattr(mesh, axis) for axis in axes)


def _kernels(config: ModelConfig) -> dict[str, int]:
    """Number of elements of each kernel in all layers together."""
    shapes = {name: shape for name, (shape, _) in layer_shapes(config).items()}
    return {name: math.prod(shape) for name, shape in shapes.items() if not name.endswith(("norm", "bias"))}


def step_flops(config: ModelConfig, step: StepShape) -> StepFlops:
    """FLOPs of an optimiser step.

    Each product of the forward pass entails two of the same size in the backward pass, one for its input and one for
    its weights; the latter is left out if the weights are frozen. A layer that is computed again leaves out its last
    product (an adapter's too), whose value the backward pass does not need.
    """
    tokens = step.token_slots
    kernels = 2 * tokens * sum(_kernels(config).values())
    scores = 4 * tokens * step.sequence_length * config.num_heads * config.head_dim * config.num_layers
    slots = 2 * step.accumulation * step.groups * step.loss_slots * config.d_model
    vocabulary = slots * (2 * config.vocab_rows + (config.vocab_rows if step.freeze == "none" else step.new_rows))
    head = 2 * tokens * step.sid_tokens * config.d_model
    if step.dense is not None:
        head += step.accumulation * step.dense.flops(config.d_model, step.rows)
    last = 2 * tokens * _kernels(config)["down"]
    backward_kernels = kernels * (1 if step.freeze == "trunk" else 2)
    factors = adapter_shapes(config, step.adapter)
    adapter = 2 * tokens * _count(factors)
    if "down_b" in factors:
        last += 2 * tokens * math.prod(factors["down_b"][0])
    return StepFlops(
        model=kernels + backward_kernels + vocabulary + 3 * (adapter + scores + head),
        recomputed=kernels + adapter + scores - last if step.remat else 0,
    )


def step_memory(config: ModelConfig, step: StepShape, mesh: MeshShape = MeshShape()) -> StepMemory:
    """Peak bytes of one device during a step."""
    compute = 2 if step.dtype == "bfloat16" else FLOAT32
    rows = step.rows / (mesh.data * mesh.fsdp)
    trained = FLOAT32 * _elements(_trained_shapes(config, step), mesh)
    frozen = 0.0
    if step.freeze == "trunk":
        frozen = compute * _elements(parameter_shapes(config), mesh)
    elif step.freeze == "pretrained_rows":
        frozen = FLOAT32 * _elements(_table_shapes(config), mesh)
    states = rows * step.sequence_length * config.d_model * compute
    layer = _layer_bytes(config, step, mesh, KEPT, rows * compute)
    layer += _layer_bytes(config, step, mesh, KEPT_FLOAT32, rows * FLOAT32)
    masks = MASKS * rows * step.sequence_length**2 * compute if step.attention == "cudnn" else 0
    slots = min(step.loss_chunk or step.loss_slots, step.loss_slots)
    logits = LOGITS * rows / step.rows_per_group * slots * config.vocab_rows * FLOAT32 / mesh.tensor
    logits += LOGITS * rows * step.sequence_length * step.sid_tokens * FLOAT32
    if step.dense is not None:
        items = step.rows_per_group * step.dense.slots
        items = min(step.loss_chunk or items, items)
        logits += LOGITS * rows / step.rows_per_group * items * step.dense.items * FLOAT32
    # With chunks, each one's gradient of the table, of the table's size, is added to the sum so far.
    table = config.vocab_rows * config.d_model * FLOAT32 / _shards(("vocabulary",), mesh)
    loss = logits + (table if slots < step.loss_slots and step.freeze == "none" else 0)
    return StepMemory(
        parameters=trained + frozen,
        moments=MOMENTS * trained * (0.5 if step.moments == "bfloat16" else 1),
        gradients=trained * (2 if step.accumulation > 1 else 1),
        copies=_copies(config, step, mesh, compute) + (table if step.scaled else 0),
        activations=(states if step.remat else layer) * config.num_layers,
        working=max(layer + masks, loss),
        batch=FLOAT32 * step.accumulation * rows * 3 * (step.sequence_length + step.loss_slots / step.rows_per_group),
    )


def _layer_bytes(
    config: ModelConfig, step: StepShape, mesh: MeshShape, counts: dict[str, int], row_bytes: float
) -> float:
    """Bytes on one device of one layer's arrays, counted by size; all but those of width D are split over tensor."""
    widths = {
        "query": config.num_heads * config.head_dim,
        "key": config.num_kv_heads * config.head_dim,
        "mlp": config.d_mlp,
        "scores": config.num_heads * step.sequence_length if step.attention == "xla" else 0,
    }
    split = sum(counts.get(name, 0) * width for name, width in widths.items()) / mesh.tensor
    return row_bytes * step.sequence_length * (counts["d"] * config.d_model + split)


def _copies(config: ModelConfig, step: StepShape, mesh: MeshShape, compute: int) -> float:
    """Weights in the compute type and the gradients of the trained ones; tables that are assembled; and one gathered
    layer with its gradient."""
    gathered = 2 * sum(_kernels(config).values()) / config.num_layers * compute / mesh.tensor if mesh.fsdp > 1 else 0
    tables = _elements(_table_shapes(config), mesh)
    kept = compute if step.freeze == "trunk" else FLOAT32
    whole = kept * tables if step.freeze != "none" else 0
    if compute == FLOAT32:
        return gathered + whole
    trained = _elements(_trained_shapes(config, step), mesh)
    converted = trained if step.freeze == "trunk" else _elements(parameter_shapes(config), mesh)
    return gathered + whole + (converted + trained) * compute


def flops_utilisation(flops: float, seconds: float, devices: int, tflops: float) -> float:
    """The share of the peak (MFU): the model's FLOPs in a time, divided by what `devices` of `tflops` each could do."""
    return flops / (seconds * devices * tflops * 1e12)
