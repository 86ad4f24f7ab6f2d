"""Prints an answer: as text for people, as JSON for scripts, as a .npy file for NumPy."""

import io
import json
from typing import Literal, TextIO, TypeAlias

import numpy as np

from stoker.client.connection import ClientError
from stoker.request import InferResponse
from stoker.tensor import Array, DataType, Tensor

Format: TypeAlias = Literal["text", "json", "npy"]


def print_response(response: InferResponse, output_format: Format, stream: TextIO) -> None:
    """Writes the outputs. Raises ClientError for npy with several outputs, or to a terminal."""
    if output_format == "npy":
        _write_npy(response, stream)
    elif output_format == "json":
        json.dump(
            {
                "model_name": response.model,
                "model_version": response.version,
                "outputs": [
                    {
                        "name": each.name,
                        "datatype": each.datatype.wire,
                        "shape": each.shape,
                        "data": values(each).tolist(),
                    }
                    for each in response.outputs
                ],
            },
            stream,
        )
        stream.write("\n")
    else:
        for each in response.outputs:
            shape = "x".join(map(str, each.shape)) or "scalar"
            text = np.array2string(values(each), separator=", ", max_line_width=100)
            stream.write(f"{each.name} {each.datatype.wire} {shape}\n{text}\n")


def values(tensor: Tensor) -> Array:
    """The tensor as numbers or text: BF16, which NumPy lacks, as FP32."""
    array = tensor.array()
    if tensor.datatype is DataType.BF16:
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return array


def _write_npy(response: InferResponse, stream: TextIO) -> None:
    if len(response.outputs) != 1:
        names = ", ".join(each.name for each in response.outputs)
        raise ClientError(f"--format npy writes one output; choose one with --output: {names}")
    if stream.isatty():
        raise ClientError("--format npy writes bytes; redirect them into a file")
    array = values(response.outputs[0])
    if array.dtype.hasobject:
        array = array.astype(np.str_)
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    stream.buffer.write(buffer.getvalue())
