"""Services and what selects pods: ports, balancing, selectors that match nothing.

Source: reference, Kubernetes production practice, section 5.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from stoker.deploy.container import ServerContainer, flag_or_variable
from stoker.deploy.finding import Hit, Rule, Severity, Subject
from stoker.deploy.image import PROGRAM
from stoker.deploy.manifest import (
    JsonObject,
    JsonValue,
    Manifest,
    at,
    mapping,
    number,
    numbered,
    strings,
    text,
)
from stoker.deploy.selection import matches, selects
from stoker.deploy.workload import POD_PATHS, RUNTIMES, Workload, resolve_port, same_namespace

LONGEST_AGE_S: Final = 1800
"""Of a connection: so long a new pod may wait for its part of the clients; 60 to 300 s are good."""

PROXY_IDLE_S: Final = 60
"""How long proxies commonly keep an idle connection; load balancers of clouds up to 600 s."""

_COMMON: Final = "app.kubernetes.io/"
_NAME_LABEL: Final = f"{_COMMON}name"
_SELECTOR_PATHS: Final[Mapping[str, tuple[str, ...]]] = {
    "Service": ("spec", "selector"),
    "PodDisruptionBudget": ("spec", "selector"),
    "PodMonitor": ("spec", "selector"),
    "NetworkPolicy": ("spec", "podSelector"),
}


def selected_by_service(service: Manifest, workload: Workload) -> bool:
    """Whether a Service sends to the pods of a workload."""
    selector = strings(service.value, "spec", "selector")
    return (
        bool(selector)
        and matches(selector, workload.labels)
        and same_namespace(service, workload.manifest)
    )


def _service_ports(
    subject: Subject,
) -> Iterator[tuple[Manifest, str, JsonObject, ServerContainer, int | None]]:
    """(Service, path, port, server, number it leads to) of the Services before Stoker's pods."""
    for service in subject.of_kind("Service"):
        for workload in subject.workloads:
            if not selected_by_service(service, workload):
                continue
            for server in workload.servers:
                for index, port in numbered(service.value, "spec", "ports"):
                    target = at(port, "targetPort")
                    written = at(port, "port") if target in (None, 0) else target
                    resolved = resolve_port(server, written)
                    yield service, f"spec.ports[{index}]", port, server, resolved


def _wrong_port(subject: Subject) -> Iterator[Hit]:
    for service, path, port, server, resolved in _service_ports(subject):
        settings = server.settings
        ours = (settings.http_port, settings.grpc_port, settings.metrics_port)
        if resolved not in ours:
            shown = text(port, "targetPort") or text(port, "port")
            found = f"{shown}, which leads to no port of the server ({', '.join(map(str, ours))})"
            yield Hit(service, f"{path}.targetPort", found)


def _management(subject: Subject) -> Iterator[Hit]:
    for service, path, _, server, resolved in _service_ports(subject):
        if resolved == server.settings.metrics_port:
            yield Hit(service, path, f"the management port {resolved}")


def _no_protocol(subject: Subject) -> Iterator[Hit]:
    for service, path, port, server, resolved in _service_ports(subject):
        settings = server.settings
        if resolved != settings.grpc_port:
            continue
        if settings.grpc_port == settings.http_port:
            continue  # both protocols: a proxy has to find out itself
        protocol = text(port, "appProtocol")
        if protocol in ("", "http", "tcp"):
            yield Hit(service, f"{path}.appProtocol", protocol or "none on the gRPC port")


def _affinity(subject: Subject) -> Iterator[Hit]:
    for service in subject.of_kind("Service"):
        affinity = text(service.value, "spec", "sessionAffinity")
        if affinity in ("", "None"):
            continue
        if any(selected_by_service(service, workload) for workload in subject.workloads):
            yield Hit(service, "spec.sessionAffinity", affinity)


def _not_ready(subject: Subject) -> Iterator[Hit]:
    for service in subject.of_kind("Service"):
        if text(service.value, "spec", "publishNotReadyAddresses") != "true":
            continue
        if any(selected_by_service(service, workload) for workload in subject.workloads):
            yield Hit(service, "spec.publishNotReadyAddresses", "true")


