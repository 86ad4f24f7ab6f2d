"""Every rule of `stoker k8s lint` fires where it should, and not beside that."""

import re

import pytest
from stoker.deploy.manifest import JsonObject, Manifest, mapping
from stoker.deploy.rule_table import RULES

from tests.broken_manifests import POD, edited, findings, good, put, take
from tests.lint_cases.case import Case
from tests.lint_cases.pieces import KEDA
from tests.lint_cases.table import CASES

IDS = [f"{case.rule}-{index}" for index, case in enumerate(CASES)]


def test_good_manifests_have_no_finding() -> None:
    assert findings(good()) == {}


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_rule_fires_and_says_what_it_found(case: Case) -> None:
    found = findings(edited(*case.fires), measured=case.measured, start_s=case.start_s)
    assert case.rule in found
    said = [each.hit.found for each in found[case.rule]]
    assert any(case.found in each for each in said), said
    for each in found[case.rule]:
        assert each.hit.manifest.name
        assert parent_exists(each.hit.manifest, each.hit.path), each.hit.path


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_near_miss_does_not_fire(case: Case) -> None:
    found = findings(edited(*case.misses), measured=case.measured, start_s=case.start_s)
    assert case.rule not in found


def made_by(owner: str, manifest: Manifest, name: str) -> Manifest:
    """A copy as a controller makes it: with an owner, and all that it would be blamed for."""
    kind, _, owner_name = owner.partition("/")
    namespace = manifest.namespace
    metadata: JsonObject = {
        "name": name,
        **({"namespace": namespace} if namespace else {}),
        "uid": "1",
        "ownerReferences": [{"kind": kind, "name": owner_name, "controller": True}],
    }
    return Manifest({**manifest.value, "metadata": metadata})


def test_what_a_controller_made_of_a_manifest_is_not_judged_a_second_time() -> None:
    manifests = edited(take("Deployment", *POD, "enableServiceLinks"))
    (deployment,) = [each for each in manifests if each.kind == "Deployment"]
    owner = str(deployment).replace(f"/{deployment.namespace}/", "/")
    replica_set = made_by(owner, deployment, "stoker-5d4f")
    replica_set.value["kind"] = "ReplicaSet"
    (finding,) = findings([*manifests, replica_set])["service-links"]
    assert finding.hit.manifest is deployment
    # Given by itself, it is the only one that shows the pods.
    others = [each for each in manifests if each is not deployment]
    assert "service-links" in findings([*others, replica_set])


def test_the_autoscaler_that_keda_makes_is_no_second_one() -> None:
    manifests = edited(*KEDA)
    (scaler,) = [each for each in manifests if each.kind == "ScaledObject"]
    (hpa,) = [each for each in good() if each.kind == "HorizontalPodAutoscaler"]
    made = made_by(f"ScaledObject/{scaler.name}", hpa, "keda-hpa-stoker")
    assert "two-autoscalers" not in findings([*manifests, made])
    assert "two-autoscalers" in findings([*manifests, hpa])


def test_a_sidecar_of_another_image_is_not_taken_for_the_server() -> None:
    sidecar: JsonObject = {
        "name": "logs",
        "image": "fluent-bit:4",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    assert findings(edited(put("Deployment", *POD, "containers", 1, value=sidecar))) == {}


def test_every_rule_has_a_case() -> None:
    assert {case.rule for case in CASES} == {rule.id for rule in RULES}


def test_ids_are_words_and_unique() -> None:
    ids = [rule.id for rule in RULES]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", each) for each in ids)


def parent_exists(manifest: Manifest, path: str) -> bool:
    """Whether the first two steps of a path lead into the manifest."""
    if path.startswith("annotation "):
        return True
    first, second, *_ = [*re.findall(r"[^.\[\]]+", path), "", ""]
    above = mapping(manifest.value, first) if second else manifest.value
    return bool(above)
