"""The manifests for KServe: runtimes that it chooses and can run, examples that fit them."""

import re
from pathlib import Path
from typing import Final

import pytest
from stoker import __version__
from stoker.arguments import parse_settings
from stoker.deploy.manifest import at
from stoker.deploy.quantity import parse_quantity
from stoker.settings import Settings

from tests.contract.manifests import (
    K8S,
    JsonObject,
    documents,
    number,
    objects,
    of_kind,
    pod,
    strings,
    text,
)
from tests.contract.schemas import CRDS, custom_problems
from tests.contract.test_autoscaling_manifests import is_gauge_of_the_pod
from tests.contract.test_manifests import SAFE_VOLUMES

RUNTIMES: Final = ("stoker", "stoker-gpu", "stoker-knative-rest", "stoker-knative-grpc")
KNATIVE: Final = RUNTIMES[2:]
BUILT_IN_PRIORITY: Final = 1
"""Of the runtime that serves `onnx` in a fresh KServe."""
DEFAULT_GRACE_S: Final = 30
FOLDER: Final = K8S / "kserve" / "examples"
MONITOR: Final = FOLDER / "podmonitor.yaml"
EXAMPLES: Final = sorted(set(FOLDER.glob("*.yaml")) - {MONITOR})
MODEL_BYTES: Final = 20 << 30
"""Of the largest model that a runtime has disk for: the bound of components/models-s3."""

every_runtime = pytest.mark.parametrize("name", RUNTIMES)
every_example = pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)


def runtime(name: str) -> JsonObject:
    """The rendered ClusterServingRuntime."""
    rendered = of_kind("kserve", "ClusterServingRuntime")
    found = {text(each, "metadata", "name"): each for each in rendered}
    assert tuple(sorted(found, key=RUNTIMES.index)) == RUNTIMES
    return found[name]


def container(name: str) -> JsonObject:
    """The only container."""
    (found,) = objects(runtime(name), "spec", "containers")
    return found


def arguments(name: str, service: str) -> list[str]:
    """The container's arguments as KServe fills them in for an InferenceService."""
    found = at(container(name), "args")
    assert isinstance(found, list)
    return [str(each).replace("{{.Name}}", service) for each in found]


def settings(name: str) -> Settings:
    """What the server makes of them. Fails on a flag that it does not know."""
    command, *words = arguments(name, "my-model")
    return parse_settings(command, words)


def variables(name: str) -> dict[str, str]:
    """The container's environment."""
    return {text(each, "name"): text(each, "value") for each in objects(container(name), "env")}


def example(file: Path) -> JsonObject:
    """The InferenceService of a file."""
    (found,) = documents(file.read_text())
    return found


def test_only_one_runtime_is_chosen_by_itself_and_before_the_built_in_one() -> None:
    formats = {name: objects(runtime(name), "spec", "supportedModelFormats") for name in RUNTIMES}
    assert [text(each, "name") for found in formats.values() for each in found] == ["onnx"] * 4
    chosen = [name for name, found in formats.items() if found[0].get("autoSelect")]
    assert chosen == ["stoker"]
    assert number(formats["stoker"][0], "priority") > BUILT_IN_PRIORITY


@every_runtime
def test_the_container_has_the_name_that_kserve_looks_for(name: str) -> None:
    assert container(name)["name"] == "kserve-container"
    assert container(name)["image"] == f"stoker:{__version__}"
    assert at(runtime(name), "spec", "multiModel") is False


@every_runtime
def test_the_model_is_served_under_the_name_of_the_service(name: str) -> None:
    served = settings(name)
    assert (served.sources, served.model_name) == (("/mnt/models",), "my-model")


@pytest.mark.parametrize("name", RUNTIMES[:2])
def test_the_first_port_is_rest_and_the_second_is_known_as_grpc(name: str) -> None:
    listed = [(each["name"], each["containerPort"]) for each in objects(container(name), "ports")]
    assert listed == [("http", settings(name).http_port), ("grpc", settings(name).grpc_port)]
    assert at(runtime(name), "spec", "protocolVersions") == ["v2", "grpc-v2"]


def test_a_runtime_for_knative_has_one_port_whose_name_tells_the_protocol() -> None:
    (rest,) = objects(container("stoker-knative-rest"), "ports")
    assert (rest["name"], rest["containerPort"]) == (
        "http1",
        settings("stoker-knative-rest").http_port,
    )
    (grpc,) = objects(container("stoker-knative-grpc"), "ports")
    server = settings("stoker-knative-grpc")
    assert (grpc["name"], grpc["containerPort"]) == ("h2c", server.grpc_port)
    # The kubelet asks over HTTP/1.1 on the same port.
    assert server.http_port == server.grpc_port
    assert at(runtime("stoker-knative-rest"), "spec", "protocolVersions") == ["v2"]
    assert at(runtime("stoker-knative-grpc"), "spec", "protocolVersions") == ["grpc-v2"]


