"""What a model is to everyone: its identity, states, metadata and effective configuration.

`repository/` reads these values from files, `lifecycle/` completes them from the opened model,
`engine/` and `runtime/` obey them, transports show them. Nothing here opens a file or a session.
Source of every field: Triton's model configuration (message ModelConfig), see docs/models.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Final

from stoker.device import DeviceReport
from stoker.tensor import DataType, TensorSpec

PLATFORM: Final = "onnxruntime_onnx"
BACKEND: Final = "onnxruntime"


class VersionState(Enum):
    """The state of one version. Legal ways: UNKNOWN -> LOADING -> READY -> UNLOADING ->
    UNAVAILABLE, and LOADING -> UNAVAILABLE when the load fails."""

    UNKNOWN = "UNKNOWN"
    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """Which model, which version."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"'{self.name}' v{self.version}"


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether something can serve, and if not, why: one sentence per reason."""

    ready: bool
    reasons: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    """What else is going on, which decides nothing: one sentence each."""


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What the protocol's metadata answers hold. Shapes are the client's, -1 first if batching."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    devices: tuple[DeviceReport, ...] = ()
    """Where each session of the version really runs."""
    faster: str = ""
    """What became of a faster way that the model asks for; empty where it asks for none."""


@dataclass(frozen=True, slots=True)
class TensorConfig:
    """One input or output of the configuration. `dims` are the client's, without batch dimension.

    `reshape` is what the model itself gets (inputs) or gives (outputs), None when the same.
    """

    name: str
    datatype: DataType
    dims: tuple[int, ...]
    reshape: tuple[int, ...] | None = None
    optional: bool = False
    label_filename: str = ""


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """How one priority level's queue treats its requests. 0 means without limit."""

    max_queue_size: int = 0
    """Requests (not rows) that may wait."""
    default_timeout_us: int = 0
    allow_timeout_override: bool = False
    delays_on_timeout: bool = False
    """False: an expired request fails. True: it waits behind all unexpired ones of its level."""


@dataclass(frozen=True, slots=True)
class DynamicBatching:
    """`dynamic_batching` as written in the file: nothing is filled in here."""

    preferred_batch_sizes: tuple[int, ...] = ()
    max_queue_delay_us: int = 0
    preserve_ordering: bool = False
    priority_levels: int = 0
    default_priority_level: int = 0
    default_queue_policy: QueuePolicy = QueuePolicy()
    priority_queue_policies: Mapping[int, QueuePolicy] = field(
        default_factory=lambda: MappingProxyType({})
    )


class InstanceKind(Enum):
    """Where an instance group runs."""

    AUTO = "KIND_AUTO"
    GPU = "KIND_GPU"
    CPU = "KIND_CPU"
    MODEL = "KIND_MODEL"


@dataclass(frozen=True, slots=True)
class InstanceGroup:
    """`count` concurrent runs on one device, or on each of `gpus`."""

    name: str = ""
    kind: InstanceKind = InstanceKind.AUTO
    count: int = 0
    """0: not written in the file."""
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class WarmupInput:
    """Data of one input of a warm-up sample; `dims` are without batch dimension."""

    datatype: DataType
    dims: tuple[int, ...]
    source: str
    """`zero`, `random` or `file`."""
    file: str = ""
    """Name of a file of raw bytes in the model's `warmup` folder, when `source` is `file`."""


@dataclass(frozen=True, slots=True)
class WarmupSample:
    """One entry of `model_warmup`."""

    name: str
    batch_size: int
    count: int
    inputs: Mapping[str, WarmupInput]


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One entry of `optimization.execution_accelerators`."""

    name: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Optimization:
    """`optimization`, the parts that an ONNX server obeys."""

    graph_level: int = 0
    cuda_graphs: bool = False
    gpu_accelerators: tuple[Accelerator, ...] = ()
    cpu_accelerators: tuple[Accelerator, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The configuration of a model: from its file, completed from the model itself."""

    name: str
    max_batch_size: int
    """0: no batch dimension. 1 and more: the first dimension of every tensor counts rows."""
    inputs: tuple[TensorConfig, ...]
    outputs: tuple[TensorConfig, ...]
    batching: DynamicBatching | None
    """None: Triton's default scheduler, each request runs alone."""
    batching_is_explicit: bool = False
    """The file itself has `dynamic_batching`."""
    batch_size_is_explicit: bool = False
    """The file itself has a `max_batch_size` above 0."""
    instance_groups: tuple[InstanceGroup, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    optimization: Optimization = Optimization()
    warmup: tuple[WarmupSample, ...] = ()
    metric_tags: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    default_model_filename: str = "model.onnx"
    message: bytes = b""
    """The effective configuration as a serialised protobuf ModelConfig."""
    json: bytes = b""
    """The same as JSON: snake_case keys, 64-bit integers as numbers."""

    @property
    def batches(self) -> bool:
        """Whether tensors carry a leading batch dimension."""
        return self.max_batch_size > 0

    def client_spec(self, tensor: TensorConfig) -> TensorSpec:
        """The tensor as clients see it: -1 first when the model batches."""
        lead = (-1,) if self.batches else ()
        return TensorSpec(tensor.name, tensor.datatype, lead + tensor.dims, tensor.optional)

    def model_spec(self, tensor: TensorConfig) -> TensorSpec:
        """The tensor as the ONNX model sees it, after `reshape`."""
        lead = (-1,) if self.batches else ()
        dims = tensor.dims if tensor.reshape is None else tensor.reshape
        return TensorSpec(tensor.name, tensor.datatype, lead + dims, tensor.optional)
