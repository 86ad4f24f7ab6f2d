"""Every folder of k8s/ and every sensible combination is valid, and nothing breaks another."""

import copy
import re
from itertools import combinations
from typing import cast

import pytest
import yaml
from stoker.deploy.manifest import at

from tests.contract import combinations as table
from tests.contract.conflicts import conflicts
from tests.contract.manifests import (
    COMPONENTS,
    K8S,
    TARGETS,
    JsonObject,
    render,
    render_overlay,
    the,
)
from tests.contract.schemas import (
    CRDS,
    OLDEST_AND_NEWEST,
    closed,
    custom_problems,
    is_built_in,
    problems,
)

EVERYTHING = (*TARGETS, *table.COMBINATIONS, "kserve")

everything = pytest.mark.parametrize("target", EVERYTHING, indirect=True)
without_crds = pytest.mark.skipif(
    not CRDS.is_dir(), reason="needs the custom resource definitions in ../shared/crds"
)


@pytest.mark.parametrize("target", ["base", "overlays/dev", "overlays/gpu", "overlays/production"])
def test_the_least_kubernetes_that_the_readme_names_knows_every_field(target: str) -> None:
    (least,) = re.findall(
        r"^\| `base` .*?\| Kubernetes (1\.\d+) \|", (K8S / "README.md").read_text(), re.M
    )
    manifests = [each for each in render(target) if is_built_in(each)]
    assert [each for manifest in manifests for each in problems(manifest, least)] == []
    # A version before that the budget's field is switched off, and two before that it is unknown.
    budget = [each for each in render("base") if each["kind"] == "PodDisruptionBudget"]
    assert problems(budget[0], "1.25")


@pytest.mark.parametrize("version", OLDEST_AND_NEWEST)
@everything
def test_built_in_kinds_are_valid_and_have_no_unknown_field(target: str, version: str) -> None:
    for manifest in filter(is_built_in, render(target)):
        assert problems(manifest, version) == (), manifest["kind"]


@without_crds
@everything
def test_custom_kinds_are_valid_and_have_no_unknown_field(target: str) -> None:
    for manifest in render(target):
        if not is_built_in(manifest):
            assert custom_problems(manifest) == [], manifest["kind"]


def breaks(target: str) -> bool:
    """Whether components make no service together, or one object twice, which kustomize refuses."""
    try:
        return bool(conflicts(render(target)))
    except AssertionError as refusal:
        return "may not add resource with an already registered id" in str(refusal)


@everything
def test_no_component_breaks_another(target: str) -> None:
    assert conflicts(render(target)) == []


def test_the_validation_refuses_a_misspelt_field() -> None:
    broken = {**the("base", "ServiceAccount"), "automountServiceAccountTokens": False}
    (found,) = problems(broken, OLDEST_AND_NEWEST[0])
    assert "automountServiceAccountTokens" in found


@without_crds
@pytest.mark.parametrize(
    ("target", "kind", "path"),
    [
        ("components/autoscaling-keda", "ScaledObject", ("spec", "fallback")),
        ("components/gateway", "HTTPRoute", ("spec", "rules", 0)),
        ("components/gateway", "GRPCRoute", ("spec",)),
        ("components/scrape", "PodMonitor", ("spec", "podMetricsEndpoints", 0)),
        ("kserve", "ClusterServingRuntime", ("spec", "containers", 0, "readinessProbe")),
    ],
    indirect=["target"],
)
def test_the_validation_refuses_a_misspelt_field_of_a_custom_kind(
    target: str, kind: str, path: tuple[str | int, ...]
) -> None:
    manifest = next(copy.deepcopy(each) for each in render(target) if each["kind"] == kind)
    assert custom_problems(manifest) == []
    cast("JsonObject", at(manifest, *path))["intervall"] = 1
    (found,) = custom_problems(manifest)
    assert "intervall" in found


def test_a_definition_that_keeps_unknown_fields_stays_open_there() -> None:
    kept: JsonObject = {"properties": {"a": {}}, "x-kubernetes-preserve-unknown-fields": True}
    schema: JsonObject = {"properties": {"kept": kept, "shut": {"properties": {"a": {}}}}}
    assert closed(schema) == {
        "additionalProperties": False,
        "properties": {
            "kept": kept,
            "shut": {"properties": {"a": {}}, "additionalProperties": False},
        },
    }


def test_base_and_dev_need_no_operator() -> None:
    assert all(map(is_built_in, render("base")))
    assert all(map(is_built_in, render("overlays/dev")))


def test_every_component_has_its_place_in_the_order() -> None:
    assert sorted(table.ORDER) == list(COMPONENTS)


@pytest.mark.parametrize("pair", table.EXCLUDED, ids="+".join)
def test_components_that_exclude_each_other_break_each_other(pair: tuple[str, str]) -> None:
    # A reason that does not hold (any more) would keep users from a good combination.
    there_and_back = (f"base+{'+'.join(pair)}", f"base+{'+'.join(reversed(pair))}")
    assert any(map(breaks, there_and_back))


def test_the_readme_lists_the_components_and_what_excludes_what() -> None:
    readme = (K8S / "README.md").read_text()
    listed = re.findall(r"^\| `components/([a-z0-9-]+)` \|", readme, re.MULTILINE)
    assert tuple(listed) == table.ORDER
    rows = re.findall(r"^\| `([a-z0-9-]+)` \+ `([a-z0-9-]+)` \| (.*) \|$", readme, re.MULTILINE)
    assert {(first, second): reason for first, second, reason in rows} == table.EXCLUDED


def test_all_but_the_excluded_pairs_are_rendered() -> None:
    assert len(table.PAIRS) == len(list(combinations(COMPONENTS, 2))) - len(table.EXCLUDED)
    assert {f"base+{a}+{b}" for a, b in table.PAIRS} <= set(table.COMBINATIONS)
    fullest = [each.split("+")[1:] for each in table.COMBINATIONS if each.count("+") == 10]
    assert len(fullest) == len(table.GPUS) * len(table.MODELS) * len(table.AUTOSCALERS)
    assert all(map(table.is_sensible, fullest))


def test_an_overlay_that_forgets_the_namespace_below_is_told() -> None:
    content = {"resources": ["overlays/production"], "components": ["components/gateway"]}
    (found,) = conflicts(render_overlay(yaml.safe_dump(content)))
    assert found == "what belongs together is in the namespaces none and stoker"


def test_a_conflict_is_told_in_words() -> None:
    found = conflicts(render("base+models-pvc+models-s3"))
    assert "volume models is emptyDir and persistentVolumeClaim" in found
    assert "stoker has the argument /models 2 times" in found