@every_runtime
def test_all_three_probes_ask_the_protocols_own_health_on_a_published_port(name: str) -> None:
    published = {each["containerPort"] for each in objects(container(name), "ports")}
    asked = {}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        port = number(container(name), probe, "httpGet", "port")
        asked[probe] = text(container(name), probe, "httpGet", "path")
        assert port in published or (probe, port) == ("startupProbe", settings(name).metrics_port)
    assert asked == {
        # Where a GPU is insisted on, the probe waits for the model, as in components/gpu.
        "startupProbe": "/startupz" if name == "stoker-gpu" else "/v2/health/live",
        "readinessProbe": "/v2/health/ready",
        "livenessProbe": "/v2/health/live",
    }


@every_runtime
def test_metrics_are_scraped_from_the_management_port_that_no_service_has(name: str) -> None:
    annotations = strings(runtime(name), "spec", "annotations")
    assert (
        annotations.items()
        >= {
            "prometheus.kserve.io/port": str(settings(name).metrics_port),
            "prometheus.kserve.io/path": "/metrics",
        }.items()
    )
    published = {each["containerPort"] for each in objects(container(name), "ports")}
    assert settings(name).metrics_port not in published


@every_runtime
def test_a_node_may_take_every_local_volume_with_it(name: str) -> None:
    local = [text(each, "name") for each in objects(runtime(name), "spec", "volumes")]
    annotation = strings(runtime(name), "spec", "annotations")[SAFE_VOLUMES]
    # The last is KServe's own, of the download.
    assert annotation.split(",") == [*local, "kserve-provision-location"]


@every_runtime
def test_the_drain_fits_the_grace_of_a_pod_that_asks_for_no_more(name: str) -> None:
    server = settings(name)
    assert server.drain_delay_s + server.drain_timeout_s + 5 <= DEFAULT_GRACE_S


def test_the_gpu_runtime_asks_for_a_gpu_and_insists_on_it() -> None:
    limits = strings(container("stoker-gpu"), "resources", "limits")
    assert limits["nvidia.com/gpu"] == "1"
    assert variables("stoker-gpu") == {"STOKER_DEVICE": "gpu"}
    (toleration,) = objects(runtime("stoker-gpu"), "spec", "tolerations")
    assert (toleration["key"], toleration["operator"]) == ("nvidia.com/gpu", "Exists")
    assert at(runtime("stoker-gpu"), "spec", "affinity") == at(
        pod("components/gpu"), "spec", "affinity"
    )
    assert variables("stoker") == {"STOKER_DEVICE": "auto"}


@every_runtime
def test_what_the_image_writes_to_is_mounted_and_bounded(name: str) -> None:
    mounted = {each["name"]: each["mountPath"] for each in objects(container(name), "volumeMounts")}
    assert mounted == {"tmp": "/tmp", "cache": "/var/cache/stoker"}
    volumes = objects(runtime(name), "spec", "volumes")
    assert {each["name"] for each in volumes} == set(mounted)
    assert all(at(each, "emptyDir", "sizeLimit") for each in volumes)


@every_runtime
def test_pods_go_to_nodes_that_the_image_is_built_for_where_it_may_be_asked(name: str) -> None:
    selector = strings(runtime(name), "spec", "nodeSelector")
    assert selector == ({} if name in KNATIVE else {"kubernetes.io/arch": "amd64"})
    # A stock Knative refuses these in a pod.
    spec = at(runtime(name), "spec")
    assert isinstance(spec, dict)
    assert name not in KNATIVE or not spec.keys() & {"affinity", "tolerations"}


@every_runtime
def test_a_model_that_kserve_downloads_does_not_get_its_pod_evicted(name: str) -> None:
    # The download is an emptyDir that KServe adds: it counts against the containers' limits.
    limit = parse_quantity(container(name), "resources", "limits", "ephemeral-storage")
    volumes = objects(runtime(name), "spec", "volumes")
    bounds = [parse_quantity(each, "emptyDir", "sizeLimit") or 0 for each in volumes]
    assert limit is not None
    assert limit >= sum(bounds) + MODEL_BYTES


def test_there_are_examples_for_storage_canary_keda_and_grpc() -> None:
    assert [file.stem for file in EXAMPLES] == [
        "canary",
        "inferenceservice",
        "keda",
        "knative-grpc",
    ]


