"""Cases of `stoker k8s lint`: Services and connections."""

from typing import Final

from tests.broken_manifests import add, put, server, setting, take, variable
from tests.lint_cases.case import Case

OTHER_SERVICE: Final = """
apiVersion: v1
kind: Service
metadata:
  name: stoker-headless
  labels: {app.kubernetes.io/name: stoker}
spec:
  selector: {app.kubernetes.io/name: %s}
  ports: [{port: 8000, targetPort: http}]
"""
POLICY_LABELS: Final = ("spec", "podSelector", "matchLabels")
INGRESS: Final = """
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: front}
spec:
  rules:
    - http:
        paths:
          - path: /
            pathType: Prefix
            backend: {service: {name: %s, port: {number: %d}}}
"""
NGINX_PROTOCOL: Final = "nginx.ingress.kubernetes.io/backend-protocol"
ALB_PROTOCOL: Final = "alb.ingress.kubernetes.io/backend-protocol-version"


def route(kind: str, service: str, port: int) -> str:
    """A route of a Gateway to that port."""
    return f"""
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: routed, labels: {{app.kubernetes.io/name: stoker}}}}
spec: {{rules: [{{backendRefs: [{{name: {service}, port: {port}}}]}}]}}
"""


CASES: Final = (
    Case(
        "service-port-wrong",
        [put("Service", "spec", "ports", 0, "targetPort", value="web")],
        "web, which leads to no port of the server (8000, 8001, 8002)",
        [put("Service", "spec", "ports", 0, "targetPort", value=8000)],
    ),
    Case(
        "service-port-wrong",
        [
            take("Service", "spec", "ports", 0, "targetPort"),
            put("Service", "spec", "ports", 0, "port", value=80),
        ],
        "80, which leads to no port",
        [take("Service", "spec", "ports", 0, "targetPort")],
    ),
    Case(
        "management-port-published",
        [put("Service", "spec", "ports", 2, value={"port": 80, "targetPort": "management"})],
        "the management port 8002",
        [put("Service", "spec", "ports", 2, value={"port": 8002, "targetPort": "http"})],
    ),
    Case(
        "app-protocol-missing",
        [take("Service", "spec", "ports", 1, "appProtocol")],
        "none on the gRPC port",
        [put("Service", "spec", "ports", 1, "appProtocol", value="grpc")],
    ),
    Case(
        "session-affinity",
        [put("Service", "spec", "sessionAffinity", value="ClientIP")],
        "ClientIP",
        [put("Service", "spec", "sessionAffinity", value="None")],
    ),
    Case(
        "publishes-unready-pods",
        [put("Service", "spec", "publishNotReadyAddresses", value=True)],
        "true",
        [put("Service", "spec", "publishNotReadyAddresses", value=False)],
    ),
    Case(
        "container-port-unserved",
        [server("ports", 0, "containerPort", value=8080)],
        "8080; the server listens on 8000, 8001, 8002",
        [
            server("ports", 0, "containerPort", value=8080),
            server("args", 4, value="--http-port=8080"),
        ],
    ),
    Case(
        "connection-age-missing",
        [variable("STOKER_MAX_CONNECTION_AGE", "0")],
        "max_connection_age 0: never",
        [variable("STOKER_MAX_CONNECTION_AGE", "30m")],
    ),
    Case(
        "connection-age-missing",
        [server("args", 4, value="--max-connection-age=31m")],
        "max_connection_age 1860 s",
        [server("args", 4, value="--max-connection-age=1m")],
    ),
    Case(
        "idle-timeout-short",
        [setting("idle_timeout: 1m")],
        "idle_timeout 60 s",
        [setting("idle_timeout: 61s")],
    ),
    Case(
        "selector-matches-nothing",
        [put("PodDisruptionBudget", "spec", "selector", "matchLabels", "app", value="stoker")],
        "no pod of these manifests has these labels",
        [
            put(
                "PodDisruptionBudget",
                *("spec", "selector"),
                value={
                    "matchExpressions": [
                        {
                            "key": "app.kubernetes.io/name",
                            "operator": "In",
                            "values": ["stoker", "x"],
                        }
                    ]
                },
            )
        ],
    ),
    Case(
        "selector-matches-nothing",
        [put("NetworkPolicy", *POLICY_LABELS, "app.kubernetes.io/instance", value="other")],
        "no pod",
        [put("NetworkPolicy", *POLICY_LABELS, "models-from", value="object-store")],
    ),
    Case(
        "selector-matches-nothing",
        [add(OTHER_SERVICE % "stocker")],
        "no pod",
        [add(OTHER_SERVICE % "stoker")],
    ),
    Case(
        "route-service-missing",
        [add(route("HTTPRoute", "stocker", 8000))],
        "no Service 'stocker' among these manifests",
        # Another application's.
        [add(route("HTTPRoute", "web", 80).replace("/name: stoker", "/name: web"))],
    ),
    Case(
        "route-service-missing",
        [add(INGRESS % ("stoker-old", 8000))],
        "no Service 'stoker-old' among these manifests",
        [add(INGRESS % ("shop", 80))],
    ),
    Case(
        "route-port-wrong",
        [add(route("GRPCRoute", "stoker", 8000))],
        "port 8000, which is for HTTP; gRPC is on 8001",
        [add(route("GRPCRoute", "stoker", 8001))],
    ),
    Case(
        "route-port-wrong",
        [add(route("HTTPRoute", "stoker", 80))],
        "port 80; Service/stoker has 8000, 8001",
        [add(route("HTTPRoute", "stoker", 8000))],
    ),
    Case(
        "route-port-wrong",
        [add(INGRESS % ("stoker", 8002))],
        "port 8002; Service/stoker has 8000, 8001",
        [add(INGRESS % ("stoker", 8000))],
    ),
    Case(
        "route-port-wrong",
        [
            add(INGRESS % ("stoker", 9000)),
            put("Service", "spec", "ports", 2, value={"port": 9000, "targetPort": "management"}),
        ],
        "port 9000, the management port 8002",
        [
            add(INGRESS % ("stoker", 9000)),
            put("Service", "spec", "ports", 2, value={"port": 9000, "targetPort": "http"}),
        ],
    ),
    Case(
        "route-port-wrong",
        [add(INGRESS % ("stoker", 8001))],
        "port 8001, which is for gRPC; HTTP is on 8000",
        [
            add(INGRESS % ("stoker", 8001)),
            put("Ingress", "metadata", "annotations", NGINX_PROTOCOL, value="GRPC"),
        ],
    ),
    Case(
        "route-port-wrong",
        [
            add(INGRESS % ("stoker", 8000)),
            put("Ingress", "metadata", "annotations", ALB_PROTOCOL, value="GRPC"),
            put("Service", "spec", "ports", 0, "appProtocol", value="http"),
        ],
        "port 8000, which is for HTTP; gRPC is on 8001",
        [
            add(INGRESS % ("stoker", 8001)),
            put("Ingress", "metadata", "annotations", ALB_PROTOCOL, value="GRPC"),
        ],
    ),
    Case(
        "route-port-wrong",
        [
            add(INGRESS % ("stoker", 8001)),
            put("Ingress", "spec", "ingressClassName", value="nginx"),
        ],
        "port 8001, which is for gRPC",
        [
            add(INGRESS % ("stoker", 8001)),
            put("Ingress", "spec", "ingressClassName", value="traefik"),
        ],
    ),
)
