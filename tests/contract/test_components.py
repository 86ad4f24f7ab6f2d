"""What the components around GPUs, models and placement do for the pods."""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
import yaml
from stoker import config
from stoker.deploy.manifest import at
from stoker.runtime import copies
from stoker.runtime.gpu_diagnosis import has_code_for
from stoker.transport.grpc.health import INFERENCE_SERVICE

from tests.contract import manifests
from tests.contract.cel_rules import selects_device
from tests.contract.manifests import (
    K8S,
    JsonObject,
    container,
    documents,
    environment,
    number,
    objects,
    of_kind,
    pod,
    render,
    render_overlay,
    strings,
    text,
    the,
    volumes,
)
from tests.contract.test_manifests import SELECTED_BY, mebibytes

WITH_GPU: Final = ("components/gpu", "overlays/gpu", "overlays/production")
ANY_GPU: Final = (*WITH_GPU, "components/mig", "components/dra", "overlays/gpu+mig")
MODELS: Final = ("components/models-pvc", "components/models-s3", "components/models-image-volume")

with_gpu = pytest.mark.parametrize("target", WITH_GPU, indirect=True)
any_gpu = pytest.mark.parametrize("target", ANY_GPU, indirect=True)
with_models = pytest.mark.parametrize("target", MODELS, indirect=True)


def devices(target: str) -> dict[str, str]:
    """The extended resources that the container asks for."""
    limits = strings(container(target), "resources", "limits")
    requests = strings(container(target), "resources", "requests")
    # A request would have to be equal; leaving it out keeps the resource's name in one place.
    assert not [name for name in requests if "/" in name]
    return {name: limits[name] for name in limits if "/" in name}


@with_gpu
def test_a_gpu_pod_asks_for_one_gpu_by_a_name_that_stands_once(target: str) -> None:
    assert devices(target) == {"nvidia.com/gpu": "1"}
    files = K8S.glob("components/gpu/*.yaml")
    assert sum(file.read_text().count('nvidia.com/gpu: "') for file in files) == 1


@any_gpu
def test_a_gpu_pod_insists_on_its_gpu_and_tolerates_the_taint(target: str) -> None:
    assert environment(target)["STOKER_DEVICE"] == "gpu"
    (toleration,) = objects(pod(target), "spec", "tolerations")
    assert toleration == {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


@any_gpu
def test_a_rollout_needs_no_spare_gpu(target: str) -> None:
    strategy = at(the(target, "Deployment"), "spec", "strategy")
    assert strategy == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
    }


@any_gpu
def test_the_temporary_folder_of_a_gpu_pod_holds_the_largest_graph_that_is_written(
    target: str,
) -> None:
    (tmp,) = [each for each in volumes(target, "emptyDir") if each["name"] == "tmp"]
    # An optimised graph can be larger than its model: constants are folded.
    assert mebibytes(str(at(tmp, "emptyDir", "sizeLimit"))) << 20 >= 2 * copies.LARGEST_BYTES


def holds(expression: JsonObject, labels: Mapping[str, str]) -> bool:
    """A node selector requirement, as the scheduler reads it."""
    key, operator = text(expression, "key"), text(expression, "operator")
    values = at(expression, "values") or []
    assert isinstance(values, list)
    match operator:
        case "In":
            return labels.get(key) in values
        case "Gt":
            return int(labels.get(key, -1)) > int(str(values[0]))
        case "DoesNotExist":
            return key not in labels
    pytest.fail(f"expected an operator that the test knows, got {operator}")


