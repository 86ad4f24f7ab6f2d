"""Tiny ONNX models for tests, built in memory, and Triton repositories laid out from them.

Each function gives a fresh `onnx.ModelProto`; its docstring states inputs, outputs and what it
computes. Unless said otherwise the input is `x`, the output `y`, and the first dimension is the
symbol `batch`. Weights are seeded, so a model is the same in every process. Run `check` of
`onnx` is left out on purpose where a model is meant to be wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from stoker.model import ModelConfig, TensorConfig
from stoker.runtime.onnx import OnnxRuntime
from stoker.runtime.session import Placement, Session
from stoker.tensor import Array, DataType

OPSET = 21
IR_VERSION = 10

Dim = int | str | None
Shape = Sequence[Dim]


@dataclass(frozen=True)
class ModelEntry:
    """One model of a repository: its ONNX file, `config.pbtxt` text and version folders."""

    model: onnx.ModelProto | bytes
    """Bytes are written as they are: for files that are not models."""
    config: str | None = None
    """None: no `config.pbtxt`."""
    versions: tuple[int | str, ...] = (1,)
    filename: str = "model.onnx"
    files: Mapping[str, bytes] | None = None
    """Further files by path inside the model's folder: labels, warm-up data, weights."""


def write_repository(
    folder: Path, models: Mapping[str, onnx.ModelProto | bytes | ModelEntry]
) -> Path:
    """Writes `<folder>/<name>/<version>/model.onnx` and `config.pbtxt`; gives `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, given in models.items():
        entry = given if isinstance(given, ModelEntry) else ModelEntry(given)
        home = folder / name
        home.mkdir(parents=True, exist_ok=True)
        if entry.config is not None:
            (home / "config.pbtxt").write_text(entry.config)
        for version in entry.versions:
            write_model(home / str(version) / entry.filename, entry.model)
        for path, content in (entry.files or {}).items():
            target = home / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    return folder


def write_model(path: Path, model: onnx.ModelProto | bytes) -> Path:
    """Writes one model file, and its folder where needed; gives the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Mapping[str, Array] | None = None,
    *,
    domains: Sequence[tuple[str, int]] = (),
) -> onnx.ModelProto:
    """A model of these nodes; `weights` become initialisers by name."""
    initializers = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), initializers)
    opsets = [helper.make_opsetid("", OPSET)]
    opsets += [helper.make_opsetid(domain, version) for domain, version in domains]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def tensor(name: str, datatype: DataType, shape: Shape | None) -> onnx.ValueInfoProto:
    """A graph input or output. A dimension is a size, a symbol, or None for one without name; a
    shape of None leaves the rank undeclared."""
    return helper.make_tensor_value_info(name, datatype.onnx_number, shape)


def config_of(session: Session, max_batch_size: int = 8, name: str = "m") -> ModelConfig:
    """A complete configuration of an opened model, as if its file had none; with 0 the model does
    not batch."""
    first = 1 if max_batch_size else 0
    inputs = [TensorConfig(each.name, each.datatype, each.shape[first:]) for each in session.inputs]
    outputs = [
        TensorConfig(each.name, each.datatype, each.shape[first:]) for each in session.outputs
    ]
    return ModelConfig(name, max_batch_size, tuple(inputs), tuple(outputs), None)


def open_on_cpu(folder: Path, model: onnx.ModelProto | bytes) -> Session:
    """Opens a model with the real runtime, its file written to `folder`."""
    path = write_model(folder / "model.onnx", model)
    empty = ModelConfig("m", 0, (), (), None)
    return OnnxRuntime("cpu").open(path, empty, Placement("cpu", 1, 1))


def _random(shape: tuple[int, ...], seed: int = 7, scale: float = 1.0) -> Array:
    values = np.random.default_rng(seed).standard_normal(shape) * scale
    return values.astype(np.float32)


# Exact arithmetic


def simple() -> onnx.ModelProto:
    """Triton's `simple`: INT32 INPUT0, INPUT1 [batch,16] -> OUTPUT0 sum, OUTPUT1 difference."""
    return build(
        [
            helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
            helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
        ],
        [tensor(name, DataType.INT32, ["batch", 16]) for name in ("INPUT0", "INPUT1")],
        [tensor(name, DataType.INT32, ["batch", 16]) for name in ("OUTPUT0", "OUTPUT1")],
    )


