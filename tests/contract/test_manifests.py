"""The rendered manifests: valid for Kubernetes, consistent in themselves and with the server."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast

import jsonschema  # type: ignore[import-untyped]  # has no types of its own
import kubernetes_validate  # type: ignore[import-untyped]  # annotated, but not marked as typed
import pytest
import yaml
from stoker import __version__, config
from stoker.runtime import copies
from stoker.settings import Settings
from stoker.telemetry import metric_table
from stoker.telemetry.metric import MetricType

from tests.contract.manifests import (
    K8S,
    ROOT,
    TARGETS,
    JsonObject,
    JsonValue,
    at,
    config_map,
    container,
    environment,
    number,
    objects,
    of_kind,
    pod,
    ports,
    probes,
    render,
    strings,
    text,
    the,
    volumes,
)

CRDS: Final = ROOT.parent / "shared" / "crds"
OLDEST_AND_NEWEST: Final = ("1.34", "1.37")
BUILT_IN: Final = re.compile(r"v1|[a-z]+/v[0-9]+|.*\.k8s\.io/.*")
SELECTED_BY: Final = {"app.kubernetes.io/name": "stoker", "app.kubernetes.io/instance": "stoker"}

every_target = pytest.mark.parametrize("target", TARGETS)
with_gpu = pytest.mark.parametrize("target", ["components/gpu", "overlays/gpu"])
with_hpa = pytest.mark.parametrize("target", ["components/autoscaling-hpa", "overlays/gpu"])


def is_built_in(manifest: JsonObject) -> bool:
    return BUILT_IN.fullmatch(text(manifest, "apiVersion")) is not None


def settings(target: str, folder: Path) -> Settings:
    """What the server makes of the rendered ConfigMap and variables."""
    file = folder / "stoker.yaml"
    file.write_text(config_map(target)["stoker.yaml"])
    return config.load({"config": str(file)}, environ=environment(target))


@every_target
@pytest.mark.parametrize("version", OLDEST_AND_NEWEST)
def test_built_in_kinds_are_valid_and_have_no_unknown_field(target: str, version: str) -> None:
    for manifest in filter(is_built_in, render(target)):
        used = kubernetes_validate.validate(manifest, version, strict=True)
        assert used == version


def test_the_validation_refuses_a_misspelt_field() -> None:
    broken = {**the("base", "ServiceAccount"), "automountServiceAccountTokens": False}
    with pytest.raises(jsonschema.ValidationError, match="automountServiceAccountTokens"):
        kubernetes_validate.validate(broken, OLDEST_AND_NEWEST[0], strict=True)


@pytest.mark.parametrize("target", ["components/monitoring", "overlays/gpu"])
def test_custom_kinds_are_valid_and_have_no_unknown_field(target: str) -> None:
    if not CRDS.is_dir():
        pytest.skip("needs the custom resource definitions in ../shared/crds")
    custom = [each for each in render(target) if not is_built_in(each)]
    assert custom
    for manifest in custom:
        jsonschema.Draft202012Validator(crd_schema(manifest)).validate(manifest)


def crd_schema(manifest: JsonObject) -> JsonObject:
    """The manifest's schema, closed: what a CRD does not list, the API server drops silently."""
    kind = text(manifest, "kind")
    group, version = text(manifest, "apiVersion").split("/")
    definition = yaml.safe_load((CRDS / f"{group}_{kind.lower()}s.yaml").read_text())
    schemas = {each["name"]: each["schema"] for each in definition["spec"]["versions"]}
    return cast("JsonObject", closed(schemas[version]["openAPIV3Schema"]))


def closed(schema: JsonValue) -> JsonValue:
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict):
        result.setdefault("additionalProperties", False)
    return result


def test_base_has_built_in_kinds_only() -> None:
    assert all(map(is_built_in, render("base")))


@every_target
def test_probes_ask_the_management_port_for_the_three_paths(target: str, tmp_path: Path) -> None:
    port = settings(target, tmp_path).metrics_port
    assert list(probes(target)) == [
        ("startupProbe", "/startupz", port),
        ("readinessProbe", "/readyz", port),
        ("livenessProbe", "/livez", port),
    ]


@every_target
def test_container_ports_are_those_of_the_settings(target: str, tmp_path: Path) -> None:
    server = settings(target, tmp_path)
    assert ports(target) == {
        "http": server.http_port,
        "grpc": server.grpc_port,
        "management": server.metrics_port,
    }


