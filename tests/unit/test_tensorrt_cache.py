"""Engines on disk: found whole or not at all, whoever writes beside."""

import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from stoker.runtime.tensorrt_cache import (
    ABANDONED_S,
    MANIFEST,
    Building,
    EngineCache,
    EngineIdentity,
    folder_bytes,
)

IDENTITY = EngineIdentity(
    model_digest="ab" * 32,
    onnxruntime="1.31.1",
    tensorrt="10.16.1",
    compute_capability="8.9",
    gpu_name="NVIDIA L4",
    options={"trt_fp16_enable": "1"},
    files={},
)
ENGINE = b"an engine" * 100


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "cache"
    yield folder
    for each in folder.rglob("*"):  # published folders cannot be written to
        if each.is_dir():
            each.chmod(0o755)


def built(cache: EngineCache, content: bytes = ENGINE) -> Building:
    building = cache.build(IDENTITY)
    (building.path / "graph_sm89.engine").write_bytes(content)
    (building.path / "graph_sm89.timing").write_bytes(b"times")
    return building


def test_what_was_published_is_found_by_another_process(root: Path) -> None:
    assert EngineCache(root).find(IDENTITY) is None
    published = built(EngineCache(root)).publish()
    found = EngineCache(root).find(IDENTITY)
    assert found == published
    assert found is not None
    assert (found / "graph_sm89.engine").read_bytes() == ENGINE
    assert folder_bytes(found) > len(ENGINE)


@pytest.mark.parametrize(
    "other",
    [
        replace(IDENTITY, model_digest="cd" * 32),
        replace(IDENTITY, onnxruntime="1.32.0"),
        replace(IDENTITY, tensorrt="10.9.0"),
        replace(IDENTITY, compute_capability="8.6"),
        replace(IDENTITY, gpu_name="NVIDIA A10"),
        replace(IDENTITY, options={"trt_fp16_enable": "0"}),
        replace(IDENTITY, options={}),
        replace(IDENTITY, files={"table": "00"}),
    ],
)
def test_an_engine_of_anything_else_is_not_found(root: Path, other: EngineIdentity) -> None:
    built(EngineCache(root)).publish()
    assert EngineCache(root).find(other) is None
    assert (other.environment, other.key) != (IDENTITY.environment, IDENTITY.key)


def test_the_key_does_not_depend_on_the_order_of_options() -> None:
    one = replace(IDENTITY, options={"a": "1", "b": "2"})
    other = replace(IDENTITY, options={"b": "2", "a": "1"})
    assert one.key == other.key


def test_the_environment_is_a_plain_folder_name_whatever_the_gpu_is_called() -> None:
    odd = replace(IDENTITY, gpu_name="../NVIDIA GeForce/RTX 50 (Ti)")
    assert "/" not in odd.environment
    assert not odd.environment.startswith(".")
    assert IDENTITY.environment == "onnxruntime-1.31.1_tensorrt-10.16.1_sm89_nvidia-l4"


def test_nothing_is_found_while_it_is_being_built_nor_after_it_was_discarded(root: Path) -> None:
    building = built(EngineCache(root))
    assert EngineCache(root).find(IDENTITY) is None
    building.discard()
    assert EngineCache(root).find(IDENTITY) is None
    assert not building.path.exists()


def test_of_two_builds_the_first_one_published_stays(root: Path) -> None:
    first, second = built(EngineCache(root)), built(EngineCache(root), b"another engine")
    published = first.publish()
    assert second.publish() is None
    assert published is not None
    assert (published / "graph_sm89.engine").read_bytes() == ENGINE
    assert (second.path / "graph_sm89.engine").exists()  # who built it still serves from it