def _container_port(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for server in workload.servers:
            settings = server.settings
            ours = (settings.http_port, settings.grpc_port, settings.metrics_port)
            for index, each in numbered(server.value, "ports"):
                port = number(each, "containerPort")
                if port is not None and port not in ours:
                    path = f"{server.path}.ports[{index}]"
                    found = f"{port}; the server listens on {', '.join(map(str, ours))}"
                    yield Hit(workload.manifest, path, found)


def _connection_age(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for server in workload.servers:
            age = server.settings.max_connection_age_s
            if age == 0 or age > LONGEST_AGE_S:
                found = (
                    "max_connection_age 0: never" if age == 0 else f"max_connection_age {age:g} s"
                )
                yield Hit(workload.manifest, server.path, found)


def _short_idle(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for server in workload.servers:
            if server.settings.idle_timeout_s <= PROXY_IDLE_S:
                found = f"idle_timeout {server.settings.idle_timeout_s:g} s"
                yield Hit(workload.manifest, server.path, found)


def _selects_nothing(subject: Subject) -> Iterator[Hit]:
    if all(workload.is_kserve for workload in subject.workloads):
        return  # KServe labels the pods
    pods = [(each, _pod_labels(each)) for each in subject.of_kind(*POD_PATHS)]
    for manifest in subject.of_kind(*_SELECTOR_PATHS):
        path = _SELECTOR_PATHS[manifest.kind]
        selector = at(manifest.value, *path)
        if manifest.kind == "NetworkPolicy":
            # It may be for pods that get a label of their own in another overlay.
            wanted = strings(selector, "matchLabels")
            common = {key: each for key, each in wanted.items() if key.startswith(_COMMON)}
            selector = {"matchLabels": dict(common)} if common else None
        if not selector or not _is_meant_for_us(manifest, selector):
            continue
        namespaces = _namespaces(manifest)
        if not any(
            (namespaces is None or pod.namespace in namespaces)
            and _chooses(manifest, selector, labels)
            for pod, labels in pods
        ):
            yield Hit(manifest, ".".join(path), "no pod of these manifests has these labels")


def _pod_labels(manifest: Manifest) -> dict[str, str]:
    path = POD_PATHS[manifest.kind]
    if manifest.kind in RUNTIMES:
        return strings(manifest.value, "spec", "labels")
    return strings(manifest.value, *path[:-1], "metadata", "labels")


def _namespaces(manifest: Manifest) -> set[str] | None:
    """Where a manifest's selector looks; None: everywhere."""
    chosen = mapping(manifest.value, "spec", "namespaceSelector")
    if manifest.kind != "PodMonitor" or not chosen:
        return {manifest.namespace}
    if text(chosen, "any") == "true":
        return None
    names = chosen.get("matchNames")
    return {text(name) for name in names} if isinstance(names, list) else {manifest.namespace}


def _chooses(manifest: Manifest, selector: JsonValue, labels: Mapping[str, str]) -> bool:
    if manifest.kind == "Service":
        return matches(strings(selector), labels)
    return selects(selector, labels)


def _is_meant_for_us(manifest: Manifest, selector: JsonValue) -> bool:
    wanted = strings(selector) if manifest.kind == "Service" else strings(selector, "matchLabels")
    return PROGRAM in (wanted.get(_NAME_LABEL), manifest.labels.get(_NAME_LABEL), manifest.name)


RULES = (
    Rule(
        "service-port-wrong",
        Severity.ERROR,
        "A Service's port that leads to no port of the server",
        "Connections are refused, although the pod is ready.",
        "targetPort: http or grpc, the names of the container's ports.",
        _wrong_port,
    ),
    Rule(
        "management-port-published",
        Severity.WARNING,
        "The management port in a Service",
        "Probes and metrics are plain HTTP without any authorisation, and become as reachable as "
        "the models.",
        "Leave it out; a PodMonitor scrapes pods without a Service.",
        _management,
    ),
    Rule(
        "app-protocol-missing",
        Severity.WARNING,
        "A Service's gRPC port without appProtocol",
        "Gateways and meshes take it for HTTP/1.1, and gRPC fails behind them.",
        "appProtocol: kubernetes.io/h2c.",
        _no_protocol,
    ),
    Rule(
        "session-affinity",
        Severity.WARNING,
        "sessionAffinity at a Service of Stoker",
        "Clients behind one address stick to one pod; pods that an autoscaler adds stay idle.",
        "sessionAffinity: None.",
        _affinity,
    ),
    Rule(
        "publishes-unready-pods",
        Severity.WARNING,
        "publishNotReadyAddresses at a Service of Stoker",
        "DNS gives clients pods that load or drain.",
        "Leave it out.",
        _not_ready,
    ),
    Rule(
        "container-port-unserved",
        Severity.WARNING,
        "A container port that the server does not listen on",
        "Whoever goes by the name, a Service, a monitor or a probe, is refused.",
        "The ports of the settings: 8000, 8001, 8002 unless they are set otherwise.",
        _container_port,
    ),
    Rule(
        "connection-age-missing",
        Severity.WARNING,
        f"max_connection_age switched off, or over {LONGEST_AGE_S // 60} minutes",
        "A gRPC client holds one connection for all calls: it stays with its pod, and new pods "
        "get nothing.",
        f"Leave {flag_or_variable('max_connection_age')} at 5m.",
        _connection_age,
    ),
    Rule(
        "idle-timeout-short",
        Severity.WARNING,
        f"idle_timeout of {PROXY_IDLE_S} s or less",
        "A proxy in front that keeps a connection longer sends a request just when the server "
        "closes it: sporadic 502 and 503.",
        f"Leave {flag_or_variable('idle_timeout')} at 620s, above the proxy's own.",
        _short_idle,
    ),
    Rule(
        "selector-matches-nothing",
        Severity.ERROR,
        "A Service, budget, monitor or policy of Stoker whose selector matches no pod",
        "It does nothing, and nobody says so.",
        "The labels of the pod template: app.kubernetes.io/name and instance.",
        _selects_nothing,
    ),
)
