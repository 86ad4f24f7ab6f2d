"""The networks that benchmarks serve, their inputs, and what bare ONNX Runtime makes of them.

Not a benchmark itself. Weights and inputs are seeded, so that every run and every server sees the
same numbers. Sizes are chosen to separate costs: `tiny` computes next to nothing, `mlp` a little,
`img` moves 588 KiB a request and computes hardly more than a sum, `resnetlike` computes a lot.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]  # it ships no types
from onnx import helper
from stoker.tensor import Array, DataType

from tests import models
from tests.models import build, tensor


@dataclass(frozen=True)
class Network:
    """A model by name, with the shape of one row of its input `x`. Its output is `y`."""

    name: str
    make: Callable[[], onnx.ModelProto]
    item: tuple[int, ...]
    outputs: int

    def rows(self, count: int = 1, seed: int = 1) -> Array:
        """FP32 [count, *item], seeded."""
        shape = (count, *self.item)
        return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tiny() -> onnx.ModelProto:
    """A 16-32-4 network, FP32 x [N,16] -> y [N,4]: next to no computing."""
    return models.mlp(width=16, hidden=32, classes=4)


def mlp() -> onnx.ModelProto:
    """A 256-1024-1024-10 network, FP32 x [N,256] -> y [N,10]."""
    widths = (256, 1024, 1024, 10)
    nodes, weights, at = [], {}, "x"
    for layer, (width, after) in enumerate(pairwise(widths)):
        weights[f"w{layer}"] = _random((width, after), layer, scale=width**-0.5)
        weights[f"b{layer}"] = _random((after,), 10 + layer)
        is_last = layer == len(widths) - 2
        out = "y" if is_last else f"g{layer}"
        nodes.append(helper.make_node("Gemm", [at, f"w{layer}", f"b{layer}"], [out]))
        if not is_last:
            at = f"r{layer}"
            nodes.append(helper.make_node("Relu", [out], [at]))
    return build(
        nodes,
        [tensor("x", DataType.FP32, ["batch", widths[0]])],
        [tensor("y", DataType.FP32, ["batch", widths[-1]])],
        weights,
    )


def img(side: int = 224) -> onnx.ModelProto:
    """FP32 x [N,3,side,side] -> y [N,3]: the mean of each channel. 588 KiB a row at 224."""
    return build(
        [
            helper.make_node("GlobalAveragePool", ["x"], ["p"]),
            helper.make_node("Flatten", ["p"], ["y"]),
        ],
        [tensor("x", DataType.FP32, ["batch", 3, side, side])],
        [tensor("y", DataType.FP32, ["batch", 3])],
    )


def resnetlike(side: int = 224) -> onnx.ModelProto:
    """FP32 x [N,3,side,side] -> y [N,1000] in the shape of ResNet-18, with random weights.

    A 7 x 7 stem and four stages of two basic blocks, 64 to 512 channels. Batch normalisation is
    folded into the convolutions, as exporters for inference do.
    """
    graph = _Convolutions()
    at = graph.convolution("x", 3, 64, kernel=7, stride=2)
    at = graph.add(
        helper.make_node(
            "MaxPool", [at], ["pooled"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
        )
    )
    channels = 64
    for width in (64, 128, 256, 512):
        for block in range(2):
            stride = 2 if block == 0 and width > 64 else 1
            at = graph.basic_block(at, channels, width, stride)
            channels = width
    graph.add(helper.make_node("GlobalAveragePool", [at], ["averaged"]))
    graph.add(helper.make_node("Flatten", ["averaged"], ["flat"]))
    graph.add(helper.make_node("Gemm", ["flat", "w_out", "b_out"], ["y"]))
    graph.weights["w_out"] = _random((channels, 1000), 98, scale=channels**-0.5)
    graph.weights["b_out"] = _random((1000,), 99)
    return build(
        graph.nodes,
        [tensor("x", DataType.FP32, ["batch", 3, side, side])],
        [tensor("y", DataType.FP32, ["batch", 1000])],
        graph.weights,
    )


class _Convolutions:
    """Nodes and weights of a convolutional network as it grows."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Array] = {}

    def add(self, node: onnx.NodeProto) -> str:
        """Appends a node; gives the name of its output."""
        self.nodes.append(node)
        return node.output[0]

    def convolution(
        self, at: str, channels: int, width: int, *, kernel: int, stride: int, relu: bool = True
    ) -> str:
        """A convolution with bias that keeps the size but for its stride, and a Relu."""
        number = len(self.weights)
        scale = (2 / (channels * kernel * kernel)) ** 0.5
        self.weights[f"w{number}"] = _random((width, channels, kernel, kernel), number, scale=scale)
        self.weights[f"b{number}"] = np.zeros(width, np.float32)
        at = self.add(
            helper.make_node(
                "Conv", [at, f"w{number}", f"b{number}"], [f"c{number}"],
                kernel_shape=[kernel, kernel], strides=[stride, stride], pads=[kernel // 2] * 4,
            )
        )  # fmt: skip
        return self.add(helper.make_node("Relu", [at], [f"a{number}"])) if relu else at

    def basic_block(self, at: str, channels: int, width: int, stride: int) -> str:
        """Two 3 x 3 convolutions beside a shortcut."""
        inner = self.convolution(at, channels, width, kernel=3, stride=stride)
        inner = self.convolution(inner, width, width, kernel=3, stride=1, relu=False)
        if channels != width:
            at = self.convolution(at, channels, width, kernel=1, stride=stride, relu=False)
        number = len(self.nodes)
        summed = self.add(helper.make_node("Add", [inner, at], [f"s{number}"]))
        return self.add(helper.make_node("Relu", [summed], [f"o{number}"]))


def _random(shape: tuple[int, ...], seed: int, scale: float = 0.1) -> Array:
    values = np.random.default_rng(seed).standard_normal(shape) * scale
    return values.astype(np.float32)


TINY = Network("tiny", tiny, (16,), 4)
MLP = Network("mlp", mlp, (256,), 10)
IMG = Network("img", img, (3, 224, 224), 3)
RESNETLIKE = Network("resnetlike", resnetlike, (3, 224, 224), 1000)
NETWORKS = {each.name: each for each in (TINY, MLP, IMG, RESNETLIKE)}


def session(model: Path | bytes, threads: int = 1) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU whose threads do not spin."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def bare_runs(opened: onnxruntime.InferenceSession, x: Array, seconds: float) -> list[float]:
    """Seconds that each run of `x` took, one after another, at least three."""
    feeds = {"x": x}
    times: list[float] = []
    opened.run(["y"], feeds)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        began = time.perf_counter()
        opened.run(["y"], feeds)
        times.append(time.perf_counter() - began)
    return times


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Runs this thread on one core for a while: what is compared with a server runs on its core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
