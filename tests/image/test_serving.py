"""The image as a pod runs it: it becomes ready, answers real clients, and ends on its signal."""

import json
from pathlib import Path

import pytest

from scripts.image_layout import Image
from tests.contract import manifests
from tests.digit import BODY, INFER, digit_of
from tests.image import triton_call
from tests.image.container import PROGRAM, Container, Run, of_pod
from tests.tools import require_tool


@pytest.mark.parametrize("target", ["base", "overlays/dev"])
def test_the_pod_of_the_manifests_serves_and_drains(
    target: str, image: Image, rootfs: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    config.mkdir(mode=0o755)
    ports = manifests.ports(target)
    with Container(image.settings, of_pod(target, config), rootfs, tmp_path) as container:
        container.until('"event": "ready"')
        curl = (require_tool("curl"), "--silent", "--show-error", "--fail")
        for _, path, port in manifests.probes(target):
            # As the kubelet asks, again and again: a server is ready a moment before it is started.
            container.client(*curl, "--retry", "5", f"http://127.0.0.1:{port}{path}")

        answer = container.client(
            *curl, f"http://127.0.0.1:{ports['http']}{INFER}", "-d", f"@{BODY}"
        )
        assert digit_of(answer) == [7]
        by_triton = container.client(
            *(PROGRAM, triton_call.__file__, BODY),
            *("--http", f"127.0.0.1:{ports['http']}", "--grpc", f"127.0.0.1:{ports['grpc']}"),
        )
        assert json.loads(by_triton) == {"http": 7, "grpc": 7}

        # ONNX Runtime's telemetry would write below HOME.
        assert container.written("/var/cache/stoker") == []
        assert container.stop() == 0
        assert any('"event": "drained"' in line for line in container.log)


def test_the_image_alone_serves_what_is_mounted_at_models(
    image: Image, rootfs: Path, tmp_path: Path
) -> None:
    demo = rootfs / "opt/stoker/lib/python3.11/site-packages/stoker/demo/models"
    run = Run(environment={"STOKER_DEVICE": "cpu"}, mounts={"/models": demo})
    with Container(image.settings, run, rootfs, tmp_path) as container:
        container.until("stoker ready")
        url = f"http://127.0.0.1:8000{INFER}"
        assert digit_of(container.client(require_tool("curl"), "-sS", url, "-d", f"@{BODY}")) == [7]
        assert container.stop() == 0


def test_the_image_runs_as_a_user_that_has_no_name_and_cannot_write_beside_its_folders(
    image: Image, rootfs: Path, tmp_path: Path
) -> None:
    code = (
        "import os, pathlib\n"
        "print(os.getuid(), os.getgid(), os.getgroups())\n"
        "for place in '/ /opt/stoker /models /etc /var /tmp /var/cache/stoker'.split():\n"
        "    try:\n"
        "        pathlib.Path(place, 'new').write_text('')\n"
        "        print(place)\n"
        "    except OSError as error:\n"
        "        pass\n"
    )
    run = Run(entry_point=("python", "-c", code), arguments=())
    with Container(image.settings, run, rootfs, tmp_path) as container:
        assert container.exit_code() == 0
        assert container.log == ["10001 10001 []", "/tmp", "/var/cache/stoker"]
