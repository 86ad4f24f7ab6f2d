"""Whether network policies let a server out to where it sends: traces, to a collector.

Source: Kubernetes, "Network policies": policies add up, and what none allows is dropped.
"""

from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from stoker.config import open_telemetry
from stoker.deploy.container import ServerContainer
from stoker.deploy.finding import Hit, Rule, Severity, Subject
from stoker.deploy.manifest import (
    JsonObject,
    Manifest,
    at,
    mapping,
    number,
    objects,
    strings,
    text,
    texts,
)
from stoker.deploy.selection import selects
from stoker.deploy.workload import Workload, same_namespace

NAMESPACE_LABEL: Final = "kubernetes.io/metadata.name"
"""Of every namespace: its name."""
_IN_THE_POD: Final = ("localhost", "127.0.0.1", "::1")


def _tracing_out(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        policies = _policies(subject, workload)
        for server in workload.servers if policies else ():
            host, port = _collector(server)
            if port is None or host in _IN_THE_POD:
                continue
            namespace = _namespace_of(host, workload)
            if not any(
                _opens(rule, port, namespace, policy)
                for policy in policies
                for rule in objects(policy.value, "spec", "egress")
            ):
                found = f"nothing may leave to {host}:{port}"
                yield Hit(policies[0], "spec.egress", found)


def _policies(subject: Subject, workload: Workload) -> list[Manifest]:
    """The policies that say where the pods of a workload may send to."""
    return [
        each
        for each in subject.of_kind("NetworkPolicy")
        if same_namespace(each, workload.manifest)
        and selects(at(each.value, "spec", "podSelector"), workload.labels)
        and "Egress" in (texts(each.value, "spec", "policyTypes") or _types(each))
    ]


def _types(policy: Manifest) -> list[str]:
    """The types of a policy that names none."""
    return ["Ingress", "Egress"] if objects(policy.value, "spec", "egress") else ["Ingress"]


def _collector(server: ServerContainer) -> tuple[str, int | None]:
    """(host, port) that spans are sent to; no port where none are sent, or none is written."""
    options = open_telemetry(server.settings, server.environment)
    if not options.is_on or not options.exports:
        return "", None
    address = options.target.partition(" ")[0]
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        return parts.hostname or "", parts.port
    except ValueError:
        return "", None


def _namespace_of(host: str, workload: Workload) -> str:
    """The namespace of a Service by its name in DNS; empty where it is none, or not known."""
    labels = host.split(".")
    if len(labels) == 1:
        return workload.manifest.namespace
    return labels[1] if len(labels) == 2 or labels[2] == "svc" else ""


def _opens(rule: JsonObject, port: int, namespace: str, policy: Manifest) -> bool:
    return _has_port(rule, port) and _has_peer(rule, namespace, policy)


def _has_port(rule: JsonObject, port: int) -> bool:
    ports = objects(rule, "ports")
    for each in ports:
        first = number(each, "port")
        is_tcp = (text(each, "protocol") or "TCP") == "TCP"
        # A port by name is one of the other pods'.
        if is_tcp and (first is None or first <= port <= (number(each, "endPort") or first)):
            return True
    return not ports


def _has_peer(rule: JsonObject, namespace: str, policy: Manifest) -> bool:
    """Whether a namespace is among the peers; one whose labels are not known may be."""
    peers = objects(rule, "to")
    for peer in peers:
        selector = mapping(peer, "namespaceSelector")
        keys = {
            *strings(selector, "matchLabels"),
            *(text(each, "key") for each in objects(selector, "matchExpressions")),
        }
        if "ipBlock" in peer or not namespace:
            return True
        if "namespaceSelector" not in peer:
            if namespace == policy.namespace or not policy.namespace:
                return True
        elif keys - {NAMESPACE_LABEL} or selects(selector, {NAMESPACE_LABEL: namespace}):
            return True
    return not peers


RULES = (
    Rule(
        "policy-shuts-tracing-out",
        Severity.WARNING,
        "Network policies that let no traces out to the collector's port or namespace",
        "Spans are dropped after their time-out; requests are served, and no trace of them comes.",
        "An egress rule to the collector's namespace and port: components/network-policy has those "
        "that components/tracing expects.",
        _tracing_out,
    ),
)
