"""Looks for bytes in every layer of an image, also in files that a later layer hides."""

from collections.abc import Mapping
from typing import IO, Final

from scripts.image_layout import Image

BLOCK_BYTES: Final = 1 << 22


def find(image: Image, wanted: Mapping[str, bytes]) -> list[str]:
    """`what: layer/path` for each file with one of the wanted strings in its name or content."""
    found: list[str] = []
    for layer in image.layers:
        with layer.entries() as archive:
            for entry in archive:
                place = f"{layer.name}/{entry.name}"
                name = f"{entry.name} {entry.linkname}".encode()
                found += [f"{what}: {place}" for what, each in wanted.items() if each in name]
                content = archive.extractfile(entry) if entry.isreg() else None
                if content is not None:
                    found += [f"{what}: {place}" for what in _inside(content, wanted)]
    return found


def _inside(content: IO[bytes], wanted: Mapping[str, bytes]) -> set[str]:
    overlap = max(map(len, wanted.values()), default=1) - 1
    found: set[str] = set()
    tail = b""
    while block := content.read(BLOCK_BYTES):
        window = tail + block
        found |= {what for what, each in wanted.items() if each in window}
        tail = window[len(window) - overlap :] if overlap else b""
    return found