def accepts(target: str, labels: Mapping[str, str]) -> bool:
    """Whether the pod's node affinity takes a node with these labels."""
    path = ("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
    terms = objects(pod(target), "spec", "affinity", "nodeAffinity", *path)
    return any(all(holds(e, labels) for e in objects(term, "matchExpressions")) for term in terms)


def node(capability: tuple[int, int], *, driver: int = 580, arch: str = "amd64") -> dict[str, str]:
    """The labels that GPU Feature Discovery gives a node."""
    return {
        "kubernetes.io/arch": arch,
        "nvidia.com/gpu.compute.major": str(capability[0]),
        "nvidia.com/gpu.compute.minor": str(capability[1]),
        "nvidia.com/cuda.driver-version.major": str(driver),
    }


CAPABILITIES: Final = [(major, minor) for major in range(5, 14) for minor in range(10)]


@any_gpu
def test_pods_go_where_the_package_has_code_for_the_gpu(target: str) -> None:
    accepted = [each for each in CAPABILITIES if accepts(target, node(each))]
    assert accepted == [each for each in CAPABILITIES if has_code_for(each)]


@any_gpu
def test_pods_avoid_old_drivers_and_machines_without_a_wheel(target: str) -> None:
    assert accepts(target, node((9, 0), driver=595))
    assert not accepts(target, node((9, 0), driver=579))
    assert not accepts(target, node((9, 0), arch="arm64"))


def test_nodes_without_labels_are_tried_except_in_production() -> None:
    unlabelled = {"kubernetes.io/arch": "amd64"}
    assert accepts("overlays/gpu", unlabelled)
    assert not accepts("overlays/production", unlabelled)


@pytest.mark.parametrize("target", ["components/mig", "overlays/gpu+mig"], indirect=True)
def test_mig_asks_for_a_slice_and_for_no_whole_gpu(target: str) -> None:
    ((name, count),) = devices(target).items()
    assert re.fullmatch(r"nvidia\.com/mig-\d+g\.\d+gb", name)
    assert count == "1"


@pytest.mark.parametrize("target", ["components/dra", "overlays/gpu+dra"], indirect=True)
def test_dra_claims_a_gpu_for_each_pod_and_asks_no_device_plugin(target: str) -> None:
    assert devices(target) == {}
    (claim,) = objects(pod(target), "spec", "resourceClaims")
    template = the(target, "ResourceClaimTemplate")
    assert claim["resourceClaimTemplateName"] == text(template, "metadata", "name")
    assert objects(container(target), "resources", "claims") == [{"name": claim["name"]}]
    (request,) = objects(template, "spec", "spec", "devices", "requests")
    assert at(request, "exactly", "deviceClassName") == "gpu.nvidia.com"


@pytest.mark.parametrize("target", ["components/dra"], indirect=True)
def test_the_claim_takes_the_gpus_that_the_package_has_code_for(target: str) -> None:
    path = ("spec", "spec", "devices", "requests", 0, "exactly", "selectors")
    selectors = objects(the(target, "ResourceClaimTemplate"), *path)
    expressions = [text(each, "cel", "expression") for each in selectors]

    def takes(capability: tuple[int, int], driver: str) -> bool:
        major, minor = capability
        gpu = {"cudaComputeCapability": f"{major}.{minor}.0", "driverVersion": driver}
        return all(selects_device(each, "gpu.nvidia.com", gpu) for each in expressions)

    taken = [each for each in CAPABILITIES if takes(each, "580.0.0")]
    assert taken == [each for each in CAPABILITIES if has_code_for(each)]
    assert takes((9, 0), "595.58.3")
    assert not takes((9, 0), "579.99.9")


@with_models
def test_models_are_read_only_and_where_the_server_looks(target: str) -> None:
    arguments = at(container(target), "args")
    assert isinstance(arguments, list)
    assert arguments[:2] == ["serve", "/models"]
    (mount,) = [
        each for each in objects(container(target), "volumeMounts") if each["name"] == "models"
    ]
    assert (mount["mountPath"], mount["readOnly"]) == ("/models", True)


def test_the_claim_of_models_is_mounted_read_only_and_never_deleted_with_the_service() -> None:
    (volume,) = volumes("components/models-pvc", "persistentVolumeClaim")
    assert at(volume, "persistentVolumeClaim", "readOnly") is True
    assert not of_kind("components/models-pvc", "PersistentVolumeClaim")
    folder = K8S / "components" / "models-pvc"
    (claim,) = documents((folder / "claim.yaml").read_text())
    (filling,) = documents((folder / "fill.yaml").read_text())
    name = text(volume, "persistentVolumeClaim", "claimName")
    assert text(claim, "metadata", "name") == name
    (held,) = objects(filling, "spec", "volumes")
    assert text(held, "persistentVolumeClaim", "claimName") == name
    # It must not be taken for a server by the Services.
    assert not strings(filling, "metadata", "labels").items() >= SELECTED_BY.items()


def test_a_model_that_is_copied_never_lands_inside_one_that_is_there(tmp_path: Path) -> None:
    head = (K8S / "components" / "models-pvc" / "fill.yaml").read_text().split("\napiVersion")[0]
    moves = re.findall(r"kubectl exec \S+ -- (mv .*)$", head, re.MULTILINE)
    assert len(moves) == 2
    for move in moves:
        words = move.replace("/models", str(tmp_path)).split()
        for copied in (tmp_path / ".resnet", tmp_path / ".resnet-2", tmp_path / "resnet" / "2"):
            copied.mkdir(parents=True, exist_ok=True)
            (copied / "model.onnx").touch()
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "Directory not empty" in done.stderr


@pytest.mark.parametrize("target", ["components/trt-cache"], indirect=True)
def test_built_engines_go_to_the_shared_volume(target: str) -> None:
    server = config.load({}, environ=environment(target))
    (mount,) = [
        each for each in objects(container(target), "volumeMounts") if each["name"] == "trt-cache"
    ]
    assert mount["mountPath"] == server.trt_cache_dir
    assert "readOnly" not in mount
    claim = the(target, "PersistentVolumeClaim")
    assert at(claim, "spec", "accessModes") == ["ReadWriteMany"]
    (volume,) = volumes(target, "persistentVolumeClaim")
    assert text(volume, "persistentVolumeClaim", "claimName") == text(claim, "metadata", "name")


@pytest.mark.parametrize(
    ("target", "over_nodes"),
    [
        ("base", "ScheduleAnyway"),
        ("overlays/gpu", "ScheduleAnyway"),
        ("overlays/production", "ScheduleAnyway"),
        ("components/spread", "DoNotSchedule"),
        ("overlays/production+spread", "DoNotSchedule"),
    ],
)
def test_a_free_gpu_is_taken_unless_hard_spreading_is_asked_for(
    target: str, over_nodes: str
) -> None:
    constraints = objects(pod(target), "spec", "topologySpreadConstraints")
    assert {each["topologyKey"]: each["whenUnsatisfiable"] for each in constraints} == {
        "topology.kubernetes.io/zone": "ScheduleAnyway",
        "kubernetes.io/hostname": over_nodes,
    }


@pytest.mark.parametrize("target", ["components/priority", "overlays/production"], indirect=True)
def test_pods_that_answer_online_requests_are_placed_first(target: str) -> None:
    priority = the(target, "PriorityClass")
    assert text(pod(target), "spec", "priorityClassName") == text(priority, "metadata", "name")
    assert 0 < number(priority, "value") < 1_000_000_000
    assert "globalDefault" not in priority


@pytest.mark.parametrize("target", ["components/gateway"], indirect=True)
def test_routes_lead_to_the_ports_of_the_service(target: str) -> None:
    service = next(each for each in of_kind(target, "Service") if "clusterIP" not in each["spec"])  # type: ignore[operator]  # a Service's spec is an object
    published = {each["name"]: each["port"] for each in objects(service, "spec", "ports")}
    for kind, port in (("HTTPRoute", "http"), ("GRPCRoute", "grpc")):
        (rule,) = objects(the(target, kind), "spec", "rules")
        assert objects(rule, "backendRefs") == [
            {"name": text(service, "metadata", "name"), "port": published[port]}
        ]


RENAMED: Final = """
namePrefix: search-
nameSuffix: -b
namespace: search
resources: [base]
components: [components/gateway]
"""
LAID_OVER: Final = """
resources: [{below}]
components: [components/gateway]
"""


def test_routes_follow_a_service_that_an_overlay_renames(tmp_path: Path) -> None:
    below = tmp_path / "below"
    below.mkdir()
    base = os.path.relpath(K8S / "base", below.resolve())
    below.joinpath("kustomization.yaml").write_text(f"namePrefix: search-\nresources: [{base}]")
    for overlay in (RENAMED, LAID_OVER.format(below=os.path.relpath(below, K8S))):
        rendered = render_overlay(overlay)
        services = {
            text(each, "metadata", "name") for each in rendered if each["kind"] == "Service"
        }
        routes = [each for each in rendered if text(each, "kind").endswith("Route")]
        assert len(routes) == 2
        for route in routes:
            (rule,) = objects(route, "spec", "rules")
            (backend,) = objects(rule, "backendRefs")
            assert text(backend, "name").startswith("search-stoker")
            assert backend["name"] in services


@pytest.mark.parametrize("target", ["components/gateway"], indirect=True)
def test_one_listener_takes_both_routes(target: str) -> None:
    # Gateway API: of an HTTPRoute and a GRPCRoute with one host name a listener takes one only.
    http, grpc = the(target, "HTTPRoute"), the(target, "GRPCRoute")
    assert at(http, "spec", "hostnames") != at(grpc, "spec", "hostnames")
    assert at(http, "spec", "parentRefs") == at(grpc, "spec", "parentRefs")


@pytest.mark.parametrize("target", ["components/gateway"], indirect=True)
def test_the_grpc_route_names_services_of_the_server(target: str) -> None:
    (rule,) = objects(the(target, "GRPCRoute"), "spec", "rules")
    named = {text(each, "method", "service") for each in objects(rule, "matches")}
    assert named == {INFERENCE_SERVICE, "grpc.health.v1.Health"}


def test_the_dev_overlay_is_one_small_pod_without_a_gpu() -> None:
    assert number(the("overlays/dev", "Deployment"), "spec", "replicas") == 1
    assert environment("overlays/dev")["STOKER_DEVICE"] == "cpu"
    assert "nvidia" not in str(container("overlays/dev"))


def test_production_is_a_namespace_that_admits_restricted_pods_only() -> None:
    namespace = the("overlays/production", "Namespace")
    labels = strings(namespace, "metadata", "labels")
    for mode in ("enforce", "audit", "warn"):
        assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"
    cluster_wide = {"Namespace", "PriorityClass"}
    for manifest in render("overlays/production"):
        if manifest["kind"] not in cluster_wide:
            assert at(manifest, "metadata", "namespace") == text(namespace, "metadata", "name")


def test_an_overlay_chooses_the_image_of_the_models_as_any_other() -> None:
    kustomization = {
        "resources": ["base"],
        "components": ["components/models-image-volume"],
        "images": [{"name": "stoker-models", "newName": "example.com/m", "digest": "sha256:ab"}],
    }
    rendered = manifests.render_overlay(yaml.safe_dump(kustomization))
    deployment = next(each for each in rendered if each["kind"] == "Deployment")
    spec = at(deployment, "spec", "template", "spec")
    (volume,) = [each for each in objects(spec, "volumes") if each["name"] == "models"]
    assert at(volume, "image", "reference") == "example.com/m@sha256:ab"


@pytest.mark.parametrize("target", ["components/tracing"], indirect=True)
def test_spans_of_a_pod_name_it_and_go_where_network_policies_let_them(target: str) -> None:
    given = environment(target)
    server = config.load({}, environ=given)
    options = config.open_telemetry(server, given)
    assert options.is_on
    assert (options.sampling.share, options.sampling.follows_parent) == (0.01, True)
    attributes = dict(
        each.split("=") for each in given["OTEL_RESOURCE_ATTRIBUTES"].replace(" ", "").split(",")
    )
    names = list(given)
    for name, field in (
        ("k8s.pod.name", "metadata.name"),
        ("k8s.namespace.name", "metadata.namespace"),
        ("k8s.pod.uid", "metadata.uid"),
        ("k8s.node.name", "spec.nodeName"),
    ):
        variable = attributes[name].removeprefix("$(").removesuffix(")")
        assert given[variable] == field
        # Kubernetes puts in only what stands before.
        assert names.index(variable) < names.index("OTEL_RESOURCE_ATTRIBUTES")
    assert " " not in given["OTEL_RESOURCE_ATTRIBUTES"]
    port = int(given["OTEL_EXPORTER_OTLP_ENDPOINT"].rpartition(":")[2])
    allowed = [
        number(each, "port")
        for policy in of_kind("components/network-policy", "NetworkPolicy")
        for rule in objects(policy, "spec", "egress")
        for each in objects(rule, "ports")
    ]
    assert port in allowed
