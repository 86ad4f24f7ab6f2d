"""Models for the checks on hardware: what a GPU is used for, small enough to be built in memory.

Inputs `x`, outputs `y`, the first dimension the symbol `batch`. Seeded, so that CPU and GPU get the
same weights.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper
from stoker.tensor import Array, DataType

from tests import models
from tests.models import Shape, tensor


def random(shape: tuple[int, ...], seed: int, scale: float = 1.0) -> Array:
    """FP32 normal values, the same in every process."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Mapping[str, Array] | None = None,
) -> onnx.ModelProto:
    """A model of opset 17, for which the CUDA provider has all of its kernels: some of opset 21 it
    lacks (microsoft/onnxruntime#26065), which is not what these models are to show."""
    model = models.build(nodes, inputs, outputs, weights)
    model.opset_import[0].version = 17
    return model


def cnn(channels: int = 32, side: int = 32, blocks: int = 4) -> onnx.ModelProto:
    """FP32 x [batch,3,side,side] -> y [batch,channels]: convolutions with normalisation, residual
    connections, pooling. Uses cuDNN."""
    nodes = [helper.make_node("Conv", ["x", "w0"], ["h0"], kernel_shape=[3, 3], pads=[1] * 4)]
    weights = {"w0": random((channels, 3, 3, 3), 1, 0.2)}
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    weights |= {"g": ones, "b": zeros, "m": zeros, "v": ones}
    for block in range(1, blocks + 1):
        weight = f"w{block}"
        weights[weight] = random((channels, channels, 3, 3), block + 1, 0.5 * channels**-0.5)
        nodes += [
            helper.make_node(
                "Conv", [f"h{block - 1}", weight], [f"c{block}"], kernel_shape=[3, 3], pads=[1] * 4
            ),
            helper.make_node("BatchNormalization", [f"c{block}", *"gbmv"], [f"n{block}"]),
            helper.make_node("Relu", [f"n{block}"], [f"r{block}"]),
            helper.make_node("Add", [f"r{block}", f"h{block - 1}"], [f"h{block}"]),
        ]
    nodes += [
        helper.make_node("GlobalAveragePool", [f"h{blocks}"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    return build(
        nodes,
        [tensor("x", DataType.FP32, ["batch", 3, side, side])],
        [tensor("y", DataType.FP32, ["batch", channels])],
        weights,
    )


def transformer(width: int = 64, heads: int = 4, blocks: int = 2) -> onnx.ModelProto:
    """FP32 x [batch,length,width] -> y of the same shape: attention and a feed-forward layer with
    normalisation. Adds zeros made from `Shape`, which ONNX Runtime keeps on the CPU."""
    size = width // heads
    weights: dict[str, Array] = {
        "split": np.array([0, 0, heads, size], np.int64),
        "join": np.array([0, 0, width], np.int64),
        "scale": np.array(size**-0.5, np.float32),
        "one": np.ones(width, np.float32),
    }
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node(
            "ConstantOfShape",
            ["shape"],
            ["nothing"],
            value=helper.make_tensor("value", TensorProto.FLOAT, [1], [0.0]),
        ),
        helper.make_node("Add", ["x", "nothing"], ["h0"]),
    ]
    for block in range(blocks):
        nodes += _attention(block, weights, width)
    nodes.append(helper.make_node("Identity", [f"h{blocks}"], ["y"]))
    shape: Shape = ["batch", "length", width]
    return build(
        nodes, [tensor("x", DataType.FP32, shape)], [tensor("y", DataType.FP32, shape)], weights
    )


def _attention(block: int, weights: dict[str, Array], width: int) -> list[onnx.NodeProto]:
    def name(part: str) -> str:
        return f"{part}{block}"

    nodes = []
    for index, part in enumerate("qkv"):
        weights[name(f"w{part}")] = random((width, width), 10 * block + index, width**-0.5)
        order = [0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]
        nodes += [
            helper.make_node("MatMul", [name("h"), name(f"w{part}")], [name(part)]),
            helper.make_node("Reshape", [name(part), "split"], [name(f"{part}s")]),
            helper.make_node("Transpose", [name(f"{part}s")], [name(f"{part}t")], perm=order),
        ]
    weights[name("up")] = random((width, 2 * width), 10 * block + 5, width**-0.5)
    weights[name("down")] = random((2 * width, width), 10 * block + 6, width**-0.5)
    return [
        *nodes,
        helper.make_node("MatMul", [name("qt"), name("kt")], [name("raw")]),
        helper.make_node("Mul", [name("raw"), "scale"], [name("scores")]),
        helper.make_node("Softmax", [name("scores")], [name("soft")], axis=-1),
        helper.make_node("MatMul", [name("soft"), name("vt")], [name("heads")]),
        helper.make_node("Transpose", [name("heads")], [name("back")], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", [name("back"), "join"], [name("joined")]),
        helper.make_node("Add", [name("joined"), name("h")], [name("sum")]),
        helper.make_node("LayerNormalization", [name("sum"), "one"], [name("norm")], axis=-1),
        helper.make_node("MatMul", [name("norm"), name("up")], [name("wide")]),
        helper.make_node("Relu", [name("wide")], [name("relu")]),
        helper.make_node("MatMul", [name("relu"), name("down")], [name("narrow")]),
        helper.make_node("Add", [name("narrow"), name("norm")], [f"h{block + 1}"]),
    ]


def bfloat_double(width: int = 64) -> onnx.ModelProto:
    """BF16 x [batch,width] -> y = 2x through a matrix: exact in every arithmetic."""
    eye = helper.make_tensor(
        "w", TensorProto.BFLOAT16, [width, width], np.eye(width, dtype=np.float32).ravel().tolist()
    )
    model = build(
        [
            helper.make_node("Add", ["x", "x"], ["s"]),
            helper.make_node("MatMul", ["s", "w"], ["y"]),
        ],
        [tensor("x", DataType.BF16, ["batch", width])],
        [tensor("y", DataType.BF16, ["batch", width])],
    )
    model.graph.initializer.append(eye)
    return model


def heavy(mebibytes: int = 256) -> onnx.ModelProto:
    """FP32 x [batch,1024] -> y [batch,1024] through weights of so many MiB."""
    depth = mebibytes // 4
    nodes = []
    weights = {}
    for layer in range(depth):
        weights[f"w{layer}"] = random((1024, 1024), layer, 1024**-0.5)
        given = "x" if layer == 0 else f"h{layer - 1}"
        made = "y" if layer == depth - 1 else f"h{layer}"
        nodes.append(helper.make_node("MatMul", [given, f"w{layer}"], [made]))
    return build(
        nodes,
        [tensor("x", DataType.FP32, ["batch", 1024])],
        [tensor("y", DataType.FP32, ["batch", 1024])],
        weights,
    )


def launches(width: int = 64, depth: int = 64) -> onnx.ModelProto:
    """FP32 x [batch,width] -> y: many small kernels, whose launches cost more than their work."""
    nodes, at = [], "x"
    for layer in range(depth):
        nodes.append(helper.make_node("MatMul", [at, "w"], [f"m{layer}"]))
        at = "y" if layer == depth - 1 else f"t{layer}"
        nodes.append(helper.make_node("Tanh", [f"m{layer}"], [at]))
    return build(
        nodes,
        [tensor("x", DataType.FP32, ["batch", width])],
        [tensor("y", DataType.FP32, ["batch", width])],
        {"w": random((width, width), 6, width**-0.5)},
    )


def increment(width: int | str = "width") -> onnx.ModelProto:
    """FP32 x [batch,width] -> y = x + 1: one kernel, exact. A text leaves the width open."""
    return build(
        [helper.make_node("Add", ["x", "one"], ["y"])],
        [tensor("x", DataType.FP32, ["batch", width])],
        [tensor("y", DataType.FP32, ["batch", width])],
        {"one": np.ones(1, np.float32)},
    )
