"""Routes of a Gateway and Ingresses: whether what they send to Stoker arrives, and can be read.

Source: reference, Kubernetes production practice, section 5; Gateway API, "Backend protocol";
Kubernetes, "Ingress".
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stoker.deploy.container import ServerContainer
from stoker.deploy.finding import Hit, Rule, Severity, Subject
from stoker.deploy.image import PROGRAM
from stoker.deploy.manifest import (
    JsonObject,
    JsonValue,
    Manifest,
    at,
    mapping,
    numbered,
    objects,
    text,
)
from stoker.deploy.rules.services import selected_by_service
from stoker.deploy.workload import resolve_port

_HTTP2: Final = ("kubernetes.io/h2c", "h2c", "grpc", "http2", "kubernetes.io/h2", "h2", "grpcs")
"""Words of appProtocol by which a gateway speaks HTTP/2 to the pods."""
_PROTOCOL: Final = re.compile(r"proto|scheme")
"""In the names of the annotations by which proxies are told how to speak to the pods, such as
backend-protocol of nginx, backend-protocol-version of ALB, service.serversscheme of Traefik."""
_GRPC_WORD: Final = re.compile(r"\bgrpcs?\b", re.IGNORECASE)
_HTTP2_WORD: Final = re.compile(r"\b(grpcs?|h2c?|http2)\b", re.IGNORECASE)
_NGINX: Final = "nginx"
"""The proxy that asks annotations alone; others go by the Service's appProtocol, too."""
_CLASS: Final = "kubernetes.io/ingress.class"
_NAME_LABEL: Final = "app.kubernetes.io/name"


@dataclass(frozen=True, slots=True)
class Backend:
    """One place that a route or an Ingress sends to."""

    route: Manifest
    path: str
    service: str
    namespace: str
    port: JsonValue
    """By number, or in an Ingress by name."""

    @property
    def is_grpc(self) -> bool:
        """Whether calls of gRPC are sent there, and nothing else."""
        told = any(map(_GRPC_WORD.search, _protocols(self.route)))
        return self.route.kind == "GRPCRoute" or (self.route.kind == "Ingress" and told)

    def speaks_http2(self, service: Manifest, protocol: str) -> bool:
        """Whether an Ingress may reach a port that understands gRPC alone, as far as annotations
        tell, its own and the Service's, or for most proxies the port's appProtocol."""
        told = [*_protocols(self.route), *_protocols(service)]
        if any(map(_HTTP2_WORD.search, told)):
            return True
        name = text(self.route.value, "spec", "ingressClassName")
        name = name or self.route.annotations.get(_CLASS, "")
        return protocol in _HTTP2 and bool(name) and _NGINX not in name


def _protocols(manifest: Manifest) -> list[str]:
    """The annotations about protocols, each as its name and value."""
    written = manifest.annotations.items()
    return [f"{name} {value}" for name, value in written if _PROTOCOL.search(name)]


def _backends(subject: Subject) -> Iterator[Backend]:
    for route in subject.of_kind("HTTPRoute", "GRPCRoute"):
        for rule_index, rule in numbered(route.value, "spec", "rules"):
            for index, each in numbered(rule, "backendRefs"):
                if text(each, "kind") in ("", "Service"):
                    path = f"spec.rules[{rule_index}].backendRefs[{index}]"
                    namespace = text(each, "namespace") or route.namespace
                    yield Backend(route, path, text(each, "name"), namespace, at(each, "port"))
    for ingress in subject.of_kind("Ingress"):
        default = mapping(ingress.value, "spec", "defaultBackend", "service")
        if default:
            yield _of_ingress(ingress, "spec.defaultBackend.service", default)
        for rule_index, rule in numbered(ingress.value, "spec", "rules"):
            for index, each in numbered(rule, "http", "paths"):
                service = mapping(each, "backend", "service")
                if service:
                    path = f"spec.rules[{rule_index}].http.paths[{index}].backend.service"
                    yield _of_ingress(ingress, path, service)


