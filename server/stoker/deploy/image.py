"""The server's image: what its reference tells, and what it sets and runs by itself.

Source of the constants: Dockerfile.gpu; tests/contract/test_lint_manifests.py holds them.
"""

import re
from dataclasses import dataclass
from typing import Final

PROGRAM: Final = "stoker"
IMAGE_COMMAND: Final = ("serve", "/models")
"""What the image runs without arguments."""
CACHE_FOLDER: Final = "/var/cache/stoker"
"""The image's HOME and XDG_CACHE_HOME, with CUDA's JIT cache below."""
CPU_TAG: Final = "-cpu"


@dataclass(frozen=True, slots=True)
class Image:
    """The parts of an image's reference."""

    repository: str
    tag: str
    digest: str

    @property
    def last_name(self) -> str:
        """`stoker` of `registry.example:5000/team/stoker`."""
        return self.repository.rpartition("/")[2]

    @property
    def is_ours(self) -> bool:
        """Whether its name says that it is Stoker's."""
        return bool(re.fullmatch(rf"(.+-)?{PROGRAM}(-.+)?", self.last_name))

    @property
    def is_cpu_variant(self) -> bool:
        """Whether it is the variant without CUDA."""
        return self.is_ours and (
            self.tag.endswith(CPU_TAG) or self.tag == "cpu" or self.last_name.endswith(CPU_TAG)
        )


def parse_image(reference: str) -> Image:
    """Takes `registry:5000/name:tag@sha256:...` apart."""
    name, _, digest = reference.partition("@")
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        return Image(name, "", digest)
    return Image(repository, tag, digest)


def image_environment(image: Image) -> dict[str, str]:
    """What the image sets, as far as its name tells which variant it is."""
    if not image.is_ours:
        return {}
    cache = {"HOME": CACHE_FOLDER, "XDG_CACHE_HOME": CACHE_FOLDER}
    if not image.tag:
        return cache
    return {**cache, "STOKER_DEVICE": "cpu" if image.is_cpu_variant else "gpu"}
