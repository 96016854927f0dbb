"""What a training step computes and what it holds, as arithmetic on the model's shape: nothing is run or allocated.

FLOPs are those of matrix products (a multiply and an add are two), as the program computes them: attention over whole
packed rows (T x T scores, also where a kernel leaves some of them out), the head at the loss slots only, padding
included. Norms, rotations and softmax, a few percent, are left out. Memory is the peak of one device during a step. The
letters are the decoder's.
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
MOMENTS = 2  # of Adam
# Arrays of one layer that its backward pass reads, by size (tokens times D, N x H, K x H, F, N x T): those in the
# compute type, and those that are float32 always, in norms and softmax. The pass itself works on about as much again.
KEPT = {"d": 7, "query": 2, "key": 2, "mlp": 6, "scores": 1}
KEPT_FLOAT32 = {"d": 4, "scores": 1}
LOGITS = 2  # logits and their gradient
MASKS = 2  # of cuDNN: what it adds to the scores of all heads (T x T of a row), and its gradient


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Devices along each axis of the mesh."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1

    @property
    def devices(self) -> int:
        """Their number."""
        return self.data * self.fsdp * self.tensor


@dataclasses.dataclass(frozen=True)
class DenseShape:
    """A dense head.

    Attributes:
      items: of the catalogue.
      slots: item slots of a row.
      features: of an item's text.
    """

    items: int
    slots: int
    features: int

    def parameters(self, d_model: int) -> int:
        """All that it learns."""
        return (2 * self.features + 3 * d_model) * d_model + RECENT + 1

    def flops(self, d_model: int, rows: int) -> int:
        """Of its forward pass: both vectors of all items, the users of so many rows, and their scores."""
        users = rows * self.slots
        products = 2 * self.items * (self.features + d_model) + users * (self.slots + d_model + self.items)
        return 2 * products * d_model


@dataclasses.dataclass(frozen=True)
class StepShape:
    """One optimiser step.

    Attributes:
      rows: packed rows of a micro-batch (B), over all devices.
      sequence_length: token slots of a row (T).
      loss_slots: positions of a group of rows whose logits are computed (P).
      accumulation: micro-batches of a step.
      loss_chunk: loss slots of a group whose logits exist at one time; 0 means all.
      freeze, adapter, moments: as in `TrainSettings`.
      new_rows: rows of the SID tokens, which train where the others are frozen.
      dtype: compute type, `float32` or `bfloat16`.
      remat: layers are computed again in the backward pass.
      rows_per_group: rows of a group.
      sid_tokens: rows of the table that are scored at every position; 0 where SID tokens are learned at loss slots.
      attention: what computes it, as `models.attention.choose` gives it; only `xla` keeps scores.
      dense: the dense head, if there is one.
      scaled: the levels' scores have a scale, so that there is a copy of the output table with scaled rows.
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
        """Of the whole step, padding included."""
        return self.accumulation * self.rows * self.sequence_length

    @property
    def groups(self) -> int:
        """Groups of rows of a micro-batch, over all devices."""
        return self.rows // self.rows_per_group


@dataclasses.dataclass(frozen=True)
class StepFlops:
    """Matrix-product FLOPs of an optimiser step over all devices.

    Attributes:
      model: forward and backward.
      recomputed: what rematerialisation adds.
    """

    model: float
    recomputed: float

    @property
    def hardware(self) -> float:
        """All that is computed."""
        return self.model + self.recomputed


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Bytes of one device at the peak of a step, by what holds them.

    Attributes:
      parameters: what is trained in float32, and what is frozen as it is kept.
      moments: Adam's two, of what is trained.
      gradients: float32, of what is trained; twice with accumulation.
      copies: weights and their gradients in the compute type, where they are kept in another, the layer that FSDP
        gathers, and the tables that are put together of frozen and trained rows or have scaled rows.
      activations: what the layers keep for the backward pass.
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


Shapes = dict[str, tuple[tuple[int, ...], tuple[str | None, ...]]]  # with logical axes, by name


def parameter_count(config: ModelConfig) -> int:
    """Parameters of the model."""
    return _count(parameter_shapes(config))


def trained_count(config: ModelConfig, step: StepShape) -> int:
    """Parameters that the optimiser holds moments of."""
    return _count(_trained_shapes(config, step))


def parameter_bytes(config: ModelConfig, mesh: MeshShape) -> float:
    """float32 bytes of the parameters on one device."""
    return FLOAT32 * _elements(parameter_shapes(config), mesh)


def _trained_shapes(config: ModelConfig, step: StepShape) -> Shapes:
    """What trains; of tables with frozen rows the others, which every device holds."""
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
    """Those on one device."""
    return sum(math.prod(shape) / _shards(logical, mesh) for shape, logical in shapes.values())


def _shards(logical: tuple[str | None, ...], mesh: MeshShape) -> int:
    """Devices over which the rules spread an array."""
    axes = [axis for part in RULES.spec(*logical) for axis in ((part,) if isinstance(part, str) else part or ())]
    return math.prod(getattr(mesh, axis) for axis in axes)


def _kernels(config: ModelConfig) -> dict[str, int]:
    """Elements of each kernel, all layers together."""
    shapes = {name: shape for name, (shape, _) in layer_shapes(config).items()}
    return {name: math.prod(shape) for name, shape in shapes.items() if not name.endswith(("norm", "bias"))}


def step_flops(config: ModelConfig, step: StepShape) -> StepFlops:
    """FLOPs of an optimiser step.

    A product of the forward pass has two of the same size behind it in the backward pass, one for its input and one for
    its weights; the latter is left out where the weights are frozen. A layer that is computed again stops before its
    last product (of an adapter too), whose value the backward pass does not ask for.
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
    # In chunks, the gradient of the table grows by one of the same size for each.
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
    """Bytes on one device of so many arrays of one layer, by size; all but those of width D split over tensor."""
    widths = {
        "query": config.num_heads * config.head_dim,
        "key": config.num_kv_heads * config.head_dim,
        "mlp": config.d_mlp,
        "scores": config.num_heads * step.sequence_length if step.attention == "xla" else 0,
    }
    split = sum(counts.get(name, 0) * width for name, width in widths.items()) / mesh.tensor
    return row_bytes * step.sequence_length * (counts["d"] * config.d_model + split)


def _copies(config: ModelConfig, step: StepShape, mesh: MeshShape, compute: int) -> float:
    """Weights in the compute type and, of what trains, their gradients; tables that are put together; and one gathered
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
    """Share of the peak: FLOPs of the model in a time over what so many devices of `tflops` each could do (MFU)."""
    return flops / (seconds * devices * tflops * 1e12)
