"""Trains the demo model `digits` and picks its test images: python scripts/train_digits.py

Data: the UCI set "Optical Recognition of Handwritten Digits" as scikit-learn ships it, 1,797 grey
images of 8x8 pixels with values 0 to 16. A quarter is held back for testing. Everything is seeded;
the files it makes are checked in under server/stoker/demo. Needs scikit-learn, onnx and pillow,
which the extra `dev` brings; none of them is needed to serve the model.

The graph divides each image by its own brightest pixel, so raw values 0 to 16 and the 0 to 255 of a
PNG are equally valid inputs; an image row never touches another.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_digits  # type: ignore[import-not-found,import-untyped,unused-ignore]
from sklearn.model_selection import train_test_split  # type: ignore[import-not-found,import-untyped,unused-ignore]
from sklearn.neural_network import MLPClassifier  # type: ignore[import-not-found,import-untyped,unused-ignore]

Array = npt.NDArray[Any]

DEMO = Path(__file__).parent.parent / "server" / "stoker" / "demo"
SEED = 0
WANTED_ACCURACY = 0.95
OPSET = 21
IR_VERSION = 10


def export(network: MLPClassifier) -> onnx.ModelProto:
    """FP32 image [batch,64] -> FP32 probabilities [batch,10], INT64 digit [batch,1]."""
    weights: dict[str, Array] = {
        "pixel_axis": np.array([1], np.int64),
        "one": np.array([1], np.float32),
    }
    nodes = [
        helper.make_node("ReduceMax", ["image", "pixel_axis"], ["brightest"], keepdims=1),
        helper.make_node("Max", ["brightest", "one"], ["scale"]),
        helper.make_node("Div", ["image", "scale"], ["layer0"]),
    ]
    depth = len(network.coefs_)
    for layer, (matrix, bias) in enumerate(
        zip(network.coefs_, network.intercepts_, strict=True), start=1
    ):
        weights[f"weight{layer}"] = matrix.astype(np.float32)
        weights[f"bias{layer}"] = bias.astype(np.float32)
        inputs = [f"layer{layer - 1}", f"weight{layer}", f"bias{layer}"]
        nodes.append(helper.make_node("Gemm", inputs, [f"sum{layer}"]))
        if layer < depth:
            nodes.append(helper.make_node("Relu", [f"sum{layer}"], [f"layer{layer}"]))
    nodes.append(helper.make_node("Softmax", [f"sum{depth}"], ["probabilities"], axis=1))
    nodes.append(helper.make_node("ArgMax", [f"sum{depth}"], ["digit"], axis=1, keepdims=1))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 64])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10]),
            helper.make_tensor_value_info("digit", TensorProto.INT64, ["batch", 1]),
        ],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="stoker",
        doc_string="Handwritten digits, trained on UCI's optdigits (CC BY 4.0).",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def split() -> tuple[Array, Array, Array, Array]:
    """FP32 images [n,64] to train with and held back, then the labels [n] of both."""
    digits = load_digits()
    images = digits.data.astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(
        images, digits.target, test_size=0.25, random_state=SEED, stratify=digits.target
    )
    return train_x, test_x, train_y, test_y


def main() -> None:
    train_x, test_x, train_y, test_y = split()
    network = MLPClassifier((64, 32), alpha=1e-3, max_iter=400, random_state=SEED)
    network.fit(train_x / train_x.max(axis=1, keepdims=True), train_y)
    accuracy = network.score(test_x / test_x.max(axis=1, keepdims=True), test_y)
    print(f"accuracy on {len(test_y)} held-back images: {accuracy:.4f}")
    if accuracy < WANTED_ACCURACY:
        raise SystemExit(f"expected an accuracy of at least {WANTED_ACCURACY}, got {accuracy:.4f}")
    path = DEMO / "models" / "digits" / "1" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(export(network).SerializeToString(deterministic=True))
    write_images(test_x, test_y)


def write_images(images: Array, labels: Array) -> None:
    """The first held-back image of each digit as `digit-N.png`, and one as a request body."""
    folder = DEMO / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for digit in range(10):
        pixels = images[np.flatnonzero(labels == digit)[0]]
        grey = np.round(pixels * 255 / 16).astype(np.uint8).reshape(8, 8)
        Image.fromarray(grey).save(folder / f"digit-{digit}.png", optimize=True)
        if digit == 7:
            image = {
                "name": "image",
                "shape": [1, 64],
                "datatype": "FP32",
                "data": pixels.astype(int).tolist(),
            }
            body = json.dumps({"inputs": [image]}, separators=(",", ":"))
            (folder / f"digit-{digit}.json").write_text(f"{body}\n")


if __name__ == "__main__":
    main()
