"""Is a server worth loading? Its answers, checked once against ONNX Runtime by real clients.

Not a benchmark itself. grpcio asks over gRPC and `http.client` over REST, with binary tensors and
with JSON; different rows each time. A wrong answer ends the benchmark.
"""

import http.client
import json
import ssl
import sys

import grpc
import numpy as np
import onnxruntime  # type: ignore[import-untyped]  # it ships no types
from stoker.protocol import inference_pb2 as pb
from stoker.tensor import Array

from benchmarks.bodies import INFER, binary_headers, grpc_request, json_request, rest_request
from benchmarks.networks import Network
from benchmarks.serving import Endpoint

UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def check(
    at: Endpoint, network: Network, bare: onnxruntime.InferenceSession, model: str | None = None
) -> None:
    """Asks for rows of `network` over every protocol that the endpoint has a port for."""
    name = model or network.name
    if at.grpc:
        x = network.rows(seed=101)
        answer = pb.ModelInferResponse.FromString(call_grpc(at, grpc_request(name, x=x)))
        if answer.raw_output_contents:
            y = np.frombuffer(answer.raw_output_contents[0], np.float32)
        else:
            y = np.asarray(answer.outputs[0].contents.fp32_contents, np.float32)
        _compare(f"gRPC, {name}", y, bare, x)
    if at.http:
        x = network.rows(seed=102)
        body, length = rest_request(x=x)
        content, headers = call_rest(at, name, body, binary_headers(length))
        start = int(headers["inference-header-content-length"])
        _compare(f"REST, {name}", np.frombuffer(content[start:], np.float32), bare, x)
        x = network.rows(seed=103)
        content, _ = call_rest(at, name, json_request(x=x), {})
        y = np.asarray(json.loads(content)["outputs"][0]["data"], np.float32)
        _compare(f"REST with JSON, {name}", y, bare, x)


def check_constant(at: Endpoint, expected: bytes) -> None:
    """Asks a reference, which must answer its constant bytes."""
    got = call_grpc(at, b"anything") if at.grpc else call_rest(at, "any", b"anything", {})[0]
    if got != expected:
        sys.exit("a reference does not answer the bytes that it was given")


def call_grpc(at: Endpoint, message: bytes) -> bytes:
    """One ModelInfer by grpcio."""
    with _channel(at) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(INFER)
        return call(message, timeout=60)


def _channel(at: Endpoint) -> grpc.Channel:
    if at.trusted is None:
        return grpc.insecure_channel(f"127.0.0.1:{at.grpc}", UNLIMITED)
    trusts = grpc.ssl_channel_credentials(at.trusted.read_bytes())
    return grpc.secure_channel(f"127.0.0.1:{at.grpc}", trusts, UNLIMITED)


def call_rest(
    at: Endpoint, model: str, body: bytes, headers: dict[str, str]
) -> tuple[bytes, dict[str, str]]:
    """One inference over HTTP/1.1: the answer's body and its headers, names in lower case."""
    if at.trusted is None:
        connection = http.client.HTTPConnection("127.0.0.1", at.http, timeout=60)
    else:
        trusts = ssl.create_default_context(cafile=str(at.trusted))
        connection = http.client.HTTPSConnection("127.0.0.1", at.http, timeout=60, context=trusts)
    connection.request("POST", f"/v2/models/{model}/infer", body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    if answer.status != 200:
        sys.exit(f"status {answer.status}: {content[:200]!r}")
    return content, {name.lower(): value for name, value in answer.getheaders()}


def _compare(what: str, y: Array, bare: onnxruntime.InferenceSession, x: Array) -> None:
    expected = bare.run(["y"], {"x": x})[0].ravel()
    if y.shape != expected.shape or not np.allclose(y, expected, rtol=1e-3, atol=1e-4):
        sys.exit(f"{what}: the answer is not that of ONNX Runtime")
