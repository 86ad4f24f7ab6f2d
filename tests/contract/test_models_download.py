"""The init container of components/models-s3, as rendered: what it publishes, and what not.

It runs against a real S3 server. rclone is Debian's, older than the image's.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import yaml
from stoker.repository.local import scan

from tests.contract.manifests import objects, render_overlay, text
from tests.contract.model_download import SECRET, init_container, mounts, rendered
from tests.object_store import Line, ObjectStore, line_to, object_store

DEMO: Final = Path(__file__).resolve().parents[2] / "server" / "stoker" / "demo" / "models"
MODEL: Final = "/bucket/models/digits/1/model.onnx"


def demo_objects() -> dict[str, bytes]:
    """The demo repository as objects below `models/`."""
    files = [each for each in DEMO.rglob("*") if each.is_file()]
    return {f"models/{each.relative_to(DEMO)}": each.read_bytes() for each in files}


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as running:
        running.put("bucket", demo_objects())
        yield running


@pytest.fixture
def line(store: ObjectStore) -> Iterator[Line]:
    with line_to(Line(store)) as open_line:
        yield open_line


def test_the_repository_is_published_as_it_is_in_the_store(
    store: ObjectStore, tmp_path: Path
) -> None:
    download = rendered(store.url, tmp_path)
    download.succeed()
    there = [each for each in download.published.rglob("*") if each.is_file()]
    got = {f"models/{each.relative_to(download.published)}": each.read_bytes() for each in there}
    assert got == demo_objects()
    assert [each.name for each in download.models.iterdir()] == ["published"]
    models = scan([download.published]).models
    assert {name: model.problems for name, model in models.items()} == {
        "digits": (),
        "echo": (),
        "simple": (),
    }


def test_the_server_mounts_what_was_published_and_sees_no_credentials(tmp_path: Path) -> None:
    manifests = render_overlay(
        yaml.safe_dump({"resources": ["base"], "components": ["components/models-s3"]})
    )
    container, spec = init_container(manifests)
    (server,) = objects(spec, "containers")
    (mount,) = [each for each in mounts(server) if each["name"] == "models"]
    assert (mount["subPath"], mount["readOnly"]) == ("published", True)
    (own,) = [each for each in mounts(container) if each["name"] == "models"]
    variables = {text(each, "name"): text(each, "value") for each in objects(container, "env")}
    assert variables["MODELS_FOLDER"] == own["mountPath"]
    assert "envFrom" not in server
    assert "AWS" not in json.dumps(server)


def test_requests_are_signed_with_the_key_of_the_secret(line: Line, tmp_path: Path) -> None:
    rendered(line.url, tmp_path).succeed()
    assert line.keys == {SECRET["AWS_ACCESS_KEY_ID"]}


def test_a_restarted_pod_starts_with_what_it_has_while_the_store_is_away(tmp_path: Path) -> None:
    with object_store() as store:
        store.put("bucket", demo_objects())
        download = rendered(store.url, tmp_path)
        download.succeed()
    again = download.run()
    assert again.returncode == 0
    assert "are there already" in again.stderr
    assert (download.published / "digits" / "1" / "model.onnx").is_file()


def test_a_file_that_arrives_damaged_is_fetched_again(line: Line, tmp_path: Path) -> None:
    def damage(path: str, body: bytes) -> bytes:
        first = path == MODEL and path not in line.fetched
        return bytes([body[0] ^ 1]) + body[1:] if first else body

    line.damage = damage
    download = rendered(line.url, tmp_path)
    download.succeed()
    assert line.fetched.count(MODEL) == 2
    published = download.published / "digits" / "1" / "model.onnx"
    assert published.read_bytes() == demo_objects()["models/digits/1/model.onnx"]


def test_a_file_that_always_arrives_damaged_publishes_nothing(line: Line, tmp_path: Path) -> None:
    line.damage = lambda path, body: bytes([body[0] ^ 1]) + body[1:] if path == MODEL else body
    download = rendered(line.url, tmp_path)
    done = download.run()
    assert done.returncode != 0
    assert "corrupted on transfer" in done.stderr
    assert not download.published.exists()


def test_a_download_that_was_cut_off_goes_on_with_what_is_missing(
    line: Line, tmp_path: Path
) -> None:
    line.damage = lambda path, body: bytes([body[0] ^ 1]) + body[1:] if path == MODEL else body
    download = rendered(line.url, tmp_path)
    assert download.run().returncode != 0
    line.damage = lambda _path, body: body
    line.fetched.clear()
    download.succeed()
    assert line.fetched == [MODEL]


def test_a_rest_of_an_earlier_download_that_is_damaged_is_fetched_anew(
    line: Line, tmp_path: Path
) -> None:
    line.damage = lambda path, body: bytes([body[0] ^ 1]) + body[1:] if path == MODEL else body
    download = rendered(line.url, tmp_path)
    assert download.run().returncode != 0
    config = download.models / ".incoming" / "digits" / "config.pbtxt"
    times = (config.stat().st_atime_ns, config.stat().st_mtime_ns)
    good = config.read_bytes()
    config.write_bytes(good[:-2] + b"#\n")
    os.utime(config, ns=times)  # Neither size nor time tells; the checksum does.
    line.damage = lambda _path, body: body
    download.succeed()
    assert (download.published / "digits" / "config.pbtxt").read_bytes() == good


def test_a_repository_that_changes_under_the_download_is_not_taken_by_halves(
    store: ObjectStore, line: Line, tmp_path: Path
) -> None:
    store.put("changing", demo_objects())
    first: list[str] = []

    def change(path: str, body: bytes) -> bytes:
        first.append(path)
        if len(first) == len(demo_objects()):
            store.put("changing", {first[0].removeprefix("/changing/"): b"of a later version"})
        return body

    line.damage = change
    download = rendered(line.url, tmp_path, source="models:changing/models")
    one_by_one = {**download.environment, "RCLONE_TRANSFERS": "1"}
    done = replace(download, environment=one_by_one).run()
    assert done.returncode != 0
    assert "1 differences found" in done.stderr
    assert not download.published.exists()


def with_sums(objects_: dict[str, bytes]) -> dict[str, bytes]:
    """The objects and the publisher's sums of them, as sha256sum writes them."""
    lines = (
        f"{hashlib.sha256(body).hexdigest()}  {key.removeprefix('models/')}\n"
        for key, body in objects_.items()
    )
    return {**objects_, "models/SHA256SUMS": "".join(lines).encode()}


