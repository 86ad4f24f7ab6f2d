"""Probes: which port and path they ask, and what they can tell.

Source: reference, Kubernetes production practice, section 3.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stoker.deploy.container import ServerContainer
from stoker.deploy.finding import Hit, Rule, Severity, Subject
from stoker.deploy.manifest import JsonObject, Manifest, at, mapping, number, text
from stoker.deploy.workload import Workload, resolve_port
from stoker.settings import Settings

PROBES: Final = ("startupProbe", "readinessProbe", "livenessProbe")
MANAGEMENT_PATHS: Final = ("/livez", "/readyz", "/startupz")
DATA_PATHS: Final = ("/v2/health/live", "/v2/health/ready")
LIVE: Final = ("/livez", "/v2/health/live")
READY: Final = ("/readyz", "/v2/health/ready", "/startupz")
"""What is false while models load or the server drains."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe of a server."""

    manifest: Manifest
    workload: Workload
    server: ServerContainer
    name: str
    value: JsonObject

    @property
    def path(self) -> str:
        """Where it stands."""
        return f"{self.server.path}.{self.name}"

    @property
    def patience_s(self) -> int:
        """Seconds of failing answers that it bears."""
        return given(self.value, "periodSeconds", 10) * given(self.value, "failureThreshold", 3)

    @property
    def budget_s(self) -> int:
        """Seconds from the start of the container."""
        return given(self.value, "initialDelaySeconds", 0) + self.patience_s


def given(probe: JsonObject, key: str, default: int) -> int:
    """A number of a probe, or Kubernetes' default."""
    written = number(probe, key)
    return default if written is None else written


def probes(subject: Subject, *names: str) -> Iterator[Probe]:
    """The probes of these names, or all, of every server."""
    for workload in subject.workloads:
        for server in workload.servers:
            for name in names or PROBES:
                value = mapping(server.value, name)
                if value:
                    yield Probe(workload.manifest, workload, server, name, value)


