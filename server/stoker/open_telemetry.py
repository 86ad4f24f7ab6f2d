"""OpenTelemetry's standard variables, as far as this server interprets them itself.

Where spans go (OTEL_EXPORTER_OTLP_*) and what they say of the process (OTEL_SERVICE_NAME,
OTEL_RESOURCE_ATTRIBUTES) the SDK reads; which calls are traced, how many spans wait and which
exporter is made are decided here, at start, so that a wrong value is told with all others that are
wrong. `config.py` reads the environment and calls `read`.
Source: OpenTelemetry, "Environment Variable Specification".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final, Literal, TypeAlias, TypeVar

from stoker.config_sources import Problem

Protocol: TypeAlias = Literal["grpc", "http/protobuf"]

T = TypeVar("T")

_PROTOCOLS: Final[Mapping[str, Protocol]] = {"grpc": "grpc", "http/protobuf": "http/protobuf"}
_DEFAULT_TARGETS: Final[Mapping[Protocol, str]] = {
    "grpc": "http://localhost:4317",
    "http/protobuf": "http://localhost:4318",
}
_SAMPLERS: Final = ("always_on", "always_off", "traceidratio")
_PARENT_BASED: Final = "parentbased_"
_MAX_COUNT: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which calls are traced."""

    share: float = 0.01
    """Of the calls whose caller decides nothing."""
    follows_parent: bool = True
    """A caller that says whether its own span is sampled decides for this server too."""


@dataclass(frozen=True, slots=True)
class TracingOptions:
    """How calls are traced and spans exported. Durations are seconds."""

    is_on: bool = False
    sampling: Sampling = Sampling()
    protocol: Protocol = "grpc"
    target: str = ""
    """Where spans go, in words for the log; the SDK reads the variables itself."""
    exports: bool = True
    """False: OTEL_TRACES_EXPORTER is none; spans are made and dropped."""
    max_queued_spans: int = 2048
    """OTEL_BSP_MAX_QUEUE_SIZE: what may wait; more are dropped and counted."""
    max_export_spans: int = 512
    """OTEL_BSP_MAX_EXPORT_BATCH_SIZE: in one call of the receiver, about."""
    export_interval_s: float = 5.0
    """OTEL_BSP_SCHEDULE_DELAY: how long spans wait for others at most."""


_OFF: Final = TracingOptions()


def read(
    environ: Mapping[str, str], *, is_on: bool, share: float | None
) -> tuple[TracingOptions, tuple[Problem, ...]]:
    """The options, and what is wrong with the variables. `share` is what the settings say; None:
    they say nothing, and OTEL_TRACES_SAMPLER decides."""
    if not is_on or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return _OFF, ()
    variables = _Variables(environ)
    sampling = Sampling() if share is None else Sampling(share)
    if share is None and variables.text("OTEL_TRACES_SAMPLER"):
        sampling = variables.sampling()
    protocol = variables.choice(
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"), _PROTOCOLS, "grpc"
    )
    endpoint = variables.text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or variables.text(
        "OTEL_EXPORTER_OTLP_ENDPOINT"
    )
    exporter = variables.choice(("OTEL_TRACES_EXPORTER",), {"otlp": "", "none": "none"}, "")
    variables.propagators()
    queued = variables.count("OTEL_BSP_MAX_QUEUE_SIZE", _OFF.max_queued_spans)
    export = variables.count("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", _OFF.max_export_spans)
    interval_ms = variables.count("OTEL_BSP_SCHEDULE_DELAY", round(_OFF.export_interval_s * 1000))
    options = TracingOptions(
        is_on=True,
        sampling=sampling,
        protocol=protocol,
        target=f"{_without_secrets(endpoint) or _DEFAULT_TARGETS[protocol]} ({protocol})",
        exports=exporter != "none",
        max_queued_spans=queued,
        max_export_spans=min(export, queued),
        export_interval_s=interval_ms / 1000,
    )
    return options, tuple(variables.problems)


def _without_secrets(endpoint: str) -> str:
    """An address as the log may have it: without the name, the password and the query in it."""
    scheme, mark, rest = endpoint.rpartition("://")
    address = rest.rpartition("@")[2]
    return f"{scheme}{mark}{address.partition('?')[0].partition('#')[0]}"


def is_installed() -> bool:
    """Whether the packages of the extra `otel` are here. Imports none of them but the outermost."""
    names = ("sdk", "exporter.otlp.proto.grpc", "exporter.otlp.proto.http")
    try:
        return all(find_spec(f"opentelemetry.{name}") is not None for name in names)
    except ModuleNotFoundError:  # not even the one that it is in
        return False


class _Variables:
    """The variables, and what is wrong with those that were asked for."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[Problem] = []

    def text(self, name: str) -> str:
        """Empty where it is not set."""
        return self._environ.get(name, "").strip()

    def choice(self, names: tuple[str, ...], known: Mapping[str, T], default: T) -> T:
        """What the first of these that is set says; the default where none is."""
        for name in names:
            text = self.text(name).lower()
            if not text:
                continue
            if text in known:
                return known[text]
            self._wrong(name, f"one of {', '.join(known)}", text)
            break
        return default

    def count(self, name: str, default: int) -> int:
        text = self.text(name)
        if not text:
            return default
        if text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= _MAX_COUNT:
            return int(text[:9])
        self._wrong(name, f"a whole number from 1 to {_MAX_COUNT}", text)
        return default

    def sampling(self) -> Sampling:
        """What OTEL_TRACES_SAMPLER and its argument say."""
        name = self.text("OTEL_TRACES_SAMPLER").lower()
        kind = name.removeprefix(_PARENT_BASED)
        if kind not in _SAMPLERS:
            names = [f"{prefix}{each}" for prefix in (_PARENT_BASED, "") for each in _SAMPLERS]
            self._wrong("OTEL_TRACES_SAMPLER", f"one of {', '.join(names)}", name)
            return Sampling()
        share = {"always_on": 1.0, "always_off": 0.0}.get(kind)
        if share is None:
            share = self._share()
        return Sampling(share, follows_parent=name != kind)

    def propagators(self) -> None:
        """A request's context comes in the form of W3C: a list without it asks for what is not
        done. Others beside it, which every service of a cluster may be told, are passed over."""
        name = "OTEL_PROPAGATORS"
        listed = {each.strip() for each in self.text(name).lower().split(",") if each.strip()}
        if listed and "tracecontext" not in listed:
            self._wrong(name, "a list with tracecontext, the one that is read", self.text(name))

    def _share(self) -> float:
        text = self.text("OTEL_TRACES_SAMPLER_ARG")
        if not text:
            return 1.0  # the specification's default
        try:
            share = float(text)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            self._wrong("OTEL_TRACES_SAMPLER_ARG", "a share from 0 to 1", text)
            return 1.0
        return share

    def _wrong(self, name: str, expected: str, got: str) -> None:
        self.problems.append(Problem(name, f"expected {expected}, got '{got[:64]}'"))