SIMPLE_CONFIG = """\
name: "simple"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [
  { name: "INPUT0" data_type: TYPE_INT32 dims: [ 16 ] },
  { name: "INPUT1" data_type: TYPE_INT32 dims: [ 16 ] }
]
output [
  { name: "OUTPUT0" data_type: TYPE_INT32 dims: [ 16 ] },
  { name: "OUTPUT1" data_type: TYPE_INT32 dims: [ 16 ] }
]
dynamic_batching { }
"""


def identity(
    datatype: DataType = DataType.FP32, shape: Shape | None = ("batch", 4)
) -> onnx.ModelProto:
    """y = x, of any datatype and declared shape (`[]`: a scalar, None: rank not declared)."""
    return build(
        [helper.make_node("Identity", ["x"], ["y"])],
        [tensor("x", datatype, shape)],
        [tensor("y", datatype, shape)],
    )


def double(shape: Shape = ("batch", 4)) -> onnx.ModelProto:
    """FP32 y = 2x, what the fake runtime computes by default."""
    return build(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        [tensor("x", DataType.FP32, shape)],
        [tensor("y", DataType.FP32, shape)],
    )


def scaled(factor: float, shape: Shape = ("batch", 4)) -> onnx.ModelProto:
    """FP32 y = factor * x."""
    return build(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        [tensor("x", DataType.FP32, shape)],
        [tensor("y", DataType.FP32, shape)],
        {"factor": np.array(factor, np.float32)},
    )


def scalar() -> onnx.ModelProto:
    """FP32 x [] -> y [] = 2x: no dimension at all."""
    return double(())


def dynamic() -> onnx.ModelProto:
    """FP32 y = 2x with x [batch,length]: rows of any length, which may be 0."""
    return double(("batch", "length"))


def fixed_batch() -> onnx.ModelProto:
    """FP32 y = 2x with x [2,4]: the first dimension is not variable."""
    return double((2, 4))


def unranked() -> onnx.ModelProto:
    """FP32 y = x where neither declares a rank."""
    return identity(DataType.FP32, None)


def row_sum() -> onnx.ModelProto:
    """FP32 x [batch,length] -> y [batch]: rank of the output is one less."""
    return build(
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)],
        [tensor("x", DataType.FP32, ["batch", "length"])],
        [tensor("y", DataType.FP32, ["batch"])],
        {"axes": np.array([1], np.int64)},
    )


def overridable() -> onnx.ModelProto:
    """FP32 y = x * scale [batch,4]; `scale` [4] is an input with a default of 3."""
    return build(
        [helper.make_node("Mul", ["x", "scale"], ["y"])],
        [tensor("x", DataType.FP32, ["batch", 4]), tensor("scale", DataType.FP32, [4])],
        [tensor("y", DataType.FP32, ["batch", 4])],
        {"scale": np.full(4, 3, np.float32)},
    )


def label() -> onnx.ModelProto:
    """FP32 scores [batch,5] -> INT64 label [batch,1]: the index of the greatest."""
    return build(
        [helper.make_node("ArgMax", ["scores"], ["label"], axis=1)],
        [tensor("scores", DataType.FP32, ["batch", 5])],
        [tensor("label", DataType.INT64, ["batch", 1])],
    )


# Text


def string_identity() -> onnx.ModelProto:
    """BYTES y = x [batch,1]."""
    return identity(DataType.BYTES, ("batch", 1))


def string_concat() -> onnx.ModelProto:
    """BYTES a, b [batch,1] -> y [batch,1]: each text of b behind that of a."""
    return build(
        [helper.make_node("StringConcat", ["a", "b"], ["y"])],
        [tensor(name, DataType.BYTES, ["batch", 1]) for name in ("a", "b")],
        [tensor("y", DataType.BYTES, ["batch", 1])],
    )


# Networks whose rows do not touch each other