def _missing(name: str, subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for server in workload.servers:
            if not mapping(server.value, name):
                yield Hit(workload.manifest, server.path, f"no {name}")


def _wrong_endpoint(subject: Subject) -> Iterator[Hit]:
    for probe in probes(subject):
        settings = probe.server.settings
        handler = "httpGet" if "httpGet" in probe.value else "grpc"
        if handler not in probe.value:
            continue
        where = f"{probe.path}.{handler}"
        port = resolve_port(probe.server, at(probe.value, handler, "port"))
        if handler == "grpc":
            if port not in _grpc_ports(settings):
                shown = text(probe.value, "grpc", "port")
                yield Hit(probe.manifest, where, f"port {shown}; gRPC is on {settings.grpc_port}")
            continue
        problem = _wrong_http(probe, settings, port)
        if problem:
            yield Hit(probe.manifest, where, problem)


def _wrong_http(probe: Probe, settings: Settings, port: int | None) -> str:
    path = text(probe.value, "httpGet", "path").partition("?")[0] or "/"
    shown = text(probe.value, "httpGet", "port")
    scheme = text(probe.value, "httpGet", "scheme").upper() or "HTTP"
    if port == settings.metrics_port:
        if scheme == "HTTPS":
            return f"scheme HTTPS; port {port} speaks plain HTTP"
        if path not in MANAGEMENT_PATHS:
            return f"path {path}; port {port} has {', '.join(MANAGEMENT_PATHS)}"
    elif port in _rest_ports(settings):
        speaks = "HTTPS" if _has_tls(probe.server) else "HTTP"
        if scheme != speaks:
            return f"scheme {scheme}; port {port} speaks {speaks}"
        is_model = path.startswith("/v2/models/") and path.endswith("/ready")
        if path not in DATA_PATHS and not is_model:
            return f"path {path}; port {port} has {', '.join(DATA_PATHS)}"
    else:
        found = "no port of the container has that name" if port is None else "nobody listens there"
        return f"port {shown}: {found}; the probes' port is {settings.metrics_port}"
    return ""


def _rest_ports(settings: Settings) -> tuple[int, ...]:
    """Both protocols are spoken on either data port by the native transport."""
    if settings.grpc_transport == "native":
        return settings.http_port, settings.grpc_port
    return (settings.http_port,)


def _grpc_ports(settings: Settings) -> tuple[int, ...]:
    if settings.grpc_transport == "native":
        return settings.http_port, settings.grpc_port
    return (settings.grpc_port,)


def _path(probe: Probe) -> str:
    return text(probe.value, "httpGet", "path").partition("?")[0]


def _readiness_asks_liveness(subject: Subject) -> Iterator[Hit]:
    for probe in probes(subject, "readinessProbe"):
        if _path(probe) in (*LIVE, "/startupz"):
            yield Hit(probe.manifest, f"{probe.path}.httpGet.path", _path(probe))


def _liveness_asks_readiness(subject: Subject) -> Iterator[Hit]:
    for probe in probes(subject, "livenessProbe"):
        if _path(probe) in READY:
            yield Hit(probe.manifest, f"{probe.path}.httpGet.path", _path(probe))
        elif "grpc" in probe.value:
            yield Hit(probe.manifest, f"{probe.path}.grpc", "gRPC health, which tells readiness")


def _tcp(subject: Subject) -> Iterator[Hit]:
    for probe in probes(subject):
        if "tcpSocket" in probe.value:
            port = text(probe.value, "tcpSocket", "port")
            yield Hit(probe.manifest, f"{probe.path}.tcpSocket", f"port {port}")


def _exec(subject: Subject) -> Iterator[Hit]:
    for probe in probes(subject):
        if "exec" in probe.value:
            yield Hit(probe.manifest, f"{probe.path}.exec", "a command")


def _grpc_with_tls(subject: Subject) -> Iterator[Hit]:
    for probe in probes(subject):
        if "grpc" in probe.value and _has_tls(probe.server):
            yield Hit(probe.manifest, f"{probe.path}.grpc", "a gRPC probe of a port with TLS")


def _has_tls(server: ServerContainer) -> bool:
    """Whether a certificate is written for the data ports, for whichever version knows it; the
    management port is plain HTTP in every case."""
    return "tls_cert" in _written(server)


def _written(server: ServerContainer) -> set[str]:
    """Keys of settings that are written, those that the server does not know included."""
    words = {word.partition("=")[0] for word in server.words if word.startswith("--")}
    flags = {word.removeprefix("--").replace("-", "_") for word in words}
    return (
        flags
        | set(server.mentioned)
        | {name.removeprefix("STOKER_").lower() for name in server.environment}
    )


def _not_strict(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for server in workload.servers:
            if not server.settings.strict_readiness:
                yield Hit(workload.manifest, server.path, "strict_readiness false")


RULES = (
    Rule(
        "startup-probe-missing",
        Severity.ERROR,
        "A server without a startup probe",
        "The liveness probe counts from the first second, so a start that takes longer than it "
        "bears is killed again and again.",
        "startupProbe: httpGet /startupz of the management port, about three times the measured "
        "start.",
        lambda subject: _missing("startupProbe", subject),
    ),
    Rule(
        "readiness-probe-missing",
        Severity.ERROR,
        "A server without a readiness probe",
        "The pod gets requests before a model is loaded and while it drains; KServe puts a TCP "
        "probe in its place, which is as blind.",
        "readinessProbe: httpGet /readyz of the management port.",
        lambda subject: _missing("readinessProbe", subject),
    ),
    Rule(
        "liveness-probe-missing",
        Severity.WARNING,
        "A server without a liveness probe",
        "A process whose event loop hangs is never replaced.",
        "livenessProbe: httpGet /livez of the management port, timeout 5 s, 3 failures.",
        lambda subject: _missing("livenessProbe", subject),
    ),
    Rule(
        "probe-endpoint-wrong",
        Severity.ERROR,
        "A probe of a port, path or scheme that the server does not answer",
        "It fails always: the pod is never ready, or is restarted for ever.",
        "httpGet on the management port: /startupz, /readyz, /livez.",
        _wrong_endpoint,
    ),
    Rule(
        "readiness-asks-liveness",
        Severity.ERROR,
        "A readiness probe that asks /livez, /startupz or /v2/health/live",
        "It is true while models load or are broken and while the server drains: requests go "
        "where they fail.",
        "Ask /readyz.",
        _readiness_asks_liveness,
    ),
    Rule(
        "readiness-not-strict",
        Severity.WARNING,
        "strict_readiness switched off",
        "The pod is ready although a model failed or did not get its GPU: a rollout of a broken "
        "model goes on to the last pod.",
        "Leave it on; name with require_model those that must serve.",
        _not_strict,
    ),
    Rule(
        "liveness-asks-readiness",
        Severity.ERROR,
        "A liveness probe that asks for readiness",
        "A draining server and one with a broken model are killed, with what they have in flight.",
        "Ask /livez.",
        _liveness_asks_readiness,
    ),
    Rule(
        "probe-tcp",
        Severity.ERROR,
        "A TCP probe",
        "All ports open before any model is loaded, and stay open in a process that hangs: it "
        "tells nothing.",
        "httpGet on the management port.",
        _tcp,
    ),
    Rule(
        "probe-exec",
        Severity.WARNING,
        "A probe that runs a command",
        "Every look starts a process, a Python one perhaps, in the container's CPU quota.",
        "httpGet on the management port.",
        _exec,
    ),
    Rule(
        "probe-grpc-tls",
        Severity.ERROR,
        "A gRPC probe of a server with TLS",
        "The kubelet dials in plain text, so the probe always fails.",
        "httpGet on the management port, which is plain HTTP.",
        _grpc_with_tls,
    ),
)
