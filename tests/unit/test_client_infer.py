"""`stoker infer` over real sockets, against two small servers that speak the protocol.

The peers double an INT32 input `x` of shape [-1,2]; what they read goes through NumPy only, so
that an error of the client's codecs cannot cancel out.
"""

import contextlib
import io
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import numpy as np
import pytest
from stoker.cli import DONE, FAILED, main
from stoker.protocol import inference_pb2

METADATA = {
    "name": "double",
    "versions": ["1"],
    "platform": "onnxruntime_onnx",
    "inputs": [{"name": "x", "datatype": "INT32", "shape": [-1, 2]}],
    "outputs": [{"name": "y", "datatype": "INT32", "shape": [-1, 2]}],
}


class RestPeer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/v2/models/double":
            self.answer(200, json.dumps(METADATA).encode())
        elif self.path == "/v2/models/quiet":
            self.answer(500, b"")
        else:
            self.answer(404, json.dumps({"error": f"no {self.path}"}).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        length = int(self.headers["Inference-Header-Content-Length"])
        given = json.loads(body[:length])["inputs"][0]
        doubled = (np.frombuffer(body[length:], np.int32) * 2).tobytes()
        output = {
            "name": "y",
            "datatype": "INT32",
            "shape": given["shape"],
            "parameters": {"binary_data_size": len(doubled)},
        }
        head = {"model_name": "double", "model_version": "1", "outputs": [output]}
        text = json.dumps(head).encode()
        self.answer(200, text + doubled, len(text))

    def answer(self, status: int, body: bytes, json_length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if json_length is not None:
            self.send_header("Inference-Header-Content-Length", str(json_length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """No lines on the tests' stderr."""


class GrpcPeer(grpc.GenericRpcHandler):
    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        method = details.method.rpartition("/")[2]
        handle = {"ModelMetadata": self.metadata, "ModelInfer": self.infer}[method]
        return grpc.unary_unary_rpc_method_handler(handle)

    def metadata(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        request = inference_pb2.ModelMetadataRequest.FromString(data)
        if request.name != "double":
            context.abort(grpc.StatusCode.NOT_FOUND, f"no {request.name}")
        message = inference_pb2.ModelMetadataResponse(name="double", versions=["1"])
        message.inputs.add(name="x", datatype="INT32", shape=[-1, 2])
        message.outputs.add(name="y", datatype="INT32", shape=[-1, 2])
        return message.SerializeToString()

    def infer(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        request = inference_pb2.ModelInferRequest.FromString(data)
        message = inference_pb2.ModelInferResponse(model_name="double", model_version="1")
        message.outputs.add(name="y", datatype="INT32", shape=request.inputs[0].shape)
        doubled = np.frombuffer(request.raw_input_contents[0], np.int32) * 2
        message.raw_output_contents.append(doubled.tobytes())
        return message.SerializeToString()


@contextlib.contextmanager
def rest_server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), RestPeer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def grpc_server() -> Iterator[str]:
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads, handlers=[GrpcPeer()])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"grpc://127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


@pytest.fixture(params=["rest", "grpc"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with (rest_server if request.param == "rest" else grpc_server)() as address:
        yield address


def test_an_answer_is_printed_over_either_protocol(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["infer", "double", "--url", url, "--input", "x=3,4"]) == DONE
    assert capsys.readouterr().out == "y INT32 1x2\n[[6, 8]]\n"


def test_json_from_standard_input_gives_json(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"x": [[1, 2], [3, 4]]}'))
    assert main(["infer", "double", "--url", url, "--input", "@-", "--format", "json"]) == DONE
    (output,) = json.loads(capsys.readouterr().out)["outputs"]
    assert output == {"name": "y", "datatype": "INT32", "shape": [2, 2], "data": [[2, 4], [6, 8]]}


def test_what_the_server_says_against_it_is_one_line(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["infer", "other", "--url", url, "--input", "x=3,4"]) == FAILED
    line = capsys.readouterr().err
    if url.startswith("grpc"):
        assert line == "stoker infer: no other (gRPC NOT_FOUND)\n"
    else:
        assert line == "stoker infer: no /v2/models/other (HTTP 404)\n"


def test_a_server_without_a_reason_is_quoted_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    with rest_server() as address:
        assert main(["infer", "quiet", "--url", address]) == FAILED
    assert capsys.readouterr().err == "stoker infer: the server sent no reason (HTTP 500)\n"


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_server_that_is_not_there_is_one_line(
    scheme: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert main(["infer", "m", "--url", f"{scheme}://127.0.0.1:{port}"]) == FAILED
    line = capsys.readouterr().err
    assert line.startswith("stoker infer: ")
    assert line.count("\n") == 1
    assert "refused" in line


def test_a_server_that_does_not_answer_is_given_up_after_the_timeout(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert main(["infer", "m", "--url", address, "--timeout", "10ms"]) == FAILED
    assert "no answer from 127.0.0.1:" in (line := capsys.readouterr().err)
    assert line.endswith(" within 10ms\n")
