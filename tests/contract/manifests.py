"""What `kubectl kustomize` makes of k8s/, as plain data, and how to find things in it.

Rendered manifests are read as JSON values; each accessor says what it expects there and fails the
test that asked for something else.
"""

import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from os.path import relpath
from pathlib import Path
from typing import Final, TypeAlias, cast

import yaml

from tests.tools import require_tool

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
JsonObject: TypeAlias = dict[str, JsonValue]

ROOT: Final = Path(__file__).resolve().parents[2]
K8S: Final = ROOT / "k8s"
COMPONENTS: Final = tuple(sorted(path.parent.name for path in K8S.glob("components/*/kust*.yaml")))
OVERLAYS: Final = tuple(sorted(path.parent.name for path in K8S.glob("overlays/*/kust*.yaml")))
TARGETS: Final = (
    "base",
    *(f"components/{name}" for name in COMPONENTS),
    *(f"overlays/{name}" for name in OVERLAYS),
)
"""Everything that can be rendered; a component is laid alone over the base."""


@cache
def render(target: str) -> tuple[JsonObject, ...]:
    """The manifests of one of TARGETS. Do not change them: they are rendered once."""
    if not target.startswith("components/"):
        return _kustomize(K8S / target)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder).resolve()
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [relpath(K8S / "base", here)],
            "components": [relpath(K8S / target, here)],
        }
        here.joinpath("kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return _kustomize(here)


def _kustomize(folder: Path) -> tuple[JsonObject, ...]:
    command = [require_tool("kubectl"), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # Deprecated fields are told on stderr, with exit status 0.
    assert (done.returncode, done.stderr) == (0, ""), f"kubectl kustomize {folder}: {done.stderr}"
    return tuple(cast("JsonObject", each) for each in yaml.safe_load_all(done.stdout))


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
    """The string at `path`."""
    found = at(value, *path)
    assert isinstance(found, str), f"expected a string at {path}, got {found!r}"
    return found


def number(value: JsonValue, *path: str | int) -> int:
    """The integer at `path`."""
    found = at(value, *path)
    assert isinstance(found, int), f"expected an integer at {path}, got {found!r}"
    return found


def objects(value: JsonValue, *path: str | int) -> list[JsonObject]:
    """The list of mappings at `path`; empty where there is none."""
    found = at(value, *path) or []
    assert isinstance(found, list), f"expected a list at {path}, got {found!r}"
    return [cast("JsonObject", each) for each in found]


def strings(value: JsonValue, *path: str | int) -> dict[str, str]:
    """The mapping of strings at `path`, such as labels; empty where there is none."""
    found = at(value, *path) or {}
    assert isinstance(found, dict), f"expected a mapping at {path}, got {found!r}"
    return {key: text(found, key) for key in found}


def of_kind(target: str, kind: str) -> list[JsonObject]:
    """Every manifest of that kind."""
    return [each for each in render(target) if each["kind"] == kind]


def the(target: str, kind: str) -> JsonObject:
    """The only manifest of that kind."""
    found = of_kind(target, kind)
    assert len(found) == 1, f"expected one {kind} in {target}, got {len(found)}"
    return found[0]


def pod(target: str) -> JsonObject:
    """The Deployment's pod template: metadata and spec."""
    return cast("JsonObject", at(the(target, "Deployment"), "spec", "template"))


def container(target: str) -> JsonObject:
    """The server's container."""
    found = objects(pod(target), "spec", "containers")
    assert [each["name"] for each in found] == ["stoker"]
    return found[0]


def ports(target: str) -> dict[str, int]:
    """The container's ports by name."""
    listed = objects(container(target), "ports")
    return {text(each, "name"): number(each, "containerPort") for each in listed}


def probes(target: str) -> Iterator[tuple[str, str, int]]:
    """(probe, path, port) of the three HTTP probes, named ports resolved."""
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        port = at(container(target), name, "httpGet", "port")
        assert isinstance(port, str | int), f"{name} of {target} has no httpGet with a port"
        resolved = ports(target)[port] if isinstance(port, str) else port
        yield name, text(container(target), name, "httpGet", "path"), resolved


def environment(target: str) -> dict[str, str]:
    """The container's variables."""
    return {text(each, "name"): text(each, "value") for each in objects(container(target), "env")}


def config_map(target: str) -> dict[str, str]:
    """The files of the ConfigMap that the pod mounts."""
    mounted = [text(each, "configMap", "name") for each in volumes(target, "configMap")]
    return {
        name: contents
        for each in of_kind(target, "ConfigMap")
        if text(each, "metadata", "name") in mounted
        for name, contents in strings(each, "data").items()
    }


def volumes(target: str, kind: str) -> list[JsonObject]:
    """The pod's volumes of that kind."""
    return [each for each in objects(pod(target), "spec", "volumes") if kind in each]
