"""What every rendered pod keeps, in every sensible combination of components."""

import re
from pathlib import Path
from typing import Final, cast

import pytest
from stoker import __version__, config
from stoker.arguments import settings_parser
from stoker.deploy.download import BYTES_PER_S
from stoker.deploy.manifest import at
from stoker.deploy.quantity import parse_quantity
from stoker.settings import Settings, definitions

from tests.contract.combinations import COMBINATIONS
from tests.contract.manifests import (
    TARGETS,
    JsonObject,
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

LOCAL: Final = ("emptyDir", "hostPath")
SAFE_VOLUMES: Final = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
SELECTED_BY: Final = {"app.kubernetes.io/name": "stoker", "app.kubernetes.io/instance": "stoker"}

every_target = pytest.mark.parametrize("target", [*TARGETS, *COMBINATIONS], indirect=True)


def settings(target: str, folder: Path) -> Settings:
    """What the server makes of the rendered arguments, ConfigMap and variables."""
    arguments = at(container(target), "args")
    assert isinstance(arguments, list)
    command, *words = map(str, arguments)
    known = definitions()
    parsed, rest = settings_parser(command, known).parse_known_args(words)
    assert rest == [], "expected flags that the server knows"
    given = {key: value for key, value in vars(parsed).items() if value}
    assert given["config"] == "/etc/stoker/stoker.yaml"
    file = folder / "stoker.yaml"
    file.write_text(config_map(target)["stoker.yaml"])
    set_by_variable = {each.variable for each in known}
    ours = {each for each in environment(target) if each.startswith("STOKER_")}
    assert ours <= set_by_variable
    return config.load({**given, "config": str(file)}, environ=environment(target))


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
    deadline = number(the(target, "Deployment"), "spec", "progressDeadlineSeconds")
    assert deadline > budget + download_s(target)


def download_s(target: str) -> int:
    """Seconds in which an init container fills the models' volume, at the pace of `init`."""
    init = objects(pod(target), "spec", "initContainers")
    (size,) = [
        parse_quantity(each, "emptyDir", "sizeLimit")
        for each in volumes(target, "emptyDir")
        if each["name"] == "models"
    ] or [None]
    assert bool(init) == (size is not None), "an init container here is one that downloads"
    return 0 if size is None else int(size / BYTES_PER_S)


@every_target
def test_selectors_are_name_and_instance_and_match_the_pods(target: str) -> None:
    labels = strings(pod(target), "metadata", "labels")
    assert labels.items() >= SELECTED_BY.items()
    found = selectors(target)
    assert set(found) >= {"Deployment stoker", "Service stoker", "Service stoker-headless"}
    assert [name for name, selector in found.items() if selector != SELECTED_BY] == []


def selectors(target: str) -> dict[str, dict[str, str]]:
    """Every selector of the pods that stands in a manifest of theirs, by whose it is."""
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
def test_pods_go_to_nodes_that_the_image_is_built_for(target: str) -> None:
    # scripts/lock_image.py pins the packages of x86-64 alone.
    assert strings(pod(target), "spec", "nodeSelector") == {"kubernetes.io/arch": "amd64"}


@every_target
def test_the_pod_runs_as_an_account_without_a_token(target: str) -> None:
    account = the(target, "ServiceAccount")
    assert text(pod(target), "spec", "serviceAccountName") == text(account, "metadata", "name")
    assert at(account, "automountServiceAccountToken") is False


@every_target
def test_every_volume_is_mounted_and_every_scratch_volume_is_bounded(target: str) -> None:
    spec = at(pod(target), "spec")
    containers = objects(spec, "containers") + objects(spec, "initContainers")
    mounted = {text(each, "name") for one in containers for each in objects(one, "volumeMounts")}
    assert mounted == {text(each, "name") for each in objects(spec, "volumes")}
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


def mebibytes(quantity: str) -> int:
    """What a quantity with Mi or Gi is in MiB."""
    found = re.fullmatch(r"(\d+)(Mi|Gi)", quantity)
    assert found, f"expected Mi or Gi, got {quantity}"
    return int(found[1]) * {"Mi": 1, "Gi": 1024}[found[2]]


def storage_limit(target: str) -> int:
    """The whole pod's, in MiB: init containers run before the others, so the larger counts."""

    def of(kind: str) -> list[int]:
        return [
            mebibytes(strings(each, "resources", "limits").get("ephemeral-storage", "0Mi"))
            for each in objects(pod(target), "spec", kind)
        ]

    return max(sum(of("containers")), *of("initContainers"), 0)


@every_target
def test_no_pod_is_evicted_for_what_its_volumes_may_hold(target: str) -> None:
    sizes = [mebibytes(text(each, "emptyDir", "sizeLimit")) for each in volumes(target, "emptyDir")]
    assert sum(sizes) < storage_limit(target)


@every_target
def test_what_belongs_to_the_service_carries_its_labels(target: str) -> None:
    kinds = {"PriorityClass", "Namespace", "ConfigMap"}
    for manifest in render(target):
        if manifest["kind"] not in kinds and text(manifest, "metadata", "name") != "default-deny":
            assert strings(manifest, "metadata", "labels").items() >= SELECTED_BY.items()


@every_target
def test_configuration_of_the_pods_cannot_be_changed_in_place(target: str) -> None:
    spec = at(pod(target), "spec")
    used = {text(each, "configMap", "name") for each in volumes(target, "configMap")}
    for each in objects(spec, "initContainers") + objects(spec, "containers"):
        named = [at(source, "configMapRef", "name") for source in objects(each, "envFrom")]
        used |= {str(name) for name in named if name is not None}
    made = {text(each, "metadata", "name"): each for each in of_kind(target, "ConfigMap")}
    for name in used:
        assert made[name]["immutable"] is True
        # The hash of the contents: a change rolls the pods, and a rollback brings the old one back.
        assert re.fullmatch(r"stoker[a-z0-9-]*-[a-z0-9]{10}", name)


def test_without_the_operator_annotations_name_the_management_port() -> None:
    annotations = strings(pod("base"), "metadata", "annotations")
    assert (
        annotations.items()
        >= {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": str(ports("base")["management"]),
            "prometheus.io/path": "/metrics",
        }.items()
    )


@every_target
def test_every_local_volume_is_one_that_a_node_may_take_with_it(target: str) -> None:
    local = {text(each, "name") for kind in LOCAL for each in volumes(target, kind)}
    listed = strings(pod(target), "metadata", "annotations")[SAFE_VOLUMES]
    # The cluster autoscaler splits at the commas, and takes spaces for a part of a name.
    assert sorted(listed.split(",")) == sorted(local)