@pytest.mark.skipif(
    not CRDS.is_dir(), reason="needs the custom resource definitions in ../shared/crds"
)
@every_example
def test_an_example_is_valid_and_has_no_unknown_field(file: Path) -> None:
    assert custom_problems(example(file)) == []


@every_example
def test_an_example_asks_for_a_protocol_and_a_mode_that_its_runtime_has(file: Path) -> None:
    service = example(file)
    model = at(service, "spec", "predictor", "model")
    chosen = at(model, "runtime") or "stoker"
    assert text(model, "modelFormat", "name") == "onnx"
    assert text(model, "storageUri").startswith("s3://")
    versions = at(runtime(str(chosen)), "spec", "protocolVersions")
    assert isinstance(versions, list)
    assert text(model, "protocolVersion") in versions
    annotations = strings(service, "metadata", "annotations")
    mode = "Knative" if chosen in KNATIVE else "Standard"
    assert annotations["serving.kserve.io/deploymentMode"] == mode


@every_example
def test_an_example_keeps_its_replicas_and_leaves_time_to_drain(file: Path) -> None:
    predictor = at(example(file), "spec", "predictor")
    assert number(predictor, "minReplicas") >= 1
    grace = at(predictor, "terminationGracePeriodSeconds")
    server = settings("stoker")
    if grace is not None:
        assert int(str(grace)) >= server.drain_delay_s + server.drain_timeout_s + 5
    # KServe's own batcher understands v1 only, and its logger takes over the port.
    assert isinstance(predictor, dict)
    assert not predictor.keys() & {"batcher", "logger"}


def test_the_example_for_keda_scales_on_the_demand_of_its_own_pods() -> None:
    service = example(FOLDER / "keda.yaml")
    annotations = strings(service, "metadata", "annotations")
    assert annotations["serving.kserve.io/autoscalerClass"] == "keda"
    (metric,) = objects(service, "spec", "predictor", "autoScaling", "metrics")
    assert metric["type"] == "External"
    query = text(metric, "external", "metric", "query")
    found = re.fullmatch(
        r'sum\((\w+)\{namespace="([\w-]+)",pod=~"([\w-]+)-predictor-\.\*"\}\)', query
    )
    assert found
    assert is_gauge_of_the_pod(found[1])
    assert found[2] == text(service, "metadata", "namespace")
    assert found[3] == text(service, "metadata", "name")


@every_example
def test_an_example_is_not_scaled_on_cpu_by_default(file: Path) -> None:
    # KServe's default class in the mode Standard is an autoscaler on CPU.
    predictor = at(example(file), "spec", "predictor")
    annotations = strings(example(file), "metadata", "annotations")
    if annotations["serving.kserve.io/deploymentMode"] == "Knative":
        assert text(predictor, "scaleMetric") in ("concurrency", "rps")
    elif "serving.kserve.io/autoscalerClass" not in annotations:
        assert number(predictor, "minReplicas") == number(predictor, "maxReplicas")


@pytest.mark.skipif(
    not CRDS.is_dir(), reason="needs the custom resource definitions in ../shared/crds"
)
def test_the_example_of_a_monitor_is_valid() -> None:
    assert custom_problems(example(MONITOR)) == []


def test_the_example_of_a_monitor_scrapes_the_management_port_of_the_runtimes_pods() -> None:
    monitor = at(example(MONITOR), "spec")
    (endpoint,) = objects(monitor, "podMetricsEndpoints")
    (relabeling,) = objects(endpoint, "relabelings")
    for name in RUNTIMES[:2]:
        labels = strings(runtime(name), "spec", "labels")
        assert strings(monitor, "selector", "matchLabels").items() <= labels.items()
        declared = [text(each, "name") for each in objects(container(name), "ports")]
        assert text(endpoint, "port") in declared
        assert relabeling == {
            "sourceLabels": ["__meta_kubernetes_pod_ip"],
            "targetLabel": "__address__",
            "replacement": f"$1:{settings(name).metrics_port}",
        }


def test_an_example_is_scraped_in_one_way() -> None:
    # keda.yaml asks the operator's Prometheus, which podmonitor.yaml is for.
    annotations = strings(example(FOLDER / "keda.yaml"), "metadata", "annotations")
    assert "serving.kserve.io/enable-prometheus-scraping" not in annotations
    address = text(
        *(example(FOLDER / "keda.yaml"), "spec", "predictor", "autoScaling", "metrics", 0),
        *("external", "metric", "serverAddress"),
    )
    assert address.startswith("http://prometheus-operated.")
