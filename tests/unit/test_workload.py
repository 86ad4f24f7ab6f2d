"""Stoker's pods are found in every kind that keeps pods, and no others; rollouts are worked out."""

import pytest
from stoker.deploy.manifest import JsonValue, Manifest, parse_manifests
from stoker.deploy.workload import (
    RolloutStep,
    Workload,
    find_scalers,
    find_workloads,
    least_replicas,
    rollout_step,
)

from tests.broken_manifests import Edit, add, drop, edited, put, server, take

CONTAINER = "{name: c, image: %s, args: [serve, /models]}"
POD = """
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app.kubernetes.io/name: %s}}
spec:
  containers:
    - %s
"""


def found(content: str) -> list[Workload]:
    return list(find_workloads(parse_manifests(content, "x")))


@pytest.mark.parametrize(
    "image",
    [
        "stoker",
        "r.example:5000/a/stoker:1",
        "r/stoker-cpu@sha256:0",
        "r/my-stoker:2",
        "stoker:1-cpu",
    ],
)
def test_a_container_is_known_by_the_name_of_its_image(image: str) -> None:
    assert len(found(POD % ("web", CONTAINER % image))) == 1


@pytest.mark.parametrize("image", ["r.example/stoker/web:1", "stokers:1", "nginx", "mystoker"])
def test_another_image_is_left_alone(image: str) -> None:
    assert found(POD % ("web", CONTAINER % image)) == []


def test_a_container_is_known_by_its_label_or_its_program() -> None:
    assert len(found(POD % ("stoker", CONTAINER % "inference:1"))) == 1
    program = "{name: c, image: inference, command: [/opt/bin/stoker], args: [serve]}"
    assert len(found(POD % ("web", program))) == 1
    module = "{name: c, image: inference, command: [python, -m, stoker, serve]}"
    assert len(found(POD % ("web", module))) == 1


def test_a_stoker_that_does_not_serve_is_no_server() -> None:
    assert found(POD % ("stoker", "{name: c, image: stoker, args: [check, /models]}")) == []
    assert found(POD % ("stoker", "{name: c, image: stoker, args: [serve, --help]}")) == []
    # Without arguments the image serves.
    assert len(found(POD % ("web", "{name: c, image: stoker}"))) == 1


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("StatefulSet", "{template: {spec: {containers: [%s]}}}"),
        ("DaemonSet", "{template: {spec: {containers: [%s]}}}"),
        ("Rollout", "{template: {spec: {containers: [%s]}}}"),
        ("ClusterServingRuntime", "{containers: [%s]}"),
        ("InferenceService", "{predictor: {containers: [%s]}}"),
    ],
)
def test_every_kind_that_keeps_pods_is_looked_into(kind: str, spec: str) -> None:
    body = spec % (CONTAINER % "stoker:1")
    (workload,) = found(f"{{apiVersion: v1, kind: {kind}, metadata: {{name: x}}, spec: {body}}}")
    assert workload.servers[0].path == f"{workload.path}.containers[0]"
    assert workload.is_kserve is (kind in ("ClusterServingRuntime", "InferenceService"))


def only(*edits: Edit) -> tuple[Workload, list[Manifest]]:
    manifests = edited(*edits)
    (workload,) = find_workloads(manifests)
    return workload, manifests


def test_settings_come_from_arguments_variables_and_the_file_in_that_order() -> None:
    workload, _ = only()
    settings = workload.servers[0].settings
    assert (settings.device, settings.drain_timeout_s) == ("gpu", 30.0)
    workload, _ = only(server("args", 4, value="--drain-timeout=7s"))
    settings = workload.servers[0].settings
    assert settings.drain_timeout_s == 7.0
    assert settings.max_buffered_bytes == 4 << 30  # a quarter of the container's limit


