import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from scripts.image_layout import Image, budget, layer_names, overruns, read
from tests.image.search import BLOCK_BYTES, find

Files = dict[str, bytes]


def write_blob(layout: Path, content: bytes) -> dict[str, object]:
    digest = hashlib.sha256(content).hexdigest()
    folder = layout / "blobs" / "sha256"
    folder.mkdir(parents=True, exist_ok=True)
    folder.joinpath(digest).write_bytes(content)
    return {"digest": f"sha256:{digest}", "size": len(content)}


def layer(files: Files) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def image_of(layout: Path, *layers: Files) -> Image:
    """An image of these layers, every second one packed, and empty ones up to six."""
    contents = [layer(each) for each in (*layers, *[{}] * (6 - len(layers)))]
    packed = [gzip.compress(each) if i % 2 else each for i, each in enumerate(contents)]
    config = {
        "Env": ["STOKER_DEVICE=cpu", "PATH=/bin"],
        "User": "10001:10001",
        "Entrypoint": ["stoker"],
        "Cmd": ["serve"],
        "StopSignal": "SIGTERM",
        "Labels": {"a": "b"},
    }
    manifest = {
        "config": write_blob(layout, json.dumps({"config": config}).encode()),
        "layers": [write_blob(layout, each) for each in packed],
    }
    index = {"manifests": [write_blob(layout, json.dumps(manifest).encode())]}
    layout.joinpath("index.json").write_text(json.dumps(index))
    return read(layout)


def test_settings_and_layers_are_read(tmp_path: Path) -> None:
    image = image_of(tmp_path, {"a": b"1"}, {"b": b"2"})
    assert (image.settings.variant, image.settings.working_folder) == ("cpu", "/")
    names = [each.name for each in image.layers]
    assert names == ["base", "interpreter", "libraries", "packages", "code", "verify"]


def test_a_layer_weighs_its_tar_archive_packed_or_not(tmp_path: Path) -> None:
    content = {"file": b"x" * 100_000}
    plain, packed = image_of(tmp_path, content, content).layers[:2]
    assert plain.unpacked_bytes == packed.unpacked_bytes == len(layer(content))
    assert packed.packed_bytes < plain.packed_bytes == plain.unpacked_bytes


def test_a_base_of_several_layers_is_one_name() -> None:
    assert layer_names(8)[:3] == ["base"] * 3
    with pytest.raises(ValueError, match="expected a base and 5 layers, got 5"):
        layer_names(5)


def test_later_layers_replace_and_remove_files_of_earlier_ones(tmp_path: Path) -> None:
    below: Files = {"kept/a": b"1", "kept/b": b"1", "gone/c": b"1", "opaque/d": b"1"}
    above: Files = {"kept/a": b"2", ".wh.gone": b"", "opaque/.wh..wh..opq": b"", "opaque/e": b"2"}
    root = tmp_path / "root"
    image_of(tmp_path, below, above).unpack(root)
    files = {str(each.relative_to(root)): each for each in root.rglob("*") if each.is_file()}
    assert sorted(files) == ["kept/a", "kept/b", "opaque/e"]
    assert files["kept/a"].read_bytes() == b"2"


def test_a_secret_is_found_in_a_layer_whose_file_a_later_layer_removes(tmp_path: Path) -> None:
    image = image_of(
        tmp_path, {"etc/pip.conf": b"index = mirror.example"}, {"etc/.wh.pip.conf": b""}
    )
    assert find(image, {"host": b"mirror.example"}) == ["host: base/etc/pip.conf"]


def test_a_secret_is_found_across_two_blocks_and_in_a_name(tmp_path: Path) -> None:
    padding = b"." * (BLOCK_BYTES - 3)
    image = image_of(tmp_path, {"big": padding + b"secret", "secret.txt": b""})
    assert find(image, {"it": b"secret"}) == ["it: base/big", "it: base/secret.txt"]
    assert find(image, {"it": b"secrets"}) == []


def test_every_weight_over_its_budget_is_told() -> None:
    allowed = dict.fromkeys(("base", "total", "pull"), 10)
    assert overruns({"base": (10_000_000, 10_000_000)}, allowed) == []
    told = overruns({"base": (10_100_000, 10_000_001)}, allowed)
    assert [each.partition(":")[0] for each in told] == ["base", "total", "pull"]
    assert told[0] == "base: 10.1 MB, budget 10 MB"


def test_a_budget_names_total_and_pull() -> None:
    assert {"total", "pull"} <= set(budget("gpu"))
