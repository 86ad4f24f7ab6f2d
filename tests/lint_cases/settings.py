"""Cases of `stoker k8s lint`: Settings and image."""

from typing import Final

from stoker.deploy.manifest import JsonObject

from tests.broken_manifests import POD, SERVER, add, drop, pod, put, server, setting, take, variable
from tests.lint_cases.case import Case
from tests.lint_cases.pieces import RUNTIME, inference_service, runtime


def image_volume(reference: str) -> JsonObject:
    """Models in an image, as a volume."""
    return {"name": "models", "image": {"reference": reference}}


CASES: Final = (
    Case(
        "settings-refused",
        [server("args", value=["serve", "--drain-dely", "5s"])],
        "--drain-dely: unknown flag; did you mean --drain-delay",
        [server("args", value=["serve", "--drain-delay", "5s"])],
    ),
    Case(
        "settings-refused",
        [variable("STOKER_HTP_PORT", "8000")],
        "STOKER_HTP_PORT: unknown variable",
        [variable("OTHER_HTP_PORT", "8000")],
    ),
    Case(
        "settings-refused",
        [setting("idle_timeout: soon")],
        "/etc/stoker/stoker.yaml:7: idle_timeout: expected a duration",
        [setting("idle_timeout: 700s")],
    ),
    Case(
        "settings-refused",
        [variable("PORT", "many"), server("args", value=["serve", "--http-port", "$(PORT)"])],
        "--http-port: expected a port from 0 to 65535, got 'many'",
        [variable("PORT", "8000"), server("args", value=["serve", "--http-port", "$(PORT)"])],
    ),
    Case(
        "settings-refused",
        [add(runtime()), add(inference_service(arguments="--drain-timout=20s"))],
        "--drain-timout: unknown flag; did you mean --drain-timeout",
        [add(runtime()), add(inference_service(arguments="--drain-timout=20s", name="triton"))],
    ),
    Case(
        "settings-elsewhere",
        [drop("ConfigMap")],
        "the file /etc/stoker/stoker.yaml is in no ConfigMap",
        [put("Deployment", *POD, "volumes", 0, "configMap", "name", value="stoker-7h9k")],
    ),
    Case(
        "settings-elsewhere",
        [server("envFrom", value=[{"secretRef": {"name": "settings", "optional": True}}])],
        "variables come from the Secret settings",
        [server("envFrom", value=[{"configMapRef": {"name": "stoker-7h9k"}}])],
    ),
    Case(
        "settings-elsewhere",
        [server("envFrom", value=[{"configMapRef": {"name": "settings"}}])],
        "variables come from the ConfigMap settings",
        [server("envFrom", value=[])],
    ),
    Case(
        "settings-elsewhere",
        [
            server(
                "env",
                0,
                value={"name": "STOKER_HTTP_PORT", "valueFrom": {"secretKeyRef": {"name": "s"}}},
            )
        ],
        "the variable STOKER_HTTP_PORT comes from elsewhere",
        [
            server(
                "env",
                0,
                value={"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata"}}},
            )
        ],
    ),
    Case(
        "setting-hidden",
        [variable("STOKER_DRAIN_DELAY", "1s")],
        "STOKER_DRAIN_DELAY 1s hides 5s at /etc/stoker/stoker.yaml:4",
        [variable("STOKER_DRAIN_DELAY", "5000ms")],
    ),
    Case(
        "setting-hidden",
        [server("args", 4, value="--http-port=80"), variable("STOKER_HTTP_PORT", "8000")],
        "--http-port 80 hides 8000 at /etc/stoker/stoker.yaml:1",
        [server("args", 4, value="--idle-timeout=700s"), variable("STOKER_HTTP_PORT", "8000")],
    ),
    Case(
        "setting-hidden",
        # The image has a variable of its own.
        [take("Deployment", *SERVER, "env", 0), setting("device: auto")],
        "STOKER_DEVICE gpu hides auto at /etc/stoker/stoker.yaml:7",
        [take("Deployment", *SERVER, "env", 0), setting("device: gpu")],
    ),
    Case(
        "shell-first-process",
        [server("command", value=["/bin/sh", "-c"]), server("args", value=["stoker serve /m"])],
        "/bin/sh -c",
        [
            server("command", value=["/bin/sh", "-c"]),
            server("args", value=["mkdir /tmp/x; exec stoker serve /m"]),
        ],
    ),
    Case(
        "image-not-pinned",
        [server("image", value="registry.example/stoker:latest")],
        "stoker:latest",
        [server("image", value="registry.example/stoker:latest@sha256:0123")],
    ),
    Case(
        "image-not-pinned",
        [server("image", value="registry.example:5000/stoker")],
        "registry.example:5000/stoker",
        [server("image", value="registry.example:5000/stoker:0.1.0")],
    ),
    Case(
        "image-without-digest",
        [server("image", value="registry.example/stoker:0.1.0")],
        "stoker:0.1.0",
        [server("image", value="registry.example/stoker@sha256:0123")],
    ),
    Case(
        "image-without-registry",
        [server("image", value="stoker:0.1.0")],
        "stoker:0.1.0, which names no registry",
        [server("image", value="team/stoker:0.1.0")],
    ),
    Case(
        "image-without-registry",
        [server("image", value="stoker@sha256:0123")],
        "stoker@sha256:0123",
        [server("image", value="stoker:0.1.0"), server("imagePullPolicy", value="Never")],
    ),
    Case(
        "kserve-container-name",
        [add(RUNTIME % "stoker")],
        "'stoker'",
        [add(RUNTIME % "kserve-container")],
    ),
    Case(
        "image-not-pinned",
        [pod("initContainers", 0, value={"name": "fetch", "image": "rclone/rclone:latest"})],
        "rclone/rclone:latest",
        [pod("initContainers", 0, value={"name": "fetch", "image": "rclone/rclone:1.75.1"})],
    ),
    Case(
        "image-not-pinned",
        [pod("volumes", 3, value=image_volume("r.example/models"))],
        "r.example/models",
        [pod("volumes", 3, value=image_volume("r.example/models@sha256:0123"))],
    ),
    Case(
        "image-without-registry",
        [pod("volumes", 3, value=image_volume("stoker-models:1"))],
        "stoker-models:1, which names no registry",
        [pod("volumes", 3, value=image_volume("r.example/stoker-models:1"))],
    ),
)
