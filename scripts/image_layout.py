"""An image as an OCI image layout, a folder that every builder can write: layers and settings.

    python -m scripts.image_layout .image/cpu     # what each layer weighs, and its budget

Source: OCI image-spec 1.1, "Image Layout", "Image Manifest", "Image Configuration", "Image Layer".
"""

import gzip
import json
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias, cast

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

ROOT: Final = Path(__file__).resolve().parent.parent
BUDGET: Final = ROOT / "docker" / "budget.toml"

OWN_LAYERS: Final = ("interpreter", "libraries", "packages", "code", "verify")
"""The layers that Dockerfile.gpu lays over its base, from the bottom."""

WHITEOUT: Final = ".wh."
OPAQUE: Final = ".wh..wh..opq"


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer, gzipped or plain."""

    name: str
    """`base` for each of the base image's, otherwise one of OWN_LAYERS."""

    blob: Path
    packed_bytes: int
    """What a node pulls."""

    @contextmanager
    def entries(self) -> Iterator[tarfile.TarFile]:
        """The tar archive, read from its start to its end."""
        with tarfile.open(self.blob, mode="r|*") as archive:
            yield archive

    @property
    def unpacked_bytes(self) -> int:
        """The size of the tar archive, which is what registries and `docker history` tell."""
        with self.blob.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        if not packed:
            return self.blob.stat().st_size
        size = 0
        with gzip.open(self.blob) as stream:
            while block := stream.read(1 << 22):
                size += len(block)
        return size


@dataclass(frozen=True, slots=True)
class Settings:
    """What the image tells a runtime. Source: image-spec, `config`."""

    user: str
    environment: dict[str, str]
    entry_point: tuple[str, ...]
    command: tuple[str, ...]
    working_folder: str
    stop_signal: str
    labels: dict[str, str]

    @property
    def variant(self) -> str:
        """`gpu` or `cpu`: the device that the image asks for."""
        return self.environment["STOKER_DEVICE"]


@dataclass(frozen=True, slots=True)
class Image:
    """The one image of a layout."""

    settings: Settings
    layers: tuple[Layer, ...]

    def unpack(self, into: Path) -> None:
        """Lays the layers over each other in the folder `into`, as root with their owners."""
        for layer in self.layers:
            with layer.entries() as archive:
                for entry in archive:
                    _lay(archive, entry, into)

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Bytes unpacked and packed by layer name, the base's added up."""
        found: dict[str, tuple[int, int]] = {}
        for layer in self.layers:
            unpacked, packed = found.get(layer.name, (0, 0))
            found[layer.name] = (unpacked + layer.unpacked_bytes, packed + layer.packed_bytes)
        return found


def _lay(archive: tarfile.TarFile, entry: tarfile.TarInfo, into: Path) -> None:
    path = into / entry.name
    if path.name == OPAQUE:
        for each in path.parent.iterdir():
            _remove(each)
    elif path.name.startswith(WHITEOUT):
        _remove(path.with_name(path.name.removeprefix(WHITEOUT)))
    else:
        if path.is_symlink() or (path.exists() and not (path.is_dir() and entry.isdir())):
            _remove(path)
        # The archive is of our own making, and owners and modes are part of what is tested.
        archive.extract(entry, into, filter="fully_trusted")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for each in path.iterdir():
            _remove(each)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def read(layout: Path) -> Image:
    """Reads the layout's only image. Raises ValueError if there is another number of them."""
    manifests = _list(_object(json.loads((layout / "index.json").read_text())), "manifests")
    if len(manifests) != 1:
        raise ValueError(f"{layout}: expected one image, got {len(manifests)}")
    manifest = _blob_json(layout, _object(manifests[0]))
    config = _blob_json(layout, _object(manifest["config"]))
    blobs = [_object(each) for each in _list(manifest, "layers")]
    names = layer_names(len(blobs))
    return Image(
        _settings(_object(config["config"])),
        tuple(
            Layer(name, _blob(layout, each), int(cast("int", each["size"])))
            for name, each in zip(names, blobs, strict=True)
        ),
    )


def layer_names(count: int) -> list[str]:
    """The names of `count` layers: ours are the last, the base's come before."""
    below = count - len(OWN_LAYERS)
    if below < 1:
        raise ValueError(f"expected a base and {len(OWN_LAYERS)} layers, got {count}")
    return ["base"] * below + list(OWN_LAYERS)


def _settings(config: dict[str, Json]) -> Settings:
    pairs = (str(each).partition("=") for each in _list(config, "Env"))
    return Settings(
        user=str(config["User"]),
        environment={name: value for name, _, value in pairs},
        entry_point=tuple(str(each) for each in _list(config, "Entrypoint")),
        command=tuple(str(each) for each in _list(config, "Cmd")),
        working_folder=str(config.get("WorkingDir") or "/"),
        stop_signal=str(config["StopSignal"]),
        labels={key: str(value) for key, value in _object(config["Labels"]).items()},
    )


def _blob(layout: Path, descriptor: dict[str, Json]) -> Path:
    algorithm, _, digest = str(descriptor["digest"]).partition(":")
    return layout / "blobs" / algorithm / digest


def _blob_json(layout: Path, descriptor: dict[str, Json]) -> dict[str, Json]:
    return _object(json.loads(_blob(layout, descriptor).read_text()))


def _object(value: Json) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {value!r}")
    return value


def _list(value: dict[str, Json], key: str) -> list[Json]:
    found = value.get(key)
    if not isinstance(found, list):
        raise ValueError(f"expected a list at {key!r}, got {found!r}")
    return found


def budget(variant: str) -> dict[str, int]:
    """Megabytes (10^6 bytes) by layer, with `total` and `pull` (packed)."""
    found = tomllib.loads(BUDGET.read_text())[variant]
    return {str(name): int(megabytes) for name, megabytes in found.items()}


def overruns(sizes: dict[str, tuple[int, int]], allowed: dict[str, int]) -> list[str]:
    """A sentence for each layer, the total and the pull that weigh more than their budget."""
    weights = {name: unpacked for name, (unpacked, _) in sizes.items()}
    weights["total"] = sum(unpacked for unpacked, _ in sizes.values())
    weights["pull"] = sum(packed for _, packed in sizes.values())
    return [
        f"{name}: {weight / 1e6:.1f} MB, budget {allowed[name]} MB"
        for name, weight in weights.items()
        if weight > allowed[name] * 1e6
    ]


def main(layout: str) -> int:
    """Prints the table of layers; 1 if one is over its budget."""
    image = read(Path(layout))
    sizes, allowed = image.sizes(), budget(image.settings.variant)
    print(f"{'layer':12} {'unpacked':>10} {'to pull':>10} {'budget':>8}   (MB)")
    for name, (unpacked, packed) in sizes.items():
        print(f"{name:12} {unpacked / 1e6:10.1f} {packed / 1e6:10.1f} {allowed[name]:8}")
    total, pull = (sum(each) / 1e6 for each in zip(*sizes.values(), strict=True))
    print(f"{'total':12} {total:10.1f} {pull:10.1f} {allowed['total']:8}")
    problems = overruns(sizes, allowed)
    for problem in problems:
        print(f"over budget: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
