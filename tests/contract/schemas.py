"""Whether a manifest is what an API server takes, by schema: no unknown field, no wrong type.

Built-in kinds are held against the schemas of the oldest and the newest supported Kubernetes,
custom kinds against the definitions in ../shared/crds, closed where a definition does not keep
unknown fields: the API server would drop those without a word. What fits its definition is held
against the definition's rules in CEL.
"""

import json
import re
from functools import cache
from typing import Final, cast

import jsonschema  # type: ignore[import-untyped]  # has no types of its own
import yaml
from kubernetes_validate.utils import (  # type: ignore[import-untyped]  # not marked as typed
    all_versions,
    schema_contents,
)
from referencing import Registry, Resource

from tests.contract.cel_rules import broken_rules
from tests.contract.manifests import ROOT, JsonObject, JsonValue, text

CRDS: Final = ROOT.parent / "shared" / "crds"
OLDEST_AND_NEWEST: Final = ("1.34", "1.37")
CUSTOM_GROUPS: Final = frozenset(
    {"gateway.networking.k8s.io", "keda.sh", "monitoring.coreos.com", "serving.kserve.io"}
)
_CONDITIONS: Final = ("allOf", "anyOf", "oneOf", "not")


def is_built_in(manifest: JsonObject) -> bool:
    """Whether every cluster knows the kind."""
    return text(manifest, "apiVersion").split("/")[0] not in CUSTOM_GROUPS


def problems(manifest: JsonObject, version: str) -> tuple[str, ...]:
    """Where the manifest of a built-in kind differs from the schemas of that Kubernetes."""
    return _problems(json.dumps(manifest, sort_keys=True), version)


@cache  # Combinations of components share most of their manifests.
def _problems(text_of_manifest: str, version: str) -> tuple[str, ...]:
    manifest = json.loads(text_of_manifest)
    validator = _built_in_validator(manifest["kind"], manifest["apiVersion"], version)
    return tuple(
        f"{each.json_path}: {each.message[:200]}" for each in validator.iter_errors(manifest)
    )


@cache
def _built_in_validator(
    kind: str, api_version: str, version: str
) -> jsonschema.Draft202012Validator:
    """What `kubernetes_validate.validate(..., strict=True)` builds anew for each manifest."""
    full = next(each for each in all_versions() if each.startswith(f"{version}."))
    # The API group without its domain: networking.k8s.io/v1 is networking-v1.
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    name = f"kubernetes-json-schema/v{full}-local-strict/{kind.lower()}-{group}.json"
    schema = schema_contents(name, version)
    registry = Resource.from_contents(schema) @ (_definitions(full) @ Registry())
    return jsonschema.Draft202012Validator(schema, registry=registry)


@cache
def _definitions(full_version: str) -> Resource:
    name = f"kubernetes-json-schema/v{full_version}-local-strict/_definitions.json"
    return Resource.from_contents(schema_contents(name, full_version))


def custom_problems(manifest: JsonObject) -> list[str]:
    """Where the manifest of a custom kind differs from its definition, or what its rules refuse."""
    kind = text(manifest, "kind")
    group, version = text(manifest, "apiVersion").split("/")
    file = f"{group}_{kind.lower()}s.yaml"
    errors = _validator(file, version).iter_errors(manifest)
    wrong = [f"{each.json_path}: {each.message[:200]}" for each in errors]
    return wrong or broken_rules(definitions(file)[version], manifest)


@cache
def definitions(file: str) -> dict[str, JsonObject]:
    """The schemas of a definition by version."""
    definition = yaml.load((CRDS / file).read_text(), Loader=yaml.CSafeLoader)
    return {
        each["name"]: each["schema"]["openAPIV3Schema"] for each in definition["spec"]["versions"]
    }


@cache
def _validator(file: str, version: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(closed(definitions(file)[version]))


def closed(schema: JsonValue) -> JsonValue:
    """The schema with every object closed that does not keep unknown fields."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    # Conditions repeat parts of the object that they are about, and must stay open.
    result: JsonObject = {
        key: value if key in _CONDITIONS else closed(value) for key, value in schema.items()
    }
    keeps = schema.get("x-kubernetes-preserve-unknown-fields") is True
    if isinstance(schema.get("properties"), dict) and not keeps:
        result.setdefault("additionalProperties", False)
    # OpenAPI's word for what JSON Schema says by a type.
    if schema.get("nullable") is True and isinstance(schema.get("type"), str):
        result["type"] = [cast("str", schema["type"]), "null"]
    return result
