"""Manifests as plain data: read from YAML or JSON text, and looked into without trust.

What `kubectl kustomize` prints, what a cluster gives with `kubectl get -o yaml`, files by hand:
anything may be missing or of another type than Kubernetes would take, and no accessor fails on it;
it gives the empty value, and what the API server would refuse is left to the API server. The first
step of `stoker k8s lint`; knows nothing of Stoker.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

import yaml

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
JsonObject: TypeAlias = dict[str, JsonValue]

# libyaml's where PyYAML was built with it, as its wheels are: ten times faster.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

EXPECTED: Final = "expected Kubernetes manifests, such as `kubectl kustomize FOLDER` prints them"


class UnreadableManifests(Exception):
    """Input that is not made of manifests: one line with what was expected and what came."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object for a cluster."""

    value: JsonObject
    source: str = ""
    """The file, and which of its documents."""

    @property
    def kind(self) -> str:
        """`Deployment` ..."""
        return text(self.value, "kind")

    @property
    def group(self) -> str:
        """`apps` of `apps/v1`; empty for the core."""
        group, slash, _ = text(self.value, "apiVersion").partition("/")
        return group if slash else ""

    @property
    def name(self) -> str:
        """Its name; empty where it has none."""
        return text(self.value, "metadata", "name")

    @property
    def namespace(self) -> str:
        """Its namespace; empty where whoever applies it decides."""
        return text(self.value, "metadata", "namespace")

    @property
    def annotations(self) -> dict[str, str]:
        """Those of the object itself."""
        return strings(self.value, "metadata", "annotations")

    @property
    def labels(self) -> dict[str, str]:
        """Those of the object itself."""
        return strings(self.value, "metadata", "labels")

    def __str__(self) -> str:
        """`Deployment/stoker`, with the namespace where it has one."""
        return "/".join(part for part in (self.kind, self.namespace, self.name) if part)


def parse_manifests(content: str, source: str) -> list[Manifest]:
    """The objects of one YAML or JSON text, lists of objects taken apart. `source` names the text.

    Raises UnreadableManifests.
    """
    found: list[Manifest] = []
    try:
        documents = list(yaml.load_all(content, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = error.problem or error.context or "not YAML"
        raise UnreadableManifests(
            f"{source}:{line}: {EXPECTED}, got malformed YAML: {problem}"
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise UnreadableManifests(f"{source}: {EXPECTED}, got malformed YAML: {said}") from error
    for index, document in enumerate(documents):
        if document is not None:
            found.extend(_objects(document, f"{source} document {index + 1}"))
    return found


def _objects(document: object, where: str) -> Iterator[Manifest]:
    if not isinstance(document, dict):
        raise UnreadableManifests(f"{where}: {EXPECTED}, got {_type(document)}")
    value = cast("JsonObject", document)
    missing = [key for key in ("apiVersion", "kind") if not text(value, key)]
    if missing:
        raise UnreadableManifests(f"{where}: {EXPECTED}, got a mapping without {missing[0]}")
    items = value.get("items")
    if text(value, "kind").endswith("List") and isinstance(items, list):
        for index, each in enumerate(items):
            yield from _objects(each, f"{where} item {index + 1}")
    else:
        yield Manifest(value, where)


def _type(value: object) -> str:
    if isinstance(value, list):
        return "a list"
    return f"the text {value[:40]!r}" if isinstance(value, str) else f"{value!r}"


def at(value: JsonValue, *path: str | int) -> JsonValue:
    """What stands at `path`; None where it ends early."""
    for step in path:
        if isinstance(value, dict) and isinstance(step, str):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return None
    return value


def text(value: JsonValue, *path: str | int) -> str:
    """The string at `path`; numbers and booleans as they are written. Empty where there is none."""
    found = at(value, *path)
    if isinstance(found, bool):
        return "true" if found else "false"
    return str(found) if isinstance(found, str | int | float) else ""


def number(value: JsonValue, *path: str | int) -> int | None:
    """The integer at `path`, also one that is written as text; None where there is none."""
    found = at(value, *path)
    if isinstance(found, str) and found.isascii() and found.isdecimal():
        return int(found)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def mapping(value: JsonValue, *path: str | int) -> JsonObject:
    """The mapping at `path`; empty where there is none."""
    found = at(value, *path)
    return found if isinstance(found, dict) else {}


def objects(value: JsonValue, *path: str | int) -> list[JsonObject]:
    """The mappings of the list at `path`; empty where there is none."""
    return [each for _, each in numbered(value, *path)]


def numbered(value: JsonValue, *path: str | int) -> list[tuple[int, JsonObject]]:
    """The mappings of the list at `path`, each with its place in it."""
    found = at(value, *path)
    listed = found if isinstance(found, list) else []
    return [(index, each) for index, each in enumerate(listed) if isinstance(each, dict)]


def texts(value: JsonValue, *path: str | int) -> list[str]:
    """The list of strings at `path`, such as arguments; empty where there is none."""
    found = at(value, *path)
    return [text(each) for each in found] if isinstance(found, list) else []


def strings(value: JsonValue, *path: str | int) -> dict[str, str]:
    """The mapping of strings at `path`, such as labels; empty where there is none."""
    return {key: text(each) for key, each in mapping(value, *path).items()}