def mlp(width: int = 4, hidden: int = 8, classes: int = 3) -> onnx.ModelProto:
    """FP32 x [batch,width] -> y [batch,classes]: two layers and a softmax within each row."""
    return build(
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["h1"]),
            helper.make_node("Relu", ["h1"], ["h2"]),
            helper.make_node("Gemm", ["h2", "w2", "b2"], ["h3"]),
            helper.make_node("Softmax", ["h3"], ["y"], axis=1),
        ],
        [tensor("x", DataType.FP32, ["batch", width])],
        [tensor("y", DataType.FP32, ["batch", classes])],
        {
            "w1": _random((width, hidden), 1),
            "b1": _random((hidden,), 2),
            "w2": _random((hidden, classes), 3),
            "b2": _random((classes,), 4),
        },
    )


def conv(channels: int = 3, side: int = 8) -> onnx.ModelProto:
    """FP32 x [batch,channels,side,side] -> y [batch,4]: a convolution, batch normalisation with
    stored moments, and a global average."""
    return build(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"]),
            helper.make_node("Relu", ["n"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["p"]),
            helper.make_node("Flatten", ["p"], ["y"]),
        ],
        [tensor("x", DataType.FP32, ["batch", channels, side, side])],
        [tensor("y", DataType.FP32, ["batch", 4])],
        {
            "w": _random((4, channels, 3, 3), 5),
            "g": np.ones(4, np.float32),
            "b": np.zeros(4, np.float32),
            "m": np.zeros(4, np.float32),
            "v": np.ones(4, np.float32),
        },
    )


def slow(width: int = 256, depth: int = 8) -> onnx.ModelProto:
    """FP32 x [batch,width] -> y [batch,width] through `depth` square matrices: a run that takes
    work, about 2 * depth * width^2 operations a row."""
    nodes, at = [], "x"
    for layer in range(depth):
        nodes.append(helper.make_node("MatMul", [at, "w"], [f"m{layer}"]))
        at = "y" if layer == depth - 1 else f"t{layer}"
        nodes.append(helper.make_node("Tanh", [f"m{layer}"], [at]))
    return build(
        nodes,
        [tensor("x", DataType.FP32, ["batch", width])],
        [tensor("y", DataType.FP32, ["batch", width])],
        {"w": _random((width, width), 6, scale=width**-0.5)},
    )


def laborious(width: int = 1024, depth: int = 16) -> onnx.ModelProto:
    """FP32 x [batch,4] -> y = 2x through `depth` unit matrices: exact, and a run that takes work,
    about 2 * depth * width^2 operations a row."""
    widen = np.eye(4, width, dtype=np.float32)
    nodes = [helper.make_node("MatMul", ["x", "widen"], ["m0"])]
    nodes += [
        helper.make_node("MatMul", [f"m{layer}", "unit"], [f"m{layer + 1}"])
        for layer in range(depth)
    ]
    nodes.append(helper.make_node("MatMul", [f"m{depth}", "narrow"], ["y"]))
    return build(
        nodes,
        [tensor("x", DataType.FP32, ["batch", 4])],
        [tensor("y", DataType.FP32, ["batch", 4])],
        {"widen": widen, "unit": np.eye(width, dtype=np.float32), "narrow": 2 * widen.T},
    )


def half_mlp(datatype: DataType = DataType.FP16, width: int = 16) -> onnx.ModelProto:
    """FP16 x [batch,width] -> y [batch,width]: one matrix in half precision."""
    return build(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [tensor("x", datatype, ["batch", width])],
        [tensor("y", datatype, ["batch", width])],
        {"w": _random((width, width), 8).astype(np.float16)},
    )


def embedding(vocabulary: int = 10, width: int = 4) -> onnx.ModelProto:
    """INT64 ids [batch,length] -> FP32 y [batch,width]: mean of the looked-up rows. An id outside
    of -vocabulary..vocabulary-1 fails the whole run."""
    return build(
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"]),
            helper.make_node("ReduceMean", ["rows", "axes"], ["y"], keepdims=0),
        ],
        [tensor("ids", DataType.INT64, ["batch", "length"])],
        [tensor("y", DataType.FP32, ["batch", width])],
        {"table": _random((vocabulary, width), 9), "axes": np.array([1], np.int64)},
    )


def fails_on_data() -> onnx.ModelProto:
    """INT64 x [batch,1] -> FP32 y [batch,1] = 10 * (x + 1) for x in 0..3; any other value of one
    row (such as 99) fails the run of its whole batch."""
    return build(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        [tensor("x", DataType.INT64, ["batch", 1])],
        [tensor("y", DataType.FP32, ["batch", 1])],
        {"table": np.array([10, 20, 30, 40], np.float32)},
    )


