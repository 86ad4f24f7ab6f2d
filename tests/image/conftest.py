"""The built image that the tests of this folder look at: `make image-test` builds it and names it.

They need root and runc, take minutes, and are no part of `make test`.
"""

import os
from pathlib import Path

import pytest

from scripts import image_layout
from scripts.image_layout import Image


@pytest.fixture(scope="session")
def image() -> Image:
    """The image in the OCI layout that IMAGE_LAYOUT names."""
    layout = os.environ.get("IMAGE_LAYOUT")
    if layout is None:
        pytest.skip("IMAGE_LAYOUT names no OCI layout; `make image-test` builds one")
    return image_layout.read(Path(layout))


@pytest.fixture(scope="session")
def rootfs(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's files, with the owners and modes that a node would see."""
    if os.geteuid() != 0:
        pytest.skip("unpacking an image with its owners needs root")
    folder = tmp_path_factory.mktemp("rootfs")
    folder.chmod(0o755)
    image.unpack(folder)
    return folder
