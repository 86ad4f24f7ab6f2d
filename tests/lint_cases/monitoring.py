"""Cases of `stoker k8s lint`: Monitoring and network."""

from collections.abc import Sequence
from typing import Final

from tests.broken_manifests import Edit, add, drop, put, take, variable
from tests.lint_cases.case import Case

ALERT: Final = """
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: %s
spec:
  groups:
    - name: of one alert
      rules:
        - {alert: %s, expr: stoker_ready == 0}
"""
SERVICE_MONITOR: Final = """
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: stoker
spec:
  selector: {matchLabels: {scraped: "yes"}}
  endpoints: [{port: %s}]
"""
EGRESS: Final = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out}
spec:
  podSelector: {matchLabels: {app.kubernetes.io/name: stoker}}
  policyTypes: [Egress]
  egress:
    - to: [%s]
      ports: [{port: %s}]
"""
OBSERVED: Final = "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: observability}}}"


def traced(peer: str, port: str) -> Sequence[Edit]:
    """Tracing to the namespace observability, and what a policy lets out."""
    return (
        variable("STOKER_TRACING", "true"),
        variable("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector.observability:4317"),
        add(EGRESS % (peer, port)),
    )


CASES: Final = (
    Case(
        "monitor-port-wrong",
        [put("PodMonitor", "spec", "podMetricsEndpoints", 0, "port", value="metrics")],
        "port metrics: no such port; metrics are on 8002",
        [put("PodMonitor", "spec", "podMetricsEndpoints", value=[{"portNumber": 8002}])],
    ),
    Case(
        "monitor-port-wrong",
        [put("PodMonitor", "spec", "podMetricsEndpoints", 0, "path", value="/stats")],
        "path /stats",
        [take("PodMonitor", "spec", "podMetricsEndpoints", 0, "path")],
    ),
    Case(
        "monitor-port-wrong",
        [
            drop("PodMonitor"),
            put(
                "Deployment",
                *("spec", "template", "metadata", "annotations"),
                value={"prometheus.io/scrape": "true", "prometheus.io/port": "8000"},
            ),
        ],
        "port 8000; metrics are on 8002",
        [
            drop("PodMonitor"),
            put(
                "Deployment",
                *("spec", "template", "metadata", "annotations"),
                value={"prometheus.io/scrape": "false", "prometheus.io/port": "8000"},
            ),
        ],
    ),
    Case(
        "monitor-port-wrong",
        [
            drop("PodMonitor"),
            put("Service", "metadata", "labels", value={"scraped": "yes"}),
            add(SERVICE_MONITOR % "http"),
        ],
        "port http; metrics are on 8002",
        [
            drop("PodMonitor"),
            put("Service", "metadata", "labels", value={"scraped": "yes"}),
            put("Service", "spec", "ports", 2, value={"name": "metrics", "port": 8002}),
            add(SERVICE_MONITOR % "metrics"),
        ],
    ),
    Case(
        "scraped-twice",
        [
            put(
                "Deployment",
                *("spec", "template", "metadata", "annotations"),
                value={"prometheus.io/scrape": "true", "prometheus.io/port": "8002"},
            )
        ],
        "PodMonitor/stoker and annotations",
        [
            put(
                "Deployment",
                *("spec", "template", "metadata", "annotations"),
                value={"prometheus.io/scrape": "false"},
            )
        ],
    ),
    Case(
        "rules-loaded-twice",
        [
            add(
                ALERT % ("vision-stoker", "StokerNotReady")
                + "---"
                + ALERT % ("a", "StokerNotReady")
            )
        ],
        "StokerNotReady is in PrometheusRule/vision-stoker and in PrometheusRule/a",
        [add(ALERT % ("vision-stoker", "StokerNotReady") + "---" + ALERT % ("a", "NotReady"))],
    ),
    Case(
        "policy-shuts-clients-out",
        [take("NetworkPolicy", "spec", "ingress", 0)],
        "nobody may reach 8000 or 8001",
        [put("NetworkPolicy", "spec", "ingress", 0, "ports", value=[{"port": 8001}])],
    ),
    Case(
        "policy-shuts-clients-out",
        [
            put("NetworkPolicy", "spec", "ingress", 0, "ports", 0, value={"port": 80}),
            put("NetworkPolicy", "spec", "ingress", 0, "ports", 1, "protocol", value="UDP"),
        ],
        "nobody may reach",
        [
            put(
                "NetworkPolicy",
                "spec",
                "ingress",
                0,
                "ports",
                value=[{"port": 80, "endPort": 9000}],
            )
        ],
    ),
    Case(
        "policy-shuts-monitoring-out",
        [take("NetworkPolicy", "spec", "ingress", 1)],
        "nobody may reach 8002",
        [put("NetworkPolicy", "spec", "ingress", value=[{}])],
    ),
    Case(
        "policy-shuts-tracing-out",
        [*traced(OBSERVED, "4318")],
        "nothing may leave to collector.observability:4317",
        [*traced(OBSERVED, "4317")],
    ),
    Case(
        "policy-shuts-tracing-out",
        [*traced(OBSERVED.replace("observability", "monitoring"), "4317")],
        "nothing may leave to collector.observability:4317",
        [*traced("{ipBlock: {cidr: 10.0.0.0/8}}", "4317")],
    ),
    Case(
        "policy-shuts-tracing-out",
        [*traced(OBSERVED, "80"), variable("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")],
        "nothing may leave",
        [*traced(OBSERVED, "80"), variable("OTEL_TRACES_EXPORTER", "none")],
    ),
)