def _of_ingress(ingress: Manifest, path: str, service: JsonObject) -> Backend:
    port = at(service, "port", "number") or at(service, "port", "name")
    return Backend(ingress, path, text(service, "name"), ingress.namespace, port)


def _service(subject: Subject, backend: Backend) -> Manifest | None:
    for each in subject.of_kind("Service"):
        if (each.name, each.namespace) == (backend.service, backend.namespace):
            return each
    return None


def _no_service(subject: Subject) -> Iterator[Hit]:
    if any(workload.is_kserve for workload in subject.workloads):
        return  # KServe makes the Services
    backends = list(_backends(subject))
    for backend in backends:
        if _service(subject, backend) is None and _is_meant_for_us(subject, backend, backends):
            found = f"no Service {backend.service!r} among these manifests"
            yield Hit(backend.route, f"{backend.path}.name", found)


def _is_meant_for_us(subject: Subject, backend: Backend, backends: list[Backend]) -> bool:
    """Whether a route to a Service that is not there is Stoker's by its name or label, and leads
    to it nowhere else."""
    route = backend.route
    if any(
        other.route is route and _servers(subject, _service(subject, other)) for other in backends
    ):
        return PROGRAM in backend.service
    return PROGRAM in (route.name, route.labels.get(_NAME_LABEL)) or PROGRAM in backend.service


def _servers(subject: Subject, service: Manifest | None) -> list[ServerContainer]:
    """The servers of Stoker that a Service sends to."""
    if service is None:
        return []
    return [
        server
        for workload in subject.workloads
        if selected_by_service(service, workload)
        for server in workload.servers
    ]


def _wrong_port(subject: Subject) -> Iterator[Hit]:
    for backend in _backends(subject):
        service = _service(subject, backend)
        servers = _servers(subject, service)
        if service is None or not servers:
            continue
        problem = _problem(backend, service, servers[0])
        if problem:
            yield Hit(backend.route, f"{backend.path}.port", problem)


def _problem(backend: Backend, service: Manifest, server: ServerContainer) -> str:
    listed = objects(service.value, "spec", "ports")
    shown = text(backend.port) or "none"
    found = [
        each
        for each in listed
        if shown in (text(each, "port"), text(each, "name")) and text(each, "port")
    ]
    if not found:
        known = ", ".join(text(each, "port") for each in listed)
        return f"port {shown}; {service} has {known or 'none'}"
    port = found[0]
    target = at(port, "targetPort") or at(port, "port")
    resolved, settings = resolve_port(server, target), server.settings
    if resolved == settings.metrics_port:
        return f"port {shown}, the management port {resolved}"
    is_two_ports = settings.grpc_port != settings.http_port
    protocol = text(port, "appProtocol")
    if backend.is_grpc:
        if is_two_ports and resolved == settings.http_port and protocol not in _HTTP2:
            return f"port {shown}, which is for HTTP; gRPC is on {settings.grpc_port}"
    elif (
        backend.route.kind == "Ingress"
        and is_two_ports
        and resolved == settings.grpc_port
        and not backend.speaks_http2(service, protocol)
    ):
        return f"port {shown}, which is for gRPC; HTTP is on {settings.http_port}"
    return ""


RULES = (
    Rule(
        "route-service-missing",
        Severity.ERROR,
        "An HTTPRoute, GRPCRoute or Ingress of Stoker to a Service that is not among the manifests",
        "Every request is answered with 500 or 503 by the proxy: a name was changed in one place "
        "only.",
        "The Service's name as it is rendered. A `namePrefix` of kustomize reaches an Ingress and "
        "the routes of components/gateway; others need its names.yaml as `configurations`.",
        _no_service,
    ),
    Rule(
        "route-port-wrong",
        Severity.ERROR,
        "An HTTPRoute, GRPCRoute or Ingress to a port that the Service does not have, to the "
        "management port, or of gRPC to the HTTP port, and the other way round",
        "The proxy finds nobody there, speaks HTTP/1.1 where gRPC needs HTTP/2, or publishes "
        "metrics and probes without any authorisation.",
        "8000 for HTTP, 8001 for gRPC: components/gateway.",
        _wrong_port,
    ),
)
