"""Models for the CUDA provider without a GPU: what matters is where their nodes go."""

import numpy as np
import onnx
from onnx import helper
from stoker.tensor import DataType

from tests.models import build, tensor

FP32, INT64, BYTES = DataType.FP32, DataType.INT64, DataType.BYTES


def relu() -> onnx.ModelProto:
    """One node that a GPU computes."""
    return build(
        [helper.make_node("Relu", ["x"], ["y"])],
        [tensor("x", FP32, ("batch", 4))],
        [tensor("y", FP32, ("batch", 4))],
    )


def passed() -> onnx.ModelProto:
    """Two copies on the device: y = x without any kernel."""
    return build(
        [helper.make_node("Identity", ["x"], ["m"]), helper.make_node("Identity", ["m"], ["y"])],
        [tensor("x", FP32, ("batch", 4))],
        [tensor("y", FP32, ("batch", 4))],
    )


def product() -> onnx.ModelProto:
    """One product of matrices: cuBLAS computes it."""
    return build(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [tensor("x", FP32, ("batch", 4))],
        [tensor("y", FP32, ("batch", 4))],
        {"w": np.eye(4, dtype=np.float32)},
    )


def convolution() -> onnx.ModelProto:
    """One convolution: cuDNN computes it."""
    return build(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        [tensor("x", FP32, ("batch", 1, 4, 4))],
        [tensor("y", FP32, ("batch", 1, 2, 2))],
        {"w": np.ones((1, 1, 3, 3), np.float32)},
    )


def partly() -> onnx.ModelProto:
    """Relu, Unique, Relu: no GPU computes Unique, so values go to the CPU and back."""
    return build(
        [
            helper.make_node("Relu", ["x"], ["a"]),
            helper.make_node("Unique", ["a"], ["u"]),
            helper.make_node("Relu", ["u"], ["y"]),
        ],
        [tensor("x", FP32, ("batch", 4))],
        [tensor("y", FP32, (None,))],
    )


def never() -> onnx.ModelProto:
    """One node that no GPU computes."""
    return build(
        [helper.make_node("Unique", ["x"], ["y"])],
        [tensor("x", FP32, ("batch", 4))],
        [tensor("y", FP32, (None,))],
    )


def text() -> onnx.ModelProto:
    """Text in, text out."""
    return build(
        [helper.make_node("Identity", ["x"], ["y"])],
        [tensor("x", BYTES, ("batch", 4))],
        [tensor("y", BYTES, ("batch", 4))],
    )


def copy_twice(datatype: DataType) -> onnx.ModelProto:
    """y = x [batch,4] by nodes that copy and need no kernel."""
    return build(
        [
            helper.make_node("Identity", ["x"], ["a"]),
            helper.make_node("Reshape", ["a", "shape"], ["y"]),
        ],
        [tensor("x", datatype, ("batch", 4))],
        [tensor("y", datatype, ("batch", 4))],
        {"shape": np.array([-1, 4], np.int64)},
    )


WEIGHTY_BYTES = 1024 * 1024 * 4


def weighty() -> onnx.ModelProto:
    """y = relu(x w) with 4 MiB of weights, x and y [batch,1024]."""
    return build(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"]),
            helper.make_node("Relu", ["a"], ["y"]),
        ],
        [tensor("x", FP32, ("batch", 1024))],
        [tensor("y", FP32, ("batch", 1024))],
        {"w": np.ones((1024, 1024), np.float32)},
    )
