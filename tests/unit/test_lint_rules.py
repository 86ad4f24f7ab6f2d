"""Every rule of `stoker k8s lint` fires where it should, and not beside that."""

import re

import pytest
from stoker.deploy.manifest import Manifest, mapping
from stoker.deploy.rule_table import RULES

from tests.broken_manifests import edited, findings, good
from tests.lint_cases import CASES, Case

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
