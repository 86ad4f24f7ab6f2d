"""Writes the demo repository's models `simple` and `echo`: python scripts/make_demo.py

The files it makes are checked in under server/stoker/demo/models, so that the package serves
something without any download. `digits` comes from scripts/train_digits.py. Needs `onnx`.
"""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

MODELS = Path(__file__).parent.parent / "server" / "stoker" / "demo" / "models"
OPSET = 21
IR_VERSION = 10


def write(name: str, graph: onnx.GraphProto, doc: str) -> None:
    """Checks one model and writes it as version 1 of `name`."""
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="stoker",
        doc_string=doc,
    )
    onnx.checker.check_model(model, full_check=True)
    path = MODELS / name / "1" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
    print(f"{path.relative_to(MODELS)}: {path.stat().st_size} bytes")


def simple() -> onnx.GraphProto:
    """INT32 INPUT0, INPUT1 [batch,16] -> OUTPUT0 their sum, OUTPUT1 their difference."""
    shape: list[str | int | None] = ["batch", 16]
    return helper.make_graph(
        [
            helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
            helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
        ],
        "simple",
        [
            helper.make_tensor_value_info(name, TensorProto.INT32, shape)
            for name in ("INPUT0", "INPUT1")
        ],
        [
            helper.make_tensor_value_info(name, TensorProto.INT32, shape)
            for name in ("OUTPUT0", "OUTPUT1")
        ],
    )


def echo() -> onnx.GraphProto:
    """BYTES text [batch,1] -> BYTES echo [batch,1], the same."""
    return helper.make_graph(
        [helper.make_node("Identity", ["text"], ["echo"])],
        "echo",
        [helper.make_tensor_value_info("text", TensorProto.STRING, ["batch", 1])],
        [helper.make_tensor_value_info("echo", TensorProto.STRING, ["batch", 1])],
    )


if __name__ == "__main__":
    write("simple", simple(), "Sum and difference of two rows of 16 integers.")
    write("echo", echo(), "Gives back the text it gets.")
