"""The models that are served without any argument open, and are right."""

import json
from pathlib import Path

import numpy as np
import pytest
import stoker
from PIL import Image
from stoker.model import ModelConfig
from stoker.runtime.independence import Independence, prove
from stoker.runtime.onnx import OnnxRuntime
from stoker.runtime.session import Placement, Session
from stoker.tensor import DataType, TensorSpec

from scripts.train_digits import WANTED_ACCURACY, split
from tests import models

DEMO = Path(stoker.__file__).parent / "demo"
IMAGES = sorted((DEMO / "images").glob("digit-*.png"))


def opened(name: str) -> Session:
    path = DEMO / "models" / name / "1" / "model.onnx"
    return OnnxRuntime("cpu").open(path, ModelConfig(name, 0, (), (), None), Placement("cpu", 1, 1))


def label_of(path: Path) -> int:
    return int(path.stem.removeprefix("digit-"))


def test_every_digit_has_its_image() -> None:
    assert [label_of(path) for path in IMAGES] == list(range(10))


def test_the_shipped_images_are_classified_right_in_one_batch() -> None:
    pixels = np.stack([np.asarray(Image.open(path), np.float32).reshape(64) for path in IMAGES])
    probabilities, digit = opened("digits").run({"image": pixels}, ["probabilities", "digit"])
    assert digit.ravel().tolist() == list(range(10))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert probabilities.argmax(axis=1).tolist() == list(range(10))


def test_the_shipped_network_knows_at_least_95_percent_of_the_digits_held_back() -> None:
    _, images, _, labels = split()
    assert len(labels) == 450
    (digits,) = opened("digits").run({"image": images}, ["digit"])
    assert (digits.ravel() == labels).mean() >= WANTED_ACCURACY >= 0.95


def test_raw_pixels_of_the_data_set_are_valid_as_they_are() -> None:
    grey = np.stack([np.asarray(Image.open(path), np.float32).reshape(64) for path in IMAGES])
    raw = np.round(grey * 16 / 255).astype(np.float32)
    assert raw.max() == 16
    (digit,) = opened("digits").run({"image": raw}, ["digit"])
    assert digit.ravel().tolist() == list(range(10))


def test_an_empty_image_is_no_error() -> None:
    (probabilities,) = opened("digits").run(
        {"image": np.zeros((1, 64), np.float32)}, ["probabilities"]
    )
    assert np.isfinite(probabilities).all()


def test_the_request_body_asks_for_the_digit_of_its_name() -> None:
    body = json.loads((DEMO / "images" / "digit-7.json").read_text())
    (image,) = body["inputs"]
    assert (image["name"], image["datatype"], image["shape"]) == ("image", "FP32", [1, 64])
    feed = np.array(image["data"], np.float32).reshape(image["shape"])
    assert opened("digits").run({"image": feed}, ["digit"])[0] == 7


def test_digits_has_the_tensors_that_its_documentation_names() -> None:
    session = opened("digits")
    assert session.inputs == (TensorSpec("image", DataType.FP32, (-1, 64)),)
    assert session.outputs == (
        TensorSpec("probabilities", DataType.FP32, (-1, 10)),
        TensorSpec("digit", DataType.INT64, (-1, 1)),
    )


def test_simple_adds_and_subtracts() -> None:
    first = np.arange(32, dtype=np.int32).reshape(2, 16)
    second = np.full((2, 16), 3, np.int32)
    total, difference = opened("simple").run(
        {"INPUT0": first, "INPUT1": second}, ["OUTPUT0", "OUTPUT1"]
    )
    np.testing.assert_array_equal(total, first + second)
    np.testing.assert_array_equal(difference, first - second)


def test_echo_gives_back_text() -> None:
    text = np.array([["héllo"], [""]], object)
    assert opened("echo").run({"text": text}, ["echo"])[0].tolist() == text.tolist()


@pytest.mark.parametrize("name", ["digits", "simple", "echo"])
def test_the_demo_can_be_batched(name: str) -> None:
    session = opened(name)
    verdict = prove(session, models.config_of(session), DEMO / "models" / name)
    assert verdict.independence is Independence.INDEPENDENT


@pytest.mark.parametrize("name", ["digits", "simple", "echo"])
def test_no_demo_waits_for_a_batch(name: str) -> None:
    text = (DEMO / "models" / name / "config.pbtxt").read_text()
    assert "delay" not in text
    assert "preferred" not in text
    assert "dynamic_batching { }" in text


def test_the_demo_is_small() -> None:
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) < 300 * 1024
