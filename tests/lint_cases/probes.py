"""Cases of `stoker k8s lint`: Probes."""

from typing import Final

from stoker.deploy.manifest import JsonObject

from tests.broken_manifests import SERVER, measurement, server, setting, take, variable
from tests.lint_cases.case import Case

HTTP_PROBE: Final = "httpGet"
DATA_PROBE: Final[JsonObject] = {"port": 8000, "path": "/v2/health/ready"}

CASES: Final = (
    Case(
        "startup-probe-missing",
        [take("Deployment", *SERVER, "startupProbe")],
        "no startupProbe",
        [server("startupProbe", "failureThreshold", value=60)],
    ),
    Case(
        "readiness-probe-missing",
        [take("Deployment", *SERVER, "readinessProbe")],
        "no readinessProbe",
        [server("readinessProbe", "periodSeconds", value=1)],
    ),
    Case(
        "liveness-probe-missing",
        [take("Deployment", *SERVER, "livenessProbe")],
        "no livenessProbe",
        [server("livenessProbe", "periodSeconds", value=30)],
    ),
    Case(
        "probe-endpoint-wrong",
        [server("readinessProbe", HTTP_PROBE, "port", value=8000)],
        "path /readyz; port 8000 has /v2/health/live, /v2/health/ready",
        [server("readinessProbe", HTTP_PROBE, value={"port": 8000, "path": "/v2/health/ready"})],
    ),
    Case(
        "probe-endpoint-wrong",
        [server("startupProbe", HTTP_PROBE, "path", value="/health")],
        "path /health; port 8002 has /livez, /readyz, /startupz",
        [server("startupProbe", HTTP_PROBE, "path", value="/readyz")],
    ),
    Case(
        "probe-endpoint-wrong",
        [server("livenessProbe", HTTP_PROBE, "port", value="metrics")],
        "port metrics: no port of the container has that name",
        [server("livenessProbe", HTTP_PROBE, "port", value="8002")],
    ),
    Case(
        "probe-endpoint-wrong",
        [server("livenessProbe", HTTP_PROBE, "port", value=9000)],
        "port 9000: nobody listens there",
        [
            server("livenessProbe", HTTP_PROBE, "port", value=9000),
            variable("STOKER_METRICS_PORT", "9000"),
            server("readinessProbe", HTTP_PROBE, "port", value=9000),
            server("startupProbe", HTTP_PROBE, "port", value=9000),
        ],
    ),
    Case(
        "probe-endpoint-wrong",
        [server("livenessProbe", HTTP_PROBE, "scheme", value="HTTPS")],
        "port 8002 speaks plain HTTP",
        [server("livenessProbe", HTTP_PROBE, "scheme", value="HTTP")],
    ),
    Case(
        "probe-endpoint-wrong",
        [server("readinessProbe", value={"httpGet": {**DATA_PROBE, "scheme": "HTTPS"}})],
        "scheme HTTPS; port 8000 speaks HTTP",
        [server("readinessProbe", value={"httpGet": DATA_PROBE})],
    ),
    Case(
        "probe-endpoint-wrong",
        [
            server("readinessProbe", value={"httpGet": DATA_PROBE}),
            variable("STOKER_TLS_CERT", "/tls/tls.crt"),
        ],
        "scheme HTTP; port 8000 speaks HTTPS",
        [
            server("readinessProbe", value={"httpGet": {**DATA_PROBE, "scheme": "HTTPS"}}),
            variable("STOKER_TLS_CERT", "/tls/tls.crt"),
        ],
    ),
    Case(
        "probe-endpoint-wrong",
        [server("readinessProbe", value={"grpc": {"port": 8002}})],
        "port 8002; gRPC is on 8001",
        [server("readinessProbe", value={"grpc": {"port": 8001}})],
    ),
    Case(
        "readiness-asks-liveness",
        [server("readinessProbe", HTTP_PROBE, "path", value="/livez")],
        "/livez",
        [server("startupProbe", HTTP_PROBE, "path", value="/livez")],
    ),
    Case(
        "readiness-not-strict",
        [setting("strict_readiness: false")],
        "strict_readiness false",
        [setting("strict_readiness: true"), setting("exit_on_error: true")],
    ),
    Case(
        "liveness-asks-readiness",
        [server("livenessProbe", HTTP_PROBE, "path", value="/readyz")],
        "/readyz",
        [server("startupProbe", HTTP_PROBE, "path", value="/readyz")],
    ),
    Case(
        "liveness-asks-readiness",
        [server("livenessProbe", value={"grpc": {"port": 8001}})],
        "gRPC health",
        [server("readinessProbe", value={"grpc": {"port": 8001}})],
    ),
    Case(
        "probe-tcp",
        [server("readinessProbe", value={"tcpSocket": {"port": 8000}})],
        "port 8000",
        [server("readinessProbe", value={"grpc": {"port": 8001}})],
    ),
    Case(
        "probe-exec",
        [server("livenessProbe", value={"exec": {"command": ["true"]}})],
        "a command",
        [server("lifecycle", value={"preStop": {"exec": {"command": ["true"]}}})],
    ),
    Case(
        "probe-grpc-tls",
        [
            server("readinessProbe", value={"grpc": {"port": 8001}}),
            variable("STOKER_TLS_CERT", "/tls/tls.crt"),
        ],
        "gRPC probe",
        [server("readinessProbe", value={"grpc": {"port": 8001}})],
    ),
    Case(
        "liveness-too-tight",
        [server("livenessProbe", "timeoutSeconds", value=1)],
        "timeout 1 s, 3 failures, 30 s in all",
        [server("livenessProbe", "timeoutSeconds", value=2)],
    ),
    Case(
        "liveness-too-tight",
        [server("livenessProbe", "failureThreshold", value=2)],
        "2 failures",
        [server("readinessProbe", "failureThreshold", value=2)],
    ),
    Case(
        "liveness-too-tight",
        [server("livenessProbe", "periodSeconds", value=5)],
        "15 s in all",
        [server("livenessProbe", "periodSeconds", value=7)],
    ),
    Case(
        "readiness-too-tight",
        [server("readinessProbe", "failureThreshold", value=1)],
        "timeout 1 s, 1 failure",
        [
            server("readinessProbe", "failureThreshold", value=1),
            server("readinessProbe", "timeoutSeconds", value=2),
        ],
    ),
    Case(
        "startup-budget-short",
        [server("startupProbe", "failureThreshold", value=5)],
        "25 s",
        [server("startupProbe", "failureThreshold", value=6)],
    ),
    Case(
        "startup-budget-below-measured",
        [server("startupProbe", "failureThreshold", value=7)],
        "35 s; a start took 20.0 s, a machine of the tests",
        [server("startupProbe", "failureThreshold", value=8)],
        measured=measurement(start_s=20.0),
    ),
    Case(
        "startup-budget-below-measured",
        [server("startupProbe", "failureThreshold", value=7)],
        "35 s; a start took 20.0 s",
        [server("startupProbe", "initialDelaySeconds", value=5)],
        start_s=20.0,
    ),
    Case(
        "startup-hides-hung-load",
        [server("startupProbe", "failureThreshold", value=60)],
        "300 s; hung_load_timeout 300 s",
        [server("startupProbe", "failureThreshold", value=61)],
    ),
    Case(
        "startup-hides-hung-load",
        [setting("hung_load_timeout: 10m")],
        "600 s; hung_load_timeout 600 s",
        [setting("hung_load_timeout: 0")],
    ),
)
