"""Who scrapes the pods, and whom network policies let in.

Source: reference, Kubernetes production practice, sections 8.3 and 10.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from stoker.deploy.finding import Hit, Rule, Severity, Subject
from stoker.deploy.manifest import (
    JsonObject,
    Manifest,
    at,
    mapping,
    number,
    numbered,
    objects,
    text,
    texts,
)
from stoker.deploy.rules.services import selected_by_service
from stoker.deploy.selection import selects
from stoker.deploy.workload import Workload, container_ports, resolve_port, same_namespace

PORT_ANNOTATION: Final = "prometheus.io/port"
SCRAPE_ANNOTATION: Final = "prometheus.io/scrape"
PATH_ANNOTATION: Final = "prometheus.io/path"
METRICS_PATH: Final = "/metrics"
ALERT_PREFIX: Final = "Stoker"
"""Of the alerts that components/monitoring brings."""


def _watches(monitor: Manifest, namespace: str) -> bool:
    chosen = mapping(monitor.value, "spec", "namespaceSelector")
    if text(chosen, "any") == "true":
        return True
    names = texts(chosen, "matchNames")
    return namespace in (names or [monitor.namespace])


def _monitors(subject: Subject, workload: Workload) -> list[Manifest]:
    """The PodMonitors that scrape a workload."""
    return [
        each
        for each in subject.of_kind("PodMonitor")
        if _watches(each, workload.manifest.namespace)
        and selects(at(each.value, "spec", "selector"), workload.labels)
    ]


def _service_monitors(
    subject: Subject, workload: Workload
) -> Iterator[tuple[Manifest, list[Manifest]]]:
    """The ServiceMonitors that scrape a workload, with the Services that they go by."""
    for monitor in subject.of_kind("ServiceMonitor"):
        services = [
            each
            for each in subject.of_kind("Service")
            if selects(at(monitor.value, "spec", "selector"), each.labels)
            and _watches(monitor, each.namespace)
            and selected_by_service(each, workload)
        ]
        if services:
            yield monitor, services


def _wrong_port(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        for server in workload.servers:
            management = server.settings.metrics_port
            ports = container_ports(server)
            for monitor in _monitors(subject, workload):
                for index, each in numbered(monitor.value, "spec", "podMetricsEndpoints"):
                    name = text(each, "port")
                    port = number(each, "portNumber") if not name else ports.get(name)
                    problem = _problem(name or text(each, "portNumber"), port, management, each)
                    if problem:
                        yield Hit(monitor, f"spec.podMetricsEndpoints[{index}]", problem)
            for monitor, services in _service_monitors(subject, workload):
                for index, each in numbered(monitor.value, "spec", "endpoints"):
                    targets = [
                        resolve_port(server, at(port, "targetPort") or at(port, "port"))
                        for service in services
                        for port in objects(service.value, "spec", "ports")
                        if text(port, "name") == text(each, "port")
                    ]
                    found = targets[0] if targets else None
                    problem = _problem(text(each, "port"), found, management, each)
                    if problem:
                        yield Hit(monitor, f"spec.endpoints[{index}]", problem)
            notes = workload.annotations
            if notes.get(SCRAPE_ANNOTATION) == "true":
                port = number(notes.get(PORT_ANNOTATION))
                endpoint: JsonObject = {"path": notes.get(PATH_ANNOTATION, METRICS_PATH)}
                shown = notes.get(PORT_ANNOTATION, "none")
                problem = _problem(shown, port, management, endpoint)
                if problem:
                    yield Hit(workload.manifest, f"annotation {PORT_ANNOTATION}", problem)


def _problem(shown: str, port: int | None, management: int, endpoint: JsonObject) -> str:
    if port is None:
        return f"port {shown or 'none'}: no such port; metrics are on {management}"
    if port != management:
        return f"port {shown}; metrics are on {management}"
    path = text(endpoint, "path") or METRICS_PATH
    return "" if path == METRICS_PATH else f"path {path}; metrics are at {METRICS_PATH}"


def _twice(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        monitors = _monitors(subject, workload)
        monitors += [monitor for monitor, _ in _service_monitors(subject, workload)]
        is_noted = workload.annotations.get(SCRAPE_ANNOTATION) == "true"
        if len(monitors) + is_noted > 1:
            names = [str(each) for each in monitors] + ["annotations"] * is_noted
            yield Hit(workload.manifest, "metadata", " and ".join(names))


def _rules_twice(subject: Subject) -> Iterator[Hit]:
    """Alerts of ours, by their names, that more than one PrometheusRule has."""
    sources: defaultdict[str, list[Manifest]] = defaultdict(list)
    for manifest in subject.of_kind("PrometheusRule"):
        alerts = {
            text(rule, "alert")
            for group in objects(manifest.value, "spec", "groups")
            for rule in objects(group, "rules")
        }
        for alert in alerts:
            if alert.startswith(ALERT_PREFIX):
                sources[alert].append(manifest)
    again = {str(each): each for found in sources.values() for each in found[1:]}
    for name, manifest in sorted(again.items()):
        alert = min(alert for alert, found in sources.items() if manifest in found[1:])
        yield Hit(manifest, "spec.groups", f"{alert} is in {sources[alert][0]} and in {name}")


def _policies(subject: Subject, workload: Workload) -> list[Manifest]:
    """The policies that say who may come in to the pods of a workload."""
    return [
        each
        for each in subject.of_kind("NetworkPolicy")
        if same_namespace(each, workload.manifest)
        and selects(at(each.value, "spec", "podSelector"), workload.labels)
        and "Ingress" in (texts(each.value, "spec", "policyTypes") or ["Ingress"])
    ]


def _lets_in(policies: Sequence[Manifest], workload: Workload, port: int) -> bool:
    """Whether anybody may reach a port; policies add up."""
    return any(
        _opens(rule, workload, port)
        for policy in policies
        for rule in objects(policy.value, "spec", "ingress")
    )


def _opens(rule: JsonObject, workload: Workload, port: int) -> bool:
    ports = objects(rule, "ports")
    if not ports:
        return True
    for each in ports:
        if (text(each, "protocol") or "TCP") != "TCP":
            continue
        if "port" not in each:
            return True
        last = number(each, "endPort")
        for server in workload.servers:
            first = resolve_port(server, at(each, "port"))
            if first is not None and first <= port <= (last or first):
                return True
    return False


def _clients_out(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        policies = _policies(subject, workload)
        for server in workload.servers if policies else ():
            data = (server.settings.http_port, server.settings.grpc_port)
            if not any(_lets_in(policies, workload, port) for port in data):
                found = f"nobody may reach {data[0]} or {data[1]}"
                yield Hit(policies[0], "spec.ingress", found)


def _prometheus_out(subject: Subject) -> Iterator[Hit]:
    for workload in subject.workloads:
        policies = _policies(subject, workload)
        for server in workload.servers if policies else ():
            port = server.settings.metrics_port
            if not _lets_in(policies, workload, port):
                yield Hit(policies[0], "spec.ingress", f"nobody may reach {port}")


RULES = (
    Rule(
        "monitor-port-wrong",
        Severity.ERROR,
        "A PodMonitor, ServiceMonitor or prometheus.io annotation of another port or path than "
        "the metrics'",
        "Prometheus has no target, or one that is down: no alerts, and nothing to scale on.",
        "port: management, path: /metrics.",
        _wrong_port,
    ),
    Rule(
        "scraped-twice",
        Severity.WARNING,
        "Pods that are scraped in two ways",
        "Every series is there twice, and sums over them are double.",
        "One monitor, without prometheus.io annotations: components/scrape takes those away.",
        _twice,
    ),
    Rule(
        "rules-loaded-twice",
        Severity.WARNING,
        "The same alert of Stoker in two PrometheusRules",
        "Rules are about all deployments that a Prometheus scrapes: each alert fires twice, each "
        "recorded series is written twice, and a threshold that one overlay changes holds nowhere.",
        "components/scrape in place of components/monitoring in every overlay but one.",
        _rules_twice,
    ),
    Rule(
        "policy-shuts-clients-out",
        Severity.ERROR,
        "Network policies that let nobody in to the data ports",
        "Policies add up, and what none allows is dropped: requests time out.",
        "An ingress rule for the ports http and grpc: components/network-policy.",
        _clients_out,
    ),
    Rule(
        "policy-shuts-monitoring-out",
        Severity.WARNING,
        "Network policies that let nobody in to the management port",
        "Prometheus gets nothing, so autoscalers and alerts have no numbers. The kubelet's probes "
        "come from the node, and not every network plug-in exempts them.",
        "An ingress rule for the port management from the monitoring namespace.",
        _prometheus_out,
    ),
)
