"""The rules in CEL of custom kinds are asked, all of them, and refuse what the API server does."""

import copy
from collections.abc import Callable, Iterator
from typing import Final, cast

import pytest
from stoker.deploy.manifest import at

from tests.contract.cel_rules import broken_rules, escaped_name, rules, unasked
from tests.contract.manifests import JsonObject, JsonValue, render
from tests.contract.schemas import CRDS, custom_problems, definitions

without_crds = pytest.mark.skipif(
    not CRDS.is_dir(), reason="needs the custom resource definitions in ../shared/crds"
)

NOT_ASKED: Final[dict[str, str]] = {}
"""Expressions that cannot be asked, and why: whoever adds a definition that has one lists it here,
and what it protects from is checked by other means."""

RENDERED_BY: Final[dict[str, str]] = {
    "GRPCRoute": "components/gateway",
    "HTTPRoute": "components/gateway",
    "ScaledObject": "components/autoscaling-keda",
}
"""The kinds whose definitions have rules, and who renders one."""

Change = Callable[[JsonObject], None]


def put(*path: str | int, value: JsonValue) -> Change:
    """Writes `value` at a path."""

    def change(manifest: JsonObject) -> None:
        cast("JsonObject", at(manifest, *path[:-1]))[cast("str", path[-1])] = value

    return change


def take(*path: str | int) -> Change:
    """Removes what stands at a path."""

    def change(manifest: JsonObject) -> None:
        del cast("JsonObject", at(manifest, *path[:-1]))[cast("str", path[-1])]

    return change


def rendered(kind: str) -> JsonObject:
    """A copy of the kind's only manifest."""
    (found,) = [each for each in render(RENDERED_BY[kind]) if each["kind"] == kind]
    return copy.deepcopy(found)


def texts_of_rules(value: JsonValue) -> Iterator[str]:
    """Every expression in a definition, however deep it stands."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "x-kubernetes-validations":
                yield from (str(at(each, "rule")) for each in cast("list[JsonValue]", inner))
            else:
                yield from texts_of_rules(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts_of_rules(inner)


@without_crds
def test_every_rule_of_every_definition_is_asked_but_those_that_are_listed() -> None:
    found: dict[str, str] = {}
    kinds: set[str] = set()
    for file in CRDS.glob("*.yaml"):
        for schema in definitions(file.name).values():
            here = [each.expression for each in rules(schema)]
            assert sorted(here) == sorted(texts_of_rules(schema)), "a rule is out of reach"
            found |= {each: unasked(each) for each in here}
            kinds |= {file.stem.partition("_")[2]} if here else set()
    assert {each: why for each, why in found.items() if why} == NOT_ASKED
    assert kinds == {f"{each.lower()}s" for each in RENDERED_BY}


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("self == oldSelf", "about a change"),
        ("self.x.isSorted() && isURL(self.y)", "unknown functions: isSorted, isURL"),
        ("self.x.all(y, y.size() > 1 && y.matches('a'))", ""),
    ],
)
def test_a_rule_that_cannot_be_asked_is_told(expression: str, why: str) -> None:
    assert unasked(expression) == why


ROUTE: Final = ("spec", "rules", 0)
FILTER: Final[JsonObject] = {
    "type": "RequestHeaderModifier",
    "requestHeaderModifier": {"remove": ["x-a"]},
}
REDIRECT: Final[JsonObject] = {"type": "RequestRedirect", "requestRedirect": {"port": 80}}
TWICE: Final[JsonValue] = [{"name": "gateway", "namespace": "gateway"}] * 2

BROKEN: Final[list[tuple[str, Change, str]]] = [
    ("GRPCRoute", put(*ROUTE, "matches", 0, "method", value={"service": "a-b"}), "valid char"),
    ("GRPCRoute", take(*ROUTE, "backendRefs", 0, "port"), "Must have port for Service reference"),
    ("GRPCRoute", put("spec", "parentRefs", value=TWICE), "sectionName must be unique"),
    ("HTTPRoute", put(*ROUTE, "matches", 0, "path", "value", value="/v2//a"), "must not contain"),
    ("HTTPRoute", put(*ROUTE, "filters", value=[FILTER, FILTER]), "cannot be repeated"),
    ("HTTPRoute", put(*ROUTE, "filters", value=[REDIRECT]), "RequestRedirect filter must not be"),
    ("HTTPRoute", put(*ROUTE, "timeouts", "backendRequest", value="121s"), "longer than request"),
    ("ScaledObject", put("spec", "minReplicaCount", value=11), "minReplicaCount"),
]
NEAR_MISSES: Final[list[tuple[str, Change]]] = [
    ("GRPCRoute", put(*ROUTE, "matches", 0, "method", value={"service": "a_b.C"})),
    (
        "GRPCRoute",
        put(*ROUTE, "backendRefs", 0, value={"name": "a", "group": "b.c", "kind": "D"}),
    ),
    ("HTTPRoute", put(*ROUTE, "filters", value=[FILTER])),
    ("HTTPRoute", put(*ROUTE, "timeouts", "backendRequest", value="2m")),
    ("ScaledObject", put("spec", "minReplicaCount", value=10)),
    ("ScaledObject", take("spec", "maxReplicaCount")),
]


@without_crds
@pytest.mark.parametrize(("kind", "change", "message"), BROKEN)
def test_a_resource_that_breaks_a_rule_is_refused(kind: str, change: Change, message: str) -> None:
    manifest = rendered(kind)
    assert custom_problems(manifest) == []
    change(manifest)
    (found,) = custom_problems(manifest)
    assert message in found


@without_crds
@pytest.mark.parametrize(("kind", "change"), NEAR_MISSES)
def test_a_resource_that_just_keeps_the_rules_is_taken(kind: str, change: Change) -> None:
    manifest = rendered(kind)
    change(manifest)
    assert custom_problems(manifest) == []


@without_crds
def test_more_replicas_than_the_default_maximum_are_refused() -> None:
    manifest = rendered("ScaledObject")
    take("spec", "maxReplicaCount")(manifest)
    for count, refused in ((100, 0), (101, 1)):
        put("spec", "minReplicaCount", value=count)(manifest)
        assert len(custom_problems(manifest)) == refused


def test_a_rule_sees_defaults_and_escaped_names() -> None:
    schema: JsonObject = {
        "properties": {
            "refs": {
                "items": {
                    "properties": {"namespace": {}, "kind": {"default": "Service"}},
                    "x-kubernetes-validations": [
                        {"rule": "self.kind == 'Service' && self.__namespace__ != 'a'"}
                    ],
                }
            },
            "labels": {"additionalProperties": {}},
        },
        "x-kubernetes-validations": [{"rule": "'a/b' in self.labels", "message": "no label"}],
    }
    good: JsonObject = {"refs": [{"namespace": "b"}], "labels": {"a/b": "c"}}
    assert broken_rules(schema, good) == []
    bad: JsonObject = {"refs": [{"namespace": "b"}, {"namespace": "a"}], "labels": {}}
    (label, place) = broken_rules(schema, bad)
    assert label == "$: no label"
    assert place.startswith("$.refs[1]: ")


def test_names_are_escaped_as_kubernetes_does() -> None:
    names = ("namespace", "a-b", "a.b/c", "x__y", "kind")
    escaped = ("__namespace__", "a__dash__b", "a__dot__b__slash__c", "x__underscores__y", "kind")
    assert tuple(map(escaped_name, names)) == escaped
