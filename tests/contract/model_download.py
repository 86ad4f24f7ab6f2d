"""The init container of components/models-s3 as rendered, to be run in folders of a test.

Command, variables and script are those of the manifest under an overlay with settings; only
/models, /scripts and /tmp are elsewhere, and each test says which store it means.
"""

import os
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import yaml
from stoker.deploy.manifest import at

from tests.contract.manifests import (
    JsonObject,
    JsonValue,
    objects,
    render_overlay,
    strings,
    text,
)
from tests.tools import require_tool

SECRET: Final = {"AWS_ACCESS_KEY_ID": "the-key", "AWS_SECRET_ACCESS_KEY": "the-secret"}
PATIENCE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Download:
    """The container's command in this test's folders."""

    command: list[str]
    environment: dict[str, str]
    models: Path

    @property
    def published(self) -> Path:
        """What the server's container mounts."""
        return self.models / "published"

    def run(self) -> subprocess.CompletedProcess[str]:
        """Runs it to its end."""
        return subprocess.run(
            self.command,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def succeed(self) -> None:
        """Runs it and fails the test unless it ends well."""
        done = self.run()
        assert done.returncode == 0, done.stderr


def init_container(manifests: tuple[JsonObject, ...]) -> tuple[JsonObject, JsonValue]:
    """The container and its pod's spec."""
    deployment = next(each for each in manifests if each["kind"] == "Deployment")
    spec = at(deployment, "spec", "template", "spec")
    (container,) = objects(spec, "initContainers")
    return container, spec


def data_of(manifests: tuple[JsonObject, ...], name: JsonValue) -> dict[str, str]:
    """The data of a ConfigMap."""
    (found,) = [each for each in manifests if at(each, "metadata", "name") == name]
    return strings(found, "data")


SETTINGS: Final = {
    "MODELS_SOURCE": "models:bucket/models",
    "RCLONE_CONFIG_MODELS_PROVIDER": "Other",
    "RCLONE_CONFIG_MODELS_ENDPOINT": "http://filled.in.by.each.test",
    "RCLONE_RETRIES": "2",
    "RCLONE_RETRIES_SLEEP": "0s",
}


@cache
def under_an_overlay() -> tuple[JsonObject, ...]:
    """The manifests with an overlay's settings."""
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "stoker-models-s3"},
        "data": SETTINGS,
    }
    overlay = {
        "resources": ["overlays/dev"],
        "components": ["components/models-s3"],
        "patches": [{"patch": yaml.safe_dump(config_map)}],
    }
    return render_overlay(yaml.safe_dump(overlay))


def rendered(url: str, folder: Path, *, source: str = SETTINGS["MODELS_SOURCE"]) -> Download:
    """The command as rendered, for this store."""
    require_tool("rclone")
    manifests = under_an_overlay()
    container, spec = init_container(manifests)
    configured, secret = objects(container, "envFrom")
    assert secret == {"secretRef": {"name": "stoker-models-s3", "optional": True}}
    (scripts,) = [each for each in objects(spec, "volumes") if each["name"] == "models-download"]
    places = {text(each, "name"): text(each, "mountPath") for each in mounts(container)}
    here = {places[name]: folder / name for name in places}
    for place in here.values():
        place.mkdir(exist_ok=True)
    for name, contents in data_of(manifests, at(scripts, "configMap", "name")).items():
        (here[places["models-download"]] / name).write_text(contents)

    def local(value: str) -> str:
        for place, ours in here.items():
            if value == place or value.startswith(f"{place}/"):
                return str(ours) + value.removeprefix(place)
        return value

    command = at(container, "command")
    assert isinstance(command, list)
    data = data_of(manifests, at(configured, "configMapRef", "name"))
    assert data.items() >= SETTINGS.items()
    variables = {text(each, "name"): text(each, "value") for each in objects(container, "env")}
    return Download(
        [local(str(each)) for each in command],
        {
            "PATH": os.environ["PATH"],
            **data,
            "MODELS_SOURCE": source,
            "RCLONE_CONFIG_MODELS_ENDPOINT": url,
            **SECRET,
            **{name: local(value) for name, value in variables.items()},
        },
        here[places["models"]],
    )


def mounts(container: JsonObject) -> list[JsonObject]:
    return objects(container, "volumeMounts")