def test_many_builders_at_once_leave_one_whole_engine(root: Path) -> None:
    start = threading.Barrier(8)
    published = []

    def build() -> None:
        building = built(EngineCache(root), os.urandom(10_000))
        start.wait()
        published.append(building.publish())
        building.discard()

    threads = [threading.Thread(target=build) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = [each for each in published if each is not None]
    assert len(kept) == 1
    assert EngineCache(root).find(IDENTITY) == kept[0]
    assert not list((root / ".building").iterdir())


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "no manifest", "bad manifest"])
def test_a_damaged_engine_is_no_hit_and_makes_room_for_a_new_one(root: Path, damage: str) -> None:
    folder = built(EngineCache(root)).publish()
    assert folder is not None
    folder.chmod(0o755)
    engine, manifest = folder / "graph_sm89.engine", folder / MANIFEST
    for file in (engine, manifest):
        file.chmod(0o644)
    if damage == "cut":
        engine.write_bytes(ENGINE[:-1])
    elif damage == "changed":
        engine.write_bytes(b"X" + ENGINE[1:])
    elif damage == "missing":
        engine.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text('{"files": 3}')
    assert EngineCache(root).find(IDENTITY) is None
    assert not folder.exists()
    assert built(EngineCache(root)).publish() == folder
    assert EngineCache(root).find(IDENTITY) == folder


def test_what_the_builder_measured_of_kernels_is_there_for_the_next_model(root: Path) -> None:
    built(EngineCache(root)).publish()
    other = EngineCache(root).build(replace(IDENTITY, model_digest="cd" * 32))
    assert (other.path / "graph_sm89.timing").read_bytes() == b"times"
    elsewhere = EngineCache(root).build(replace(IDENTITY, gpu_name="NVIDIA A10"))
    assert not list(elsewhere.path.iterdir())


def test_an_engine_that_is_not_to_be_kept_is_built_outside_of_the_cache(root: Path) -> None:
    building = EngineCache(root).build(IDENTITY, keep=False)
    (building.path / "graph.engine").write_bytes(ENGINE)
    assert building.nbytes == len(ENGINE)
    assert building.publish() is None
    assert not root.exists()
    building.discard()
    assert not building.path.exists()


def test_a_cache_that_cannot_be_written_to_gives_hits_and_builds_go_elsewhere(
    root: Path, tmp_path: Path
) -> None:
    published = built(EngineCache(root)).publish()
    other = replace(IDENTITY, model_digest="cd" * 32)
    # For root, who may write everywhere, a file stands where a folder would have to be made.
    shutil.rmtree(root / ".building")
    (root / ".building").write_bytes(b"")
    cache = EngineCache(root)
    assert cache.find(IDENTITY) == published
    building = cache.build(other)
    assert not building.path.is_relative_to(root)
    assert building.publish() is None
    building.discard()
    nowhere = tmp_path / "file"
    nowhere.write_bytes(b"")
    elsewhere = EngineCache(nowhere).build(IDENTITY)
    assert EngineCache(nowhere).find(IDENTITY) is None
    elsewhere.discard()


def test_what_processes_that_are_gone_left_behind_is_removed(root: Path) -> None:
    left = built(EngineCache(root))
    fresh = left.path.stat().st_mtime
    EngineCache(root).sweep(now=fresh + ABANDONED_S / 2)
    assert left.path.exists()
    EngineCache(root).sweep(now=fresh + ABANDONED_S + 60)
    assert not left.path.exists()


def test_without_a_root_nothing_of_the_working_directory_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    somebodys = tmp_path / ".building" / "work"
    somebodys.mkdir(parents=True)
    os.utime(somebodys, (0, 0))
    EngineCache(Path()).build(IDENTITY, keep=False).discard()
    assert somebodys.exists()


def test_a_stray_file_among_the_buildings_keeps_no_other_from_being_removed(root: Path) -> None:
    left = built(EngineCache(root))
    (left.path.parent / "stray").write_bytes(b"")
    EngineCache(root).sweep(now=left.path.stat().st_mtime + ABANDONED_S + 60)
    assert not left.path.exists()


def test_reading_an_engine_through_stops_when_told(root: Path) -> None:
    built(EngineCache(root)).publish()
    with pytest.raises(InterruptedError):
        EngineCache(root).find(IDENTITY, proceed=lambda: False)
    assert EngineCache(root).find(IDENTITY) is not None