def test_variables_come_from_a_config_map_too() -> None:
    config = """
apiVersion: v1
kind: ConfigMap
metadata: {name: variables}
data: {STOKER_IDLE_TIMEOUT: 700s, timeout: 800s}
"""
    whole = server("envFrom", value=[{"configMapRef": {"name": "variables"}}])
    workload, _ = only(add(config), whole)
    settings = workload.servers[0].settings
    assert settings.idle_timeout_s == 700
    one = from_elsewhere("STOKER_IDLE_TIMEOUT", "configMapKeyRef", "variables", "timeout")
    workload, _ = only(add(config), one)
    settings = workload.servers[0].settings
    assert settings.idle_timeout_s == 800


def test_what_is_refused_is_told_and_the_rest_is_judged_with_defaults_in_its_place() -> None:
    words: JsonValue = ["serve", "--drain-timeout", "60", "--idle-timeout=40s", "--colour"]
    workload, _ = only(server("args", value=words))
    (container,) = workload.servers
    assert [str(each).partition(":")[0] for each in container.problems] == [
        "--colour",
        "--drain-timeout",
    ]
    assert container.settings.drain_timeout_s == 30.0
    assert container.settings.idle_timeout_s == 40.0


def from_elsewhere(name: str, source: str, holder: str, key: str) -> Edit:
    """A second variable whose value is in a ConfigMap or Secret."""
    value: JsonValue = {"name": name, "valueFrom": {source: {"name": holder, "key": key}}}
    return server("env", 1, value=value)


@pytest.mark.parametrize(
    "words", [["--http-port=$(SECRET)"], ["--http-port", "$(SECRET)"], ["--host", "x.$(SECRET)"]]
)
def test_an_argument_of_unknown_value_is_left_out_with_its_flag_and_told(words: list[str]) -> None:
    secret = from_elsewhere("SECRET", "secretKeyRef", "s", "k")
    workload, _ = only(secret, server("args", value=["serve", *words, "--drain-timeout", "7s"]))
    (container,) = workload.servers
    assert container.problems == ()
    assert (container.settings.http_port, container.settings.host) == (8000, "0.0.0.0")
    assert container.settings.drain_timeout_s == 7.0
    assert container.unread == (f"the argument {words[-1]!r} has a value from elsewhere",)


def test_a_file_that_is_mounted_under_another_name_is_found() -> None:
    items: JsonValue = [{"key": "stoker.yaml", "path": "deep/settings.yaml"}]
    workload, _ = only(
        put(
            "Deployment",
            *("spec", "template", "spec", "volumes", 0, "configMap", "items"),
            value=items,
        ),
        server("args", value=["serve", "--config=/etc/stoker/deep/settings.yaml"]),
    )
    assert "drain_timeout" in workload.servers[0].mentioned


STRATEGY = ("spec", "strategy")


@pytest.mark.parametrize(
    ("rolling", "replicas", "step"),
    [
        ({}, 1, RolloutStep(False, 1, 0)),
        ({}, 4, RolloutStep(False, 1, 1)),
        ({"maxSurge": "50%", "maxUnavailable": "50%"}, 3, RolloutStep(False, 2, 1)),
        ({"maxSurge": 0, "maxUnavailable": "1%"}, 3, RolloutStep(False, 0, 1)),
        ({"maxSurge": 2, "maxUnavailable": 0}, 1, RolloutStep(False, 2, 0)),
    ],
)
def test_a_rollout_takes_the_steps_that_kubernetes_takes(
    rolling: dict[str, str | int], replicas: int, step: RolloutStep
) -> None:
    workload, _ = only(put("Deployment", *STRATEGY, value={"rollingUpdate": dict(rolling)}))
    assert rollout_step(workload, replicas) == step


def test_the_least_number_of_pods_is_the_autoscalers_else_the_written_one() -> None:
    workload, manifests = only()
    assert least_replicas(workload, find_scalers(manifests)) == 2
    workload, manifests = only(take("HorizontalPodAutoscaler", "spec", "minReplicas"))
    assert least_replicas(workload, find_scalers(manifests)) == 1
    workload, manifests = only(drop("HorizontalPodAutoscaler"))
    assert least_replicas(workload, find_scalers(manifests)) == 1
    workload, manifests = only(
        drop("HorizontalPodAutoscaler"), put("Deployment", "spec", "replicas", value=3)
    )
    assert least_replicas(workload, find_scalers(manifests)) == 3
