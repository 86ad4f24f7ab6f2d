"""The GPU variant on a machine without a GPU: it never pretends, and serves where it may."""

from pathlib import Path

import pytest

from scripts.image_layout import Image
from tests.digit import BODY, INFER, digit_of
from tests.image.container import Container, Run
from tests.tools import require_tool

NOT_THERE = 3
"""The exit code of `--exit-on-error`."""


@pytest.fixture(autouse=True)
def gpu_image(image: Image) -> Image:
    if image.settings.variant != "gpu":
        pytest.skip("of the GPU variant: make image-test VARIANT=gpu")
    return image


def status(container: Container, path: str) -> tuple[int, str]:
    """Status and body of a management path."""
    url = f"http://127.0.0.1:8002{path}"
    shown = container.client(require_tool("curl"), "-sS", "-w", "\n%{http_code}", url)
    body, _, code = shown.rpartition("\n")
    return int(code), body


def test_without_a_gpu_it_is_alive_and_not_ready_and_says_why(
    image: Image, rootfs: Path, tmp_path: Path
) -> None:
    with Container(image.settings, Run(arguments=("serve",)), rootfs, tmp_path) as container:
        container.until("model_failed")
        started = "http://127.0.0.1:8002/startupz"
        container.client(require_tool("curl"), "-sS", "--fail", "--retry", "5", started)
        assert status(container, "/livez")[0] == 200
        code, body = status(container, "/readyz")
        assert code == 503
        assert "libcuda.so.1" in body
        assert container.stop() == 0


def test_without_a_gpu_exit_on_error_ends_the_process(
    image: Image, rootfs: Path, tmp_path: Path
) -> None:
    run = Run(arguments=("serve", "--exit-on-error"))
    with Container(image.settings, run, rootfs, tmp_path) as container:
        assert container.exit_code() == NOT_THERE
        assert any("libcuda.so.1" in line for line in container.log)


def test_auto_serves_on_the_cpu_where_there_is_no_gpu(
    image: Image, rootfs: Path, tmp_path: Path
) -> None:
    run = Run(arguments=("serve", "--device", "auto"))
    with Container(image.settings, run, rootfs, tmp_path) as container:
        container.until("stoker ready")
        url = f"http://127.0.0.1:8000{INFER}"
        assert digit_of(container.client(require_tool("curl"), "-sS", url, "-d", f"@{BODY}")) == [7]
        assert status(container, "/readyz")[0] == 200
        assert container.stop() == 0