@every_target
def test_services_publish_the_data_ports_and_never_the_management_port(target: str) -> None:
    services = of_kind(target, "Service")
    assert {text(each, "metadata", "name") for each in services} == {"stoker", "stoker-headless"}
    for service in services:
        published = {text(each, "targetPort"): each for each in objects(service, "spec", "ports")}
        assert set(published) == {"http", "grpc"}
        assert all(published[name]["port"] == ports(target)[name] for name in published)
        assert published["grpc"]["appProtocol"] == "kubernetes.io/h2c"
        assert "sessionAffinity" not in cast("JsonObject", service["spec"])


@every_target
def test_the_grace_period_covers_the_drain(target: str, tmp_path: Path) -> None:
    server = settings(target, tmp_path)
    grace = number(pod(target), "spec", "terminationGracePeriodSeconds")
    assert server.drain_delay_s > 0  # there is no preStop that would delay instead
    assert "lifecycle" not in container(target)
    assert grace >= server.drain_delay_s + server.drain_timeout_s + 5


@every_target
def test_a_rollout_waits_longer_than_a_start_may_take(target: str) -> None:
    startup = at(container(target), "startupProbe")
    budget = number(startup, "periodSeconds") * number(startup, "failureThreshold")
    assert number(the(target, "Deployment"), "spec", "progressDeadlineSeconds") > budget


@every_target
def test_selectors_are_name_and_instance_and_match_the_pods(target: str) -> None:
    labels = strings(pod(target), "metadata", "labels")
    assert labels.items() >= SELECTED_BY.items()
    found = selectors(target)
    assert set(found) >= {"Deployment stoker", "Service stoker", "Service stoker-headless"}
    assert [name for name, selector in found.items() if selector != SELECTED_BY] == []


def selectors(target: str) -> dict[str, dict[str, str]]:
    paths = {
        "Deployment": ("selector", "matchLabels"),
        "PodDisruptionBudget": ("selector", "matchLabels"),
        "PodMonitor": ("selector", "matchLabels"),
        "Service": ("selector",),
    }
    found = {
        f"{kind} {text(each, 'metadata', 'name')}": strings(each, "spec", *path)
        for kind, path in paths.items()
        for each in of_kind(target, kind)
    }
    for index, each in enumerate(objects(pod(target), "spec", "topologySpreadConstraints")):
        found[f"spread {index}"] = strings(each, "labelSelector", "matchLabels")
    return found


@every_target
def test_image_and_labels_name_the_version_of_the_package(target: str) -> None:
    variant = "" if environment(target)["STOKER_DEVICE"] == "gpu" else "-cpu"
    assert text(container(target), "image").rpartition(":")[2] == __version__ + variant
    deployment = the(target, "Deployment")
    assert text(deployment, "metadata", "labels", "app.kubernetes.io/version") == __version__


