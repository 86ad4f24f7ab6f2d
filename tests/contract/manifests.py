"""What `kubectl kustomize` makes of k8s/, as plain data, and how to find things in it.

A target names what is rendered: `base`, `overlays/NAME`, `kserve`, or one of these with components
laid over it in that order, as `base+gpu+spread`; `components/NAME` is short for `base+NAME`.
Rendered manifests are read as JSON values; each accessor says what it expects there and fails the
test that asked for something else.
"""

import fcntl
import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from os.path import relpath
from pathlib import Path
from typing import Final, TypeAlias, cast

import yaml
from stoker.deploy.manifest import at

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
"""Every folder that makes a Deployment; a component is laid alone over the base."""

_ENVIRONMENT: Final = {**os.environ, "GOGC": "off"}
"""Without Go's garbage collector it takes 0.2 s of CPU instead of 0.3, a hundred times over. Read
once: pytest changes a variable at each test, also while a thread of the pool would read them."""
_POOL: Final = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="kustomize")
_rendered: Final[dict[str, Future[tuple[JsonObject, ...]]]] = {}
_shared: Path | None = None


def render(target: str) -> tuple[JsonObject, ...]:
    """The manifests of a target. Do not change them: they are rendered once."""
    prefetch([target])
    return _rendered[target].result()


def prefetch(targets: Iterable[str]) -> None:
    """Starts to render, in the background, what is asked for later. Skips without kubectl."""
    kubectl = require_tool("kubectl")
    for target in targets:
        if target not in _rendered:
            _rendered[target] = _POOL.submit(_render, kubectl, target)


def share(folder: Path | None) -> None:
    """From here on, all processes that share this folder render a target once between them."""
    global _shared
    _shared = folder


def _render(kubectl: str, target: str) -> tuple[JsonObject, ...]:
    if _shared is None:
        return _kustomized(kubectl, target)
    kept = _shared / f"rendered-{hashlib.sha256(target.encode()).hexdigest()}"
    with kept.with_suffix(".lock").open("w") as claim:
        fcntl.flock(claim, fcntl.LOCK_EX)  # whoever comes second waits for the first
        if not kept.exists():
            kept.write_text(json.dumps(_kustomized(kubectl, target)))
    return tuple(json.loads(kept.read_text()))


def _kustomized(kubectl: str, target: str) -> tuple[JsonObject, ...]:
    folder, *components = target.replace("components/", "base+").split("+")
    if not components:
        return _kustomize(kubectl, K8S / folder)
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary).resolve()
        kustomization: JsonObject = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [relpath(K8S / folder, here)],
            "components": [relpath(K8S / "components" / name, here) for name in components],
        }
        # A user's overlay repeats the namespace of the one below: what it adds has none yet.
        below = yaml.safe_load((K8S / folder / "kustomization.yaml").read_text())
        if "namespace" in below:
            kustomization["namespace"] = below["namespace"]
        here.joinpath("kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return _kustomize(kubectl, here)


def render_overlay(kustomization: str) -> tuple[JsonObject, ...]:
    """What a user's kustomization.yaml makes, its `resources` and `components` relative to k8s/."""
    content = yaml.safe_load(kustomization)
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary).resolve()
        for key in ("resources", "components"):
            content[key] = [relpath(K8S / each, here) for each in content.get(key, [])]
        here.joinpath("kustomization.yaml").write_text(yaml.safe_dump(content))
        return _kustomize(require_tool("kubectl"), here)


def _kustomize(kubectl: str, folder: Path) -> tuple[JsonObject, ...]:
    done = subprocess.run(
        [kubectl, "kustomize", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env=_ENVIRONMENT,
    )
    # Deprecated fields are told on stderr, with exit status 0.
    assert (done.returncode, done.stderr) == (0, ""), f"kubectl kustomize {folder}: {done.stderr}"
    return documents(done.stdout)


def documents(source: str) -> tuple[JsonObject, ...]:
    """The manifests of a YAML text."""
    # The parser in C is ten times faster, and hundreds of renderings are read.
    found = yaml.load_all(source, Loader=yaml.CSafeLoader)
    return tuple(cast("JsonObject", each) for each in found if each is not None)


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
    """The container's variables, in their order; of those that the pod fills in, the field."""
    return {
        text(each, "name"): text(each, "valueFrom", "fieldRef", "fieldPath")
        if at(each, "valueFrom") is not None
        else text(each, "value")
        for each in objects(container(target), "env")
    }


def config_map(target: str) -> dict[str, str]:
    """The files of the ConfigMap that the server's container mounts."""
    places = {text(each, "name") for each in objects(container(target), "volumeMounts")}
    mounted = [
        text(each, "configMap", "name")
        for each in volumes(target, "configMap")
        if each["name"] in places
    ]
    return {
        name: contents
        for each in of_kind(target, "ConfigMap")
        if text(each, "metadata", "name") in mounted
        for name, contents in strings(each, "data").items()
    }


def volumes(target: str, kind: str) -> list[JsonObject]:
    """The pod's volumes of that kind."""
    return [each for each in objects(pod(target), "spec", "volumes") if kind in each]