def test_sums_of_the_publisher_are_checked(store: ObjectStore, tmp_path: Path) -> None:
    store.put("summed", with_sums(demo_objects()))
    rendered(store.url, tmp_path, source="models:summed/models").succeed()


def test_a_model_that_differs_from_its_publishers_sum_is_not_published(
    store: ObjectStore, tmp_path: Path
) -> None:
    swapped = {**with_sums(demo_objects()), "models/digits/1/model.onnx": b"another model"}
    store.put("swapped", swapped)
    download = rendered(store.url, tmp_path, source="models:swapped/models")
    done = download.run()
    assert done.returncode != 0
    assert "digits/1/model.onnx: FAILED" in done.stdout
    assert not download.published.exists()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "models:bucket/empty",
            "expected a model repository at models:bucket/empty, got no object",
        ),
        ("models:no-such-bucket/models", "directory not found"),
        ("other:bucket/models", "didn't find section in config file"),
    ],
)
def test_a_wrong_source_is_told(
    store: ObjectStore, tmp_path: Path, source: str, expected: str
) -> None:
    download = rendered(store.url, tmp_path, source=source)
    done = replace(download, environment={**download.environment, "RCLONE_RETRIES": "1"}).run()
    assert done.returncode != 0
    assert expected in done.stderr
    assert not download.published.exists()
