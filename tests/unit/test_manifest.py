"""Manifests are read from any text of them, and looked into without trust."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.deploy.manifest import (
    JsonValue,
    UnreadableManifests,
    at,
    mapping,
    number,
    objects,
    parse_manifests,
    strings,
    text,
    texts,
)


def test_documents_lists_and_json_become_one_list() -> None:
    content = """
apiVersion: v1
kind: Service
metadata: {name: a, namespace: n}
---
---
apiVersion: v1
kind: List
items:
  - {apiVersion: apps/v1, kind: Deployment, metadata: {name: b}}
  - {apiVersion: v1, kind: ServiceList, items: [{apiVersion: v1, kind: Service}]}
"""
    found = parse_manifests(content, "x.yaml")
    assert [str(each) for each in found] == ["Service/n/a", "Deployment/b", "Service"]
    assert [each.group for each in found] == ["", "apps", ""]
    assert found[1].source == "x.yaml document 3 item 1"
    (one,) = parse_manifests('{"apiVersion": "v1", "kind": "Pod"}', "x.json")
    assert one.kind == "Pod"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1, 2]", "x.yaml document 1: expected Kubernetes manifests, .* got a list"),
        ("hello", "got the text 'hello'"),
        ("a: 1", "got a mapping without apiVersion"),
        ("apiVersion: v1", "got a mapping without kind"),
        ("a: [1", r"x.yaml:\d: .* got malformed YAML"),
        ("a: !!python/object:os.system {}", "malformed YAML"),
        ("a: \x00", "malformed YAML"),
        ("{apiVersion: v1, kind: List, items: [3]}", "document 1 item 1: .* got 3"),
    ],
)
def test_what_is_no_manifest_is_refused_with_what_was_expected(content: str, said: str) -> None:
    with pytest.raises(UnreadableManifests, match=said):
        parse_manifests(content, "x.yaml")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


@given(JSON, st.lists(st.text(max_size=4) | st.integers(0, 3), max_size=3))
def test_no_accessor_fails_on_any_value(value: JsonValue, path: list[str | int]) -> None:
    at(value, *path)
    assert isinstance(text(value, *path), str)
    assert isinstance(mapping(value, *path), dict)
    assert isinstance(objects(value, *path), list)
    assert isinstance(texts(value, *path), list)
    assert isinstance(strings(value, *path), dict)
    assert number(value, *path) is None or isinstance(number(value, *path), int)


def test_numbers_and_booleans_read_as_they_are_written() -> None:
    value: JsonValue = {"a": True, "b": 8000, "c": "8001", "d": 1.5}
    assert [text(value, key) for key in "abcd"] == ["true", "8000", "8001", "1.5"]
    assert [number(value, key) for key in "abcd"] == [None, 8000, 8001, None]
