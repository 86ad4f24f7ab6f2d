"""The policies let through what the service needs and nothing else."""

from urllib.parse import urlsplit

import pytest
from stoker.deploy.manifest import at

from tests.contract.manifests import (
    JsonObject,
    JsonValue,
    environment,
    objects,
    of_kind,
    pod,
    ports,
    strings,
    text,
)

closed = pytest.mark.parametrize(
    "target",
    ["components/network-policy", "overlays/production", "base+models-s3+network-policy"],
    indirect=True,
)


def policies(target: str) -> dict[str, JsonObject]:
    """By name."""
    return {text(each, "metadata", "name"): each for each in of_kind(target, "NetworkPolicy")}


def selects_the_pods(target: str, policy: JsonObject) -> bool:
    wanted = strings(policy, "spec", "podSelector", "matchLabels")
    return wanted.items() <= strings(pod(target), "metadata", "labels").items()


def allowed(target: str, direction: str) -> list[JsonObject]:
    """The rules of every policy that selects the pods; policies add up."""
    chosen = [each for each in policies(target).values() if selects_the_pods(target, each)]
    return [rule for each in chosen for rule in objects(each, "spec", direction)]


def rules_of_port(rules: list[JsonObject], port: JsonValue) -> list[JsonObject]:
    return [rule for rule in rules if port in [each["port"] for each in objects(rule, "ports")]]


@closed
def test_everything_else_in_the_namespace_is_denied(target: str) -> None:
    assert policies(target)["default-deny"]["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }


@closed
def test_every_rule_names_its_peers_and_its_ports(target: str) -> None:
    # A rule without peers is for everybody, one without ports for every port.
    for rule in allowed(target, "ingress"):
        assert objects(rule, "from")
        assert {each["port"] for each in objects(rule, "ports")} <= set(ports(target))
    for rule in allowed(target, "egress"):
        assert objects(rule, "to")
        assert objects(rule, "ports")


@closed
def test_requests_may_come_from_the_namespace_and_from_gateways(target: str) -> None:
    (rule,) = rules_of_port(allowed(target, "ingress"), "http")
    assert rules_of_port(allowed(target, "ingress"), "grpc") == [rule]
    own, gateways = objects(rule, "from")
    assert own == {"podSelector": {}}
    (expression,) = objects(gateways, "namespaceSelector", "matchExpressions")
    assert (expression["key"], expression["operator"]) == ("kubernetes.io/metadata.name", "In")


@closed
def test_the_management_port_is_for_the_monitoring_namespace_only(target: str) -> None:
    (rule,) = rules_of_port(allowed(target, "ingress"), "management")
    (peer,) = objects(rule, "from")
    label = strings(peer, "namespaceSelector", "matchLabels")
    assert label == {"kubernetes.io/metadata.name": "monitoring"}
    assert [each["port"] for each in objects(rule, "ports")] == ["management"]


@closed
def test_names_can_be_looked_up_over_both_protocols(target: str) -> None:
    (rule,) = rules_of_port(allowed(target, "egress"), 53)
    assert {each["protocol"] for each in objects(rule, "ports")} == {"UDP", "TCP"}


def test_spans_may_leave_to_the_collector_of_the_tracing_component() -> None:
    target = "base+tracing+network-policy"
    address = urlsplit(environment(target)["OTEL_EXPORTER_OTLP_ENDPOINT"])
    assert address.hostname is not None
    (rule,) = rules_of_port(allowed(target, "egress"), address.port)
    (peer,) = objects(rule, "to")
    (expression,) = objects(peer, "namespaceSelector", "matchExpressions")
    assert (expression["key"], expression["operator"]) == ("kubernetes.io/metadata.name", "In")
    namespaces = expression["values"]
    assert isinstance(namespaces, list)
    assert address.hostname.split(".")[1] in namespaces


def test_only_pods_that_fetch_their_models_reach_object_stores() -> None:
    def reaches(target: str) -> bool:
        return bool(rules_of_port(allowed(target, "egress"), 443))

    assert reaches("base+models-s3+network-policy")
    assert not reaches("components/network-policy")
    assert not reaches("overlays/production")
    assert "stoker-object-store" in policies("overlays/production")


def test_no_pod_reaches_the_metadata_of_its_node() -> None:
    peers = [
        peer
        for rule in allowed("base+models-s3+network-policy", "egress")
        for peer in objects(rule, "to")
    ]
    blocks = {str(at(each, "ipBlock", "cidr")): at(each, "ipBlock", "except") for each in peers}
    assert blocks["0.0.0.0/0"] == ["169.254.0.0/16"]
    assert not any(each.startswith("169.254.169.254") for each in blocks)
