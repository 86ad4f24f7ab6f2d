"""All settings: each is defined once, as a field of `Settings`, and is known by that everywhere.

The field's metadata give its key; flag, variable and YAML key follow from the key, and help, the
table of docs/configuration.md and validation from the rest. `config.py` fills a `Settings` in;
`app.py` gives other modules the values they need, and none of those reads this one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Final, Literal, TypeAlias, get_args, get_type_hints

from stoker import config_kinds as kinds
from stoker.config_sources import flag_of, variable_of
from stoker.units import format_size

Device: TypeAlias = Literal["auto", "gpu", "cpu"]
GpuPlacement: TypeAlias = Literal["each", "round-robin", "free-memory"]
GrpcTransport: TypeAlias = Literal["native", "grpcio"]
LogFormat: TypeAlias = Literal["auto", "text", "json"]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]
AccessLogMode: TypeAlias = Literal["off", "sampled", "all"]

_DEVICE: Final = kinds.choice(get_args(Device))
_GPU_PLACEMENT: Final = kinds.choice(get_args(GpuPlacement))
_GRPC_TRANSPORT: Final = kinds.choice(get_args(GrpcTransport))
_LOG_FORMAT: Final = kinds.choice(get_args(LogFormat))
_LOG_LEVEL: Final = kinds.choice(get_args(LogLevel))
_ACCESS_LOG: Final = kinds.choice(get_args(AccessLogMode))

MEMORY_SHARE: Final = 4
"""`--max-buffered-bytes` is one part in this many of the memory limit: models need the rest."""
BUFFERED_BYTES_WITHOUT_LIMIT: Final = 2 << 30


def _about(
    meaning: str,
    *,
    key: str = "",
    default_text: str = "",
    for_check: bool = False,
    in_file: bool = True,
) -> Mapping[str, str | bool]:
    """What users are told of a setting. `key` only where it differs from the field's name;
    `default_text` where the default is computed; `for_check`: a flag of `stoker check` as well."""
    return {
        "meaning": meaning,
        "key": key,
        "default_text": default_text,
        "for_check": for_check,
        "in_file": in_file,
    }


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a user can set, validated. Durations are seconds, sizes are bytes."""

    sources: Annotated[tuple[str, ...], kinds.TEXTS] = field(
        default=(),
        metadata=_about(
            "What to serve: model repositories, folders that are a model, or .onnx files; "
            "none: the demo models",
            default_text="the demo models",
            for_check=True,
        ),
    )
    config_file: Annotated[str, kinds.FILE] = field(
        default="",
        metadata=_about(
            "YAML file with settings under the keys of this table",
            key="config",
            for_check=True,
            in_file=False,
        ),
    )
    host: Annotated[str, kinds.HOST] = field(
        default="0.0.0.0", metadata=_about("Address that all ports listen on")
    )
    http_port: Annotated[int, kinds.PORT] = field(
        default=8000, metadata=_about("Port of the REST protocol; 0 picks a free one")
    )
    grpc_port: Annotated[int, kinds.PORT] = field(
        default=8001, metadata=_about("Port of the gRPC protocol; 0 picks a free one")
    )
    metrics_port: Annotated[int, kinds.PORT] = field(
        default=8002, metadata=_about("Port of the probes and /metrics; 0 picks a free one")
    )
    model_name: Annotated[str, kinds.NAME] = field(
        default="",
        metadata=_about(
            "Name of the model, where the one source is a model itself",
            default_text="the name of its file or folder",
            for_check=True,
        ),
    )
    required_models: Annotated[tuple[str, ...], kinds.NAMES] = field(
        default=(),
        metadata=_about(
            "Model that must serve before the server is ready; may be given several times",
            key="require_model",
            default_text="every model found at start",
        ),
    )
    device: Annotated[Device, _DEVICE] = field(
        default="auto",
        metadata=_about(
            "Where models run: auto takes a GPU when there is one; gpu insists, without one the "
            "server is not ready; cpu never looks for one",
            for_check=True,
        ),
    )
    gpu_placement: Annotated[GpuPlacement, _GPU_PLACEMENT] = field(
        default="each",
        metadata=_about(
            "Where a model goes whose instance groups name no GPUs: each puts an instance on "
            "every GPU; round-robin and free-memory choose one GPU for a model",
            for_check=True,
        ),
    )
    cuda_graphs: Annotated[bool, kinds.SWITCH] = field(
        default=False,
        metadata=_about(
            "Models on GPUs are captured as CUDA graphs where they can be; a model's file may ask "
            "for that alone, or except itself",
            for_check=True,
        ),
    )
    gpu_memory_share: Annotated[float, kinds.SHARE] = field(
        default=0.9,
        metadata=_about(
            "How much of a GPU's memory the arenas of models may take together; the rest is for "
            "CUDA's context and its libraries",
            for_check=True,
        ),
    )
    cpu_node_warning_share: Annotated[float, kinds.SHARE] = field(
        default=0.05,
        metadata=_about(
            "A model on a GPU is warned about when more than this share of its nodes computes on "
            "the CPU",
            for_check=True,
        ),
    )
    trt_cache_dir: Annotated[str, kinds.FOLDER] = field(
        default="",
        metadata=_about(
            "Folder of built TensorRT engines, which servers and pods may share; whoever may write "
            "to it can run code in the server",
            default_text="stoker/tensorrt in the user's cache folder (XDG_CACHE_HOME)",
        ),
    )
    trt_plugin_libraries: Annotated[tuple[str, ...], kinds.FILES] = field(
        default=(),
        metadata=_about(
            "Library of TensorRT plug-ins that the models' engines are built with; may be given "
            "several times",
            default_text="none",
        ),
    )
    grpc_transport: Annotated[GrpcTransport, _GRPC_TRANSPORT] = field(
        default="native", metadata=_about("Implementation of the gRPC protocol")
    )
    # Triton's default.
    default_max_batch_size: Annotated[int, kinds.COUNT] = field(
        default=4,
        metadata=_about(
            "max_batch_size of a model that can batch and whose configuration has none",
            for_check=True,
        ),
    )
    strict_readiness: Annotated[bool, kinds.SWITCH] = field(
        default=True,
        metadata=_about("Ready only when every required model serves; false: ready once started"),
    )
    exit_on_error: Annotated[bool, kinds.SWITCH] = field(
        default=False,
        metadata=_about(
            "Exit with code 3 when a required model or the required device is not there"
        ),
    )
    drain_delay_s: Annotated[float, kinds.DURATION] = field(
        default=5.0,
        metadata=_about(
            "After SIGTERM: how long everything is still served while load balancers notice",
            key="drain_delay",
        ),
    )
    drain_timeout_s: Annotated[float, kinds.DURATION] = field(
        default=30.0,
        metadata=_about(
            "After the drain delay: how long requests in flight may take to finish",
            key="drain_timeout",
        ),
    )
    # No model that answers requests takes a minute for a run; one that does is written down here.
    hung_run_timeout_s: Annotated[float, kinds.DURATION] = field(
        default=60.0,
        metadata=_about(
            "A run that lasts longer than this, and than 50 times what such runs take, is hung: on "
            "a GPU the process ends with code 70, on the CPU it is logged and counted; 0: never",
            key="hung_run_timeout",
        ),
    )
    # The first run of a shape may compile kernels; no report of one over some minutes was found.
    # Shorter than the start-up probe of k8s/components/gpu, which ends a pod without a reason.
    hung_load_timeout_s: Annotated[float, kinds.DURATION] = field(
        default=300.0,
        metadata=_about(
            "A run that lasts longer than this while a model is warmed, measured, captured or "
            "compared is hung: on a GPU the process ends with code 70, on the CPU it is logged and "
            "counted; 0: never",
            key="hung_load_timeout",
        ),
    )
    # Triton's limit.
    max_json_bytes: Annotated[int, kinds.SIZE] = field(
        default=64 << 20,
        metadata=_about("Largest JSON part of a REST request, after decompression"),
    )
    # A batch of 32 images of 8 MiB, with room; Triton has 2 GiB, more than most pods have spare.
    max_message_bytes: Annotated[int, kinds.MESSAGE_SIZE] = field(
        default=1 << 30, metadata=_about("Largest request on either protocol, after decompression")
    )
    max_buffered_bytes: Annotated[int, kinds.SIZE] = field(
        default=0,
        metadata=_about(
            "Bytes of requests and of unsent answers that the whole server holds at "
            "once; separately as many bytes of tensors may wait in the models' queues",
            default_text="a quarter of the container's memory limit; "
            f"{format_size(BUFFERED_BYTES_WITHOUT_LIMIT)} without one",
        ),
    )
    # Above the 10,000 that a large deployment has, below the 20,000 descriptors and more that
    # container runtimes allow.
    max_connections: Annotated[int, kinds.COUNT] = field(
        default=16384, metadata=_about("Open connections of the data ports; more are refused")
    )
    # 60 to 300 s spread the clients of a ClusterIP soon enough; more often costs reconnects.
    max_connection_age_s: Annotated[float, kinds.DURATION] = field(
        default=300.0,
        metadata=_about(
            "Age at which a connection is closed gracefully, so that clients spread over new pods "
            "(10 % jitter); 0: no limit",
            key="max_connection_age",
        ),
    )
    header_timeout_s: Annotated[float, kinds.SOME_DURATION] = field(
        default=10.0,
        metadata=_about(
            "How long the header of a request, or one frame of HTTP/2, may take to arrive",
            key="header_timeout",
        ),
    )
    # Load balancers of the large clouds keep idle connections for up to 600 s.
    idle_timeout_s: Annotated[float, kinds.SOME_DURATION] = field(
        default=620.0,
        metadata=_about(
            "How long a connection may rest between requests; longer than the idle timeout of "
            "any proxy in front, or its clients see resets",
            key="idle_timeout",
        ),
    )
    # Triton's interval. NVML refreshes its figures about once a second.
    gpu_metrics_interval_s: Annotated[float, kinds.INTERVAL] = field(
        default=2.0,
        metadata=_about(
            "Time between two readings of the GPUs' metrics, at least 1s; 0: no GPU metrics",
            key="gpu_metrics_interval",
        ),
    )
    log_format: Annotated[LogFormat, _LOG_FORMAT] = field(
        default="auto",
        metadata=_about("auto: text on a terminal, else one JSON object a line", for_check=True),
    )
    log_level: Annotated[LogLevel, _LOG_LEVEL] = field(
        default="info", metadata=_about("Least severe level that is logged", for_check=True)
    )
    access_log: Annotated[AccessLogMode, _ACCESS_LOG] = field(
        default="off",
        metadata=_about(
            "Lines about requests on standard output: sampled writes those that failed or were "
            "slow and a share of the others, all writes every one"
        ),
    )
    access_log_share: Annotated[float, kinds.SHARE] = field(
        default=0.01,
        metadata=_about("The share of --access-log sampled; 0: only failed and slow requests"),
    )
    slow_request_threshold_s: Annotated[float, kinds.SOME_DURATION] = field(
        default=1.0,
        metadata=_about(
            "A request that takes this long is slow, and always in the access log",
            key="slow_request_threshold",
        ),
    )
    tracing: Annotated[bool, kinds.SWITCH] = field(
        default=False,
        metadata=_about(
            "Spans of requests go to an OpenTelemetry receiver, which the standard OTEL_* "
            "variables name; needs the extra otel"
        ),
    )
    # A traced request costs several times what another does (benchmarks/results/0013-tracing.md).
    trace_sampling: Annotated[float | None, kinds.SHARE] = field(
        default=None,
        metadata=_about(
            "Share of the requests that is traced where the caller's traceparent does not say "
            "whether",
            default_text="what OTEL_TRACES_SAMPLER says; without it 0.01",
        ),
    )


@dataclass(frozen=True, slots=True)
class Definition:
    """One setting as users meet it."""

    field: str
    key: str
    kind: kinds.Kind
    default: str
    """As text; empty: no value."""
    meaning: str
    for_check: bool
    in_file: bool

    @property
    def flag(self) -> str:
        """The flag; sources are arguments without one."""
        return "[SOURCE ...]" if self.field == "sources" else flag_of(self.key)

    @property
    def variable(self) -> str:
        """The environment variable."""
        return variable_of(self.key)


def definitions() -> tuple[Definition, ...]:
    """Every setting, in the order of documentation and help."""
    hints = get_type_hints(Settings, include_extras=True)
    return tuple(
        Definition(
            field=each.name,
            key=each.metadata["key"] or each.name,
            kind=(kind := hints[each.name].__metadata__[0]),
            default=each.metadata["default_text"] or kind.format(each.default),
            meaning=each.metadata["meaning"],
            for_check=each.metadata["for_check"],
            in_file=each.metadata["in_file"],
        )
        for each in fields(Settings)
    )
