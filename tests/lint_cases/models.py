"""Cases of `stoker k8s lint`: Models."""

from typing import Final

from tests.broken_manifests import POD, measurement, pod, server, take, variable
from tests.lint_cases.case import Case
from tests.lint_cases.pieces import CLAIMED, DOWNLOADED

CASES: Final = (
    Case(
        "models-volume-unread",
        [
            pod("volumes", 3, value=CLAIMED),
            server("volumeMounts", 3, value={"name": "models", "mountPath": "/models"}),
            server("args", value=["serve", "--config", "/etc/stoker/stoker.yaml"]),
        ],
        "models at /models; the server serves its demo models",
        [
            pod("volumes", 3, value=CLAIMED),
            server("volumeMounts", 3, value={"name": "models", "mountPath": "/models"}),
        ],
    ),
    Case(
        "models-volume-unread",
        [
            pod("volumes", 3, value={"name": "data", "image": {"reference": "r.example/m:1"}}),
            server("volumeMounts", 3, value={"name": "data", "mountPath": "/data"}),
        ],
        "data at /data; the server serves /models",
        [
            pod("volumes", 3, value={"name": "data", "image": {"reference": "r.example/m:1"}}),
            server("volumeMounts", 3, value={"name": "data", "mountPath": "/models/vision"}),
        ],
    ),
    Case(
        "models-volume-unread",
        [
            pod("volumes", 3, value={"name": "data", "persistentVolumeClaim": {"claimName": "d"}}),
            server("volumeMounts", 3, value={"name": "data", "mountPath": "/d", "readOnly": True}),
        ],
        "data at /d; the server serves /models",
        [
            pod("volumes", 3, value={"name": "data", "persistentVolumeClaim": {"claimName": "d"}}),
            server("volumeMounts", 3, value={"name": "data", "mountPath": "/d"}),
            variable("STOKER_TRT_CACHE_DIR", "/d/engines"),
        ],
    ),
    Case(
        "models-volume-unread",
        [
            pod("volumes", 3, value={"name": "data", "persistentVolumeClaim": {"claimName": "d"}}),
            server("volumeMounts", 3, value={"name": "data", "mountPath": "/d"}),
        ],
        "data at /d; the server serves /models",
        # Where the models are mounted too, it is for something else.
        [
            pod("volumes", 3, value={"name": "data", "persistentVolumeClaim": {"claimName": "d"}}),
            server("volumeMounts", 3, value={"name": "data", "mountPath": "/d"}),
            server("volumeMounts", 4, value={"name": "tmp", "mountPath": "/models"}),
        ],
    ),
    Case(
        "models-volume-unread",
        [
            pod("volumes", 3, value=CLAIMED),
            server("volumeMounts", 3, value={"name": "models", "mountPath": "/mine"}),
        ],
        "models at /mine; the server serves /models",
        # Beside the models' own, a folder to write to is for something else, whatever its name.
        [
            pod("volumes", 3, value=CLAIMED),
            server("volumeMounts", 3, value={"name": "models", "mountPath": "/models"}),
            server("volumeMounts", 4, value={"name": "tmp", "mountPath": "/models-scratch"}),
        ],
    ),
    Case(
        "models-volume-unread",
        [
            pod("volumes", 3, value=CLAIMED),
            server("volumeMounts", 3, value={"name": "models", "mountPath": "/models"}),
            server("args", value=["serve"]),
        ],
        "models at /models; the server serves its demo models",
        [
            pod("volumes", 3, value=CLAIMED),
            server("volumeMounts", 3, value={"name": "models", "mountPath": "/models"}),
            server("args", value=["serve", "--config", "/run/secrets/with-sources.yaml"]),
        ],
    ),
    Case(
        "models-exceed-storage",
        [*DOWNLOADED],
        "models: 1Gi; the models are 2Gi",
        # It is filled elsewhere, and only read here.
        [*DOWNLOADED, take("Deployment", *POD, "initContainers", 0)],
        measured=measurement(files_bytes=2 << 30),
    ),
    Case(
        "models-exceed-storage",
        [*DOWNLOADED, pod("volumes", 3, "emptyDir", "sizeLimit", value="20Gi")],
        "10Gi; the models are 11Gi",
        [
            *DOWNLOADED,
            pod("volumes", 3, "emptyDir", "sizeLimit", value="11Gi"),
            server("resources", "limits", "ephemeral-storage", value="11Gi"),
        ],
        measured=measurement(files_bytes=11 << 30),
    ),
)