# Networks that mix rows, or whose answers vary


def softmax_over_rows() -> onnx.ModelProto:
    """FP32 x [batch,4] -> y [batch,4]: softmax down the batch, so rows depend on each other."""
    return build(
        [helper.make_node("Softmax", ["x"], ["y"], axis=0)],
        [tensor("x", DataType.FP32, ["batch", 4])],
        [tensor("y", DataType.FP32, ["batch", 4])],
    )


def mean_over_rows() -> onnx.ModelProto:
    """FP32 x [batch,4] -> y [batch,4] = x - mean over the batch: symmetric in the other rows."""
    return build(
        [
            helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=1),
            helper.make_node("Sub", ["x", "m"], ["y"]),
        ],
        [tensor("x", DataType.FP32, ["batch", 4])],
        [tensor("y", DataType.FP32, ["batch", 4])],
        {"axes": np.array([0], np.int64)},
    )


def batch_norm_training() -> onnx.ModelProto:
    """FP32 x [batch,4] -> y [batch,4] normalised by the moments of the batch itself."""
    return build(
        [
            helper.make_node(
                "BatchNormalization",
                ["x", "g", "b", "m", "v"],
                ["y", "new_mean", "new_var"],
                training_mode=1,
            )
        ],
        [tensor("x", DataType.FP32, ["batch", 4])],
        [tensor("y", DataType.FP32, ["batch", 4])],
        {
            "g": np.ones(4, np.float32),
            "b": np.zeros(4, np.float32),
            "m": np.zeros(4, np.float32),
            "v": np.ones(4, np.float32),
        },
    )


def previous_row() -> onnx.ModelProto:
    """FP32 x [batch,4] -> y [batch,4]: running sum down the batch, so order matters."""
    return build(
        [helper.make_node("CumSum", ["x", "axis"], ["y"])],
        [tensor("x", DataType.FP32, ["batch", 4])],
        [tensor("y", DataType.FP32, ["batch", 4])],
        {"axis": np.array(0, np.int64)},
    )


def dynamic_quantized(width: int = 16, classes: int = 4) -> onnx.ModelProto:
    """FP32 x [batch,width] -> y [batch,classes]: 8-bit scales taken from the whole batch."""
    weights = np.random.default_rng(11).integers(-100, 100, (width, classes)).astype(np.int8)
    return build(
        [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
            helper.make_node("MatMulInteger", ["q", "w", "zero", "w_zero"], ["i"]),
            helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["scale", "w_scale"], ["s"]),
            helper.make_node("Mul", ["f", "s"], ["y"]),
        ],
        [tensor("x", DataType.FP32, ["batch", width])],
        [tensor("y", DataType.FP32, ["batch", classes])],
        {
            "w": weights,
            "w_zero": np.array(0, np.int8),
            "w_scale": np.array(0.01, np.float32),
        },
    )


def noisy() -> onnx.ModelProto:
    """FP32 x [batch,4] -> y = x plus normal noise: two runs of the same row differ."""
    return build(
        [
            helper.make_node("RandomNormalLike", ["x"], ["n"]),
            helper.make_node("Add", ["x", "n"], ["y"]),
        ],
        [tensor("x", DataType.FP32, ["batch", 4])],
        [tensor("y", DataType.FP32, ["batch", 4])],
    )


def dropout() -> onnx.ModelProto:
    """FP32 x [batch,16] -> y: dropout in training mode, exported by mistake."""
    return build(
        [helper.make_node("Dropout", ["x", "ratio", "training"], ["y"])],
        [tensor("x", DataType.FP32, ["batch", 16])],
        [tensor("y", DataType.FP32, ["batch", 16])],
        {"ratio": np.array(0.5, np.float32), "training": np.array(True)},
    )