@every_target
def test_pods_keep_to_the_restricted_profile(target: str) -> None:
    spec, server = at(pod(target), "spec"), container(target)
    assert at(spec, "securityContext") == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "fsGroup": 10001,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert at(server, "securityContext") == {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert isinstance(spec, dict)
    assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC", "hostUsers"}
    assert all("hostPort" not in each for each in objects(server, "ports"))
    kinds = {key for each in objects(spec, "volumes") for key in each if key != "name"}
    assert kinds <= {"configMap", "emptyDir", "secret", "projected", "persistentVolumeClaim"}


@every_target
def test_pods_have_no_token_and_no_service_variables(target: str) -> None:
    spec, account = at(pod(target), "spec"), the(target, "ServiceAccount")
    assert text(spec, "serviceAccountName") == text(account, "metadata", "name")
    assert at(spec, "automountServiceAccountToken") is False
    assert at(account, "automountServiceAccountToken") is False
    assert at(spec, "enableServiceLinks") is False


@every_target
def test_every_volume_is_mounted_and_every_scratch_volume_is_bounded(target: str) -> None:
    mounted = {text(each, "name") for each in objects(container(target), "volumeMounts")}
    assert mounted == {text(each, "name") for each in objects(pod(target), "spec", "volumes")}
    assert all(at(each, "emptyDir", "sizeLimit") for each in volumes(target, "emptyDir"))


@every_target
def test_a_budget_never_blocks_a_drain(target: str) -> None:
    for budget in of_kind(target, "PodDisruptionBudget"):
        spec = cast("JsonObject", budget["spec"])
        assert spec["maxUnavailable"] == 1
        assert "minAvailable" not in spec
        assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        # With one replica there is nothing to protect.
        assert at(the(target, "Deployment"), "spec", "replicas") != 1


@with_gpu
def test_a_gpu_pod_asks_for_one_gpu_and_insists_on_it(target: str) -> None:
    limits = strings(container(target), "resources", "limits")
    assert {name: limits[name] for name in limits if "/" in name} == {"nvidia.com/gpu": "1"}
    # A request would have to be equal; leaving it out keeps the resource's name in one place.
    assert "nvidia.com/gpu" not in strings(container(target), "resources", "requests")
    assert environment(target)["STOKER_DEVICE"] == "gpu"
    assert "NVIDIA_VISIBLE_DEVICES" not in environment(target)
    (toleration,) = objects(pod(target), "spec", "tolerations")
    assert toleration == {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


def mebibytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * {"Mi": 1, "Gi": 1024}[unit]


@every_target
def test_no_pod_is_evicted_for_what_its_volumes_may_hold(target: str) -> None:
    sizes = [
        mebibytes(str(at(each, "emptyDir", "sizeLimit"))) for each in volumes(target, "emptyDir")
    ]
    limits = strings(container(target), "resources", "limits")
    assert sum(sizes) < mebibytes(limits["ephemeral-storage"])


@with_gpu
def test_the_temporary_folder_of_a_gpu_pod_holds_the_largest_graph_that_is_written(
    target: str,
) -> None:
    (tmp,) = [each for each in volumes(target, "emptyDir") if each["name"] == "tmp"]
    # An optimised graph can be larger than its model: constants are folded.
    assert mebibytes(str(at(tmp, "emptyDir", "sizeLimit"))) << 20 >= 2 * copies.LARGEST_BYTES


@with_gpu
def test_a_rollout_needs_no_spare_gpu(target: str) -> None:
    strategy = at(the(target, "Deployment"), "spec", "strategy")
    assert strategy == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
    }


@with_hpa
def test_the_autoscaler_owns_the_replicas_of_the_deployment(target: str) -> None:
    scaler, deployment = the(target, "HorizontalPodAutoscaler"), the(target, "Deployment")
    assert at(scaler, "spec", "scaleTargetRef") == {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "name": text(deployment, "metadata", "name"),
    }
    assert "replicas" not in cast("JsonObject", deployment["spec"])
    assert number(scaler, "spec", "minReplicas") >= 2


@with_hpa
def test_the_autoscaler_reads_gauges_of_the_server_that_have_no_labels(target: str) -> None:
    scaled_on = list(scaler_metrics(target))
    assert scaled_on[0] == metric_table.DEMAND.name
    gauges = {each.name: each for each in metric_table.TABLE}
    for name in scaled_on:
        assert gauges[name].type is MetricType.GAUGE
        assert gauges[name].labels == ()


def scaler_metrics(target: str) -> Iterator[str]:
    for each in objects(the(target, "HorizontalPodAutoscaler"), "spec", "metrics"):
        assert each["type"] == "Pods"
        assert at(each, "pods", "target", "type") == "AverageValue"
        yield text(each, "pods", "metric", "name")


def test_the_adapter_has_one_rule_for_each_metric_of_the_autoscaler() -> None:
    file = K8S / "components" / "autoscaling-hpa" / "prometheus-adapter.yaml"
    rules = yaml.safe_load(yaml.safe_load(file.read_text())["data"]["config.yaml"])["rules"]
    assert [rule["name"]["as"] for rule in rules] == list(scaler_metrics("overlays/gpu"))
    for rule in rules:
        name = rule["name"]["as"]
        assert rule["seriesQuery"].startswith(name + "{")
        assert re.fullmatch(rule["name"]["matches"], name)
        assert set(rule["resources"]["overrides"]) == {"namespace", "pod"}


@pytest.mark.parametrize("target", ["components/monitoring", "overlays/gpu"])
def test_the_monitor_scrapes_the_management_port_once(target: str) -> None:
    (endpoint,) = objects(the(target, "PodMonitor"), "spec", "podMetricsEndpoints")
    assert (endpoint["port"], endpoint["path"]) == ("management", "/metrics")
    assert "management" in ports(target)
    assert not strings(pod(target), "metadata", "annotations")


def test_without_the_operator_annotations_name_the_management_port() -> None:
    assert strings(pod("base"), "metadata", "annotations") == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(ports("base")["management"]),
        "prometheus.io/path": "/metrics",
    }


def test_the_dev_overlay_is_one_small_pod_without_a_gpu() -> None:
    assert number(the("overlays/dev", "Deployment"), "spec", "replicas") == 1
    assert environment("overlays/dev")["STOKER_DEVICE"] == "cpu"
    assert "nvidia" not in str(container("overlays/dev"))
    assert all(map(is_built_in, render("overlays/dev")))
