"""`stoker infer`: asks a server for the model's metadata, calls the model, prints the answer."""

from dataclasses import dataclass
from typing import TextIO

from stoker.client.connection import connect
from stoker.client.output import Format, print_response
from stoker.client.values import build_inputs
from stoker.request import InferRequest


@dataclass(frozen=True, slots=True)
class InferOptions:
    """The arguments of `stoker infer`."""

    model: str
    version: str
    url: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    format: Format
    scale: float
    timeout_s: float


def infer(options: InferOptions, stdin: TextIO, stdout: TextIO) -> None:
    """Makes one call and prints its outputs. Raises ClientError with one line for the user."""
    connection = connect(options.url, timeout_s=options.timeout_s)
    try:
        metadata = connection.metadata(options.model, options.version)
        request = InferRequest.of(
            model=options.model,
            version=options.version,
            inputs=build_inputs(options.inputs, metadata.inputs, stdin=stdin, scale=options.scale),
            requested_outputs=options.outputs,
        )
        response = connection.infer(request)
    finally:
        connection.close()
    print_response(response, options.format, stdout)