def counting() -> onnx.ModelProto:
    """INT64 n [1] -> FP32 y [1]: counts to n one by one, some 2 us each. A run of any length."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["goes"]),
            helper.make_node("Add", ["a", "one"], ["b"]),
        ],
        "body",
        [
            tensor("i", DataType.INT64, []),
            tensor("go", DataType.BOOL, []),
            tensor("a", DataType.FP32, [1]),
        ],
        [tensor("goes", DataType.BOOL, []), tensor("b", DataType.FP32, [1])],
        [numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    return build(
        [
            helper.make_node("Squeeze", ["n"], ["times"]),
            helper.make_node("Loop", ["times", "", "zero"], ["y"], body=body),
        ],
        [tensor("n", DataType.INT64, [1])],
        [tensor("y", DataType.FP32, [1])],
        {"zero": np.zeros(1, np.float32)},
    )


def passed_on(shape: Shape = ("batch", 16384)) -> onnx.ModelProto:
    """FP32 x -> y = 2x and x itself: an output that is an input, as some exporters leave it."""
    return build(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        [tensor("x", DataType.FP32, shape)],
        [tensor("y", DataType.FP32, shape), tensor("x", DataType.FP32, shape)],
    )


# Models that break a promise, or that cannot be served


def extra_dimension(width: int = 16384) -> onnx.ModelProto:
    """FP32 x [batch,width] -> y = x, declared the same but really [batch,1,width]."""
    return build(
        [helper.make_node("Unsqueeze", ["x", "axes"], ["y"])],
        [tensor("x", DataType.FP32, ["batch", width])],
        [tensor("y", DataType.FP32, ["batch", width])],
        {"axes": np.array([1], np.int64)},
    )


def wrong_output_rank() -> onnx.ModelProto:
    """FP32 x [batch,4] -> y, declared [batch,4] but really [4]: the sum over the batch."""
    return build(
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)],
        [tensor("x", DataType.FP32, ["batch", 4])],
        [tensor("y", DataType.FP32, ["batch", 4])],
        {"axes": np.array([0], np.int64)},
    )


def wrong_output_rows() -> onnx.ModelProto:
    """FP32 x [batch,4] -> y [rows,4] with twice the rows of x."""
    return build(
        [helper.make_node("Concat", ["x", "x"], ["y"], axis=0)],
        [tensor("x", DataType.FP32, ["batch", 4])],
        [tensor("y", DataType.FP32, ["rows", 4])],
    )


def sequence_output() -> onnx.ModelProto:
    """FP32 x [batch,4] -> y, a sequence of tensors: not servable."""
    sequence = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    return build(
        [helper.make_node("SplitToSequence", ["x"], ["y"], axis=0)],
        [tensor("x", DataType.FP32, ["batch", 4])],
        [sequence],
    )


def map_output() -> onnx.ModelProto:
    """FP32 x [batch,3] -> y, a sequence of maps as scikit-learn exports them: not servable."""
    key_value = helper.make_map_type_proto(
        TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    )
    output = helper.make_value_info("y", helper.make_sequence_type_proto(key_value))
    return build(
        [
            helper.make_node(
                "ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2]
            )
        ],
        [tensor("x", DataType.FP32, ["batch", 3])],
        [output],
        domains=[("ai.onnx.ml", 3)],
    )


def float8_input() -> onnx.ModelProto:
    """x of an 8-bit float type [batch,4] -> FP32 y: no datatype of the protocol fits."""
    return build(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT8E4M3FN, ["batch", 4])],
        [tensor("y", DataType.FP32, ["batch", 4])],
    )


def unknown_operator() -> onnx.ModelProto:
    """A node that no runtime has: opening it fails."""
    return build(
        [helper.make_node("NoSuchOperator", ["x"], ["y"], domain="example.org")],
        [tensor("x", DataType.FP32, ["batch", 4])],
        [tensor("y", DataType.FP32, ["batch", 4])],
        domains=[("example.org", 1)],
    )


NOT_A_MODEL = b"this is not an ONNX model"


# Weights beside the model


def external(location: str = "weights.bin", length: int = 16) -> onnx.ModelProto:
    """FP32 y = x + w [batch,4] with `w` of 4 floats in the file `location`; `EXTERNAL_WEIGHTS`
    are its bytes (1, 2, 3, 4). Any location can be named, also one outside of the folder."""
    model = build(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        [tensor("x", DataType.FP32, ["batch", 4])],
        [tensor("y", DataType.FP32, ["batch", 4])],
        {"w": np.zeros(4, np.float32)},
    )
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    return model


EXTERNAL_WEIGHTS = np.array([1, 2, 3, 4], np.float32).tobytes()
