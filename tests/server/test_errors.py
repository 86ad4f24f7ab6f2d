"""Every way to be wrong gives its typed error on both protocols, and the server lives on.

One table of inferences that both protocols can say (`WRONG`), then what only one of them can. A
good request follows each wrong one. Source: the protocol's table of conditions, with the statuses
of the design's section "Errors".
"""

import gzip
import json
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import httpx
import numpy as np
import pytest
from google.protobuf.message import Message
from stoker.errors import ErrorCode
from stoker.protocol import inference_pb2 as pb
from stoker.tensor import DataType
from stoker.transport.status import STATUS

from tests.conftest import FREE_PORTS, PATIENCE, Endpoints, Serving
from tests.grpc_call import SERVICE, grpc_call, grpc_infer, grpc_status
from tests.models import (
    NOT_A_MODEL,
    SIMPLE_CONFIG,
    ModelEntry,
    double,
    fails_on_data,
    fixed_batch,
    identity,
    simple,
    write_repository,
)
from tests.rest_call import get, post, rest

ROW: Final = np.arange(16, dtype="<i4").tobytes()
INVALID: Final = ErrorCode.INVALID_REQUEST
UNSPLIT: Final = 'parameters { key: "split_oversized" value { string_value: "off" } }'


@dataclass(frozen=True)
class Input:
    """One raw input."""

    name: str
    datatype: str = "INT32"
    shape: Sequence[int] = (1, 16)
    raw: bytes = ROW


LEFT, RIGHT = Input("INPUT0"), Input("INPUT1")


@dataclass(frozen=True)
class Infer:
    """One inference in either protocol's words."""

    model: str = "simple"
    version: str = ""
    inputs: tuple[Input, ...] = (LEFT, RIGHT)
    outputs: tuple[str, ...] = ()
    parameters: dict[str, bool | int | float | str] = field(default_factory=dict)

    def by_rest(self, at: Endpoints) -> tuple[int, str]:
        """Status and error text; no text where it went well."""
        text = json.dumps(
            {
                "parameters": self.parameters,
                "inputs": [
                    {
                        "name": each.name,
                        "datatype": each.datatype,
                        "shape": list(each.shape),
                        "parameters": {"binary_data_size": len(each.raw)},
                    }
                    for each in self.inputs
                ],
                "outputs": [{"name": name} for name in self.outputs],
            }
        ).encode()
        version = f"/versions/{self.version}" if self.version else ""
        answer = post(
            at,
            f"/v2/models/{self.model}{version}/infer",
            content=text + b"".join(each.raw for each in self.inputs),
            headers={"Inference-Header-Content-Length": str(len(text))},
        )
        return answer.status_code, answer.json().get("error", "")

    def by_grpc(self, at: Endpoints) -> tuple[str, str]:
        """Status and details."""
        message = pb.ModelInferRequest(
            model_name=self.model,
            model_version=self.version,
            inputs=[
                pb.ModelInferRequest.InferInputTensor(
                    name=each.name, datatype=each.datatype, shape=each.shape
                )
                for each in self.inputs
            ],
            outputs=[
                pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in self.outputs
            ],
            raw_input_contents=[each.raw for each in self.inputs],
        )
        for key, value in self.parameters.items():
            kind = {bool: "bool", int: "int64", float: "double", str: "string"}[type(value)]
            setattr(message.parameters[key], f"{kind}_param", value)
        return refusal(at, "ModelInfer", message)


def refusal(at: Endpoints, method: str, message: Message) -> tuple[str, str]:
    """Status and details of a call of the inference service."""
    return grpc_status(at, SERVICE + method, message.SerializeToString())


def with_right(**changes: Any) -> Infer:
    """An inference of `simple` whose second input is changed."""
    return Infer(inputs=(LEFT, replace(RIGHT, **changes)))


WRONG: Final[dict[str, tuple[Infer, ErrorCode, str]]] = {
    "a model that nobody knows": (
        Infer(model="nope"),
        ErrorCode.MODEL_NOT_FOUND,
        "Request for unknown model: 'nope' is not found",
    ),
    "a version that does not exist": (
        Infer(version="7"),
        ErrorCode.MODEL_NOT_FOUND,
        "Request for unknown model: 'simple' version 7 is not found",
    ),
    "a version with leading zeros": (Infer(version="01"), INVALID, "expected the version as 1"),
    "a version of 30 digits": (Infer(version="1" * 30), INVALID, "expected a version number"),
    "a model whose load failed": (
        Infer(model="broken"),
        ErrorCode.MODEL_NOT_READY,
        "version 1 is UNAVAILABLE (failed to load 'broken'",
    ),
    "a version whose load failed": (
        Infer(model="broken", version="1"),
        ErrorCode.MODEL_NOT_READY,
        "version 1 is UNAVAILABLE (failed to load 'broken'",
    ),
    "a model without a version": (
        Infer(model="empty"),
        ErrorCode.MODEL_NOT_READY,
        "expected a version folder",
    ),
    "a missing input": (
        Infer(inputs=(LEFT,)),
        INVALID,
        "expected 2 inputs, got 1; missing: INPUT1",
    ),
    "no inputs": (Infer(inputs=()), INVALID, "missing: INPUT0, INPUT1"),
    "too many inputs": (Infer(inputs=(LEFT, RIGHT, Input("X"))), INVALID, "got 'X'"),
    "an unknown input": (Infer(inputs=(LEFT, Input("X"))), INVALID, "got 'X'"),
    "an input twice": (Infer(inputs=(LEFT, LEFT)), INVALID, "each input once, got it twice"),
    "an unknown output": (Infer(outputs=("Z",)), INVALID, "out of OUTPUT0, OUTPUT1, got 'Z'"),
    "an output twice": (Infer(outputs=("OUTPUT0",) * 2), INVALID, "each output once"),
    "another datatype": (
        with_right(datatype="FP32"),
        INVALID,
        "input 'INPUT1' of 'simple' v1: expected INT32 [-1,16], got FP32 [1,16]",
    ),
    "an unknown datatype": (with_right(datatype="FLOAT"), INVALID, "got 'FLOAT'"),
    "another rank": (with_right(shape=[1, 16, 1]), INVALID, "got INT32 [1,16,1]"),
    "another size": (with_right(shape=[1, 8], raw=ROW[:32]), INVALID, "got INT32 [1,8]"),
    "a negative size": (with_right(shape=[-1, 16]), INVALID, "-1"),
    "no batch dimension": (with_right(shape=[], raw=ROW[:4]), INVALID, "a batch dimension first"),
    "batches that differ": (with_right(shape=[2, 16], raw=ROW * 2), INVALID, "expected 1 rows"),
    "no rows": (
        Infer(inputs=tuple(replace(each, shape=(0, 16), raw=b"") for each in (LEFT, RIGHT))),
        INVALID,
        "at least 1 row, got 0",
    ),
    "too few bytes": (with_right(raw=ROW[:-1]), INVALID, "expected 64 bytes for INT32 [1,16]"),
    "too many bytes": (with_right(raw=ROW + b"\0"), INVALID, "expected 64 bytes for INT32 [1,16]"),
    "an absurd shape": (with_right(shape=[2**31 - 1] * 9), INVALID, "got 64"),
    "an absurd shape of no elements": (
        with_right(shape=[2**31 - 1] * 9 + [0], raw=b""),
        INVALID,
        "",
    ),
    "an absurd rank": (with_right(shape=[1] * 4000), INVALID, "INPUT1"),
    "an absurd count of texts": (
        Infer(model="text", inputs=(Input("x", "BYTES", (1, 2**31 - 1), b"\0" * 8),)),
        INVALID,
        "fewer than their 2147483647 length prefixes",
    ),
    "a truncated text": (
        Infer(model="text", inputs=(Input("x", "BYTES", (1, 1), b"\x05\0\0\0abc"),)),
        INVALID,
        "element 0 of 1: expected 5 bytes, got 3",
    ),
    "more rows than a model that is not split takes": (
        Infer(model="unsplit", inputs=(Input("x", "FP32", (5, 4), b"\0" * 80),)),
        INVALID,
        "expected at most max_batch_size 4 rows, got 5",
    ),
    "a fixed first dimension": (
        Infer(model="fixed", inputs=(Input("x", "FP32", (3, 4), b"\0" * 48),)),
        INVALID,
        "expected FP32 [2,4], got FP32 [3,4]",
    ),
    "data on which the run fails": (
        Infer(model="fails", inputs=(Input("x", "INT64", (1, 1), struct.pack("<q", 99)),)),
        ErrorCode.EXECUTION_FAILED,
        "model 'fails' failed on this data",
    ),
    "a priority of text": (Infer(parameters={"priority": "a"}), INVALID, "'priority'"),
    "a negative priority": (Infer(parameters={"priority": -1}), INVALID, "0 or more, got -1"),
    "a timeout that is a switch": (Infer(parameters={"timeout": True}), INVALID, "'timeout'"),
    "a sequence start that is a number": (
        Infer(parameters={"sequence_start": 1}),
        INVALID,
        "'sequence_start'",
    ),
    "a sequence id with a fraction": (
        Infer(parameters={"sequence_id": 1.5}),
        INVALID,
        "'sequence_id'",
    ),
    "a sequence id that is too long": (
        Infer(parameters={"sequence_id": "s" * 129}),
        INVALID,
        "'sequence_id'",
    ),
    "a parameter named triton_": (
        Infer(parameters={"triton_mine": 1}),
        INVALID,
        "parameter 'triton_mine': the name is reserved",
    ),
    "a parameter named headers": (
        Infer(parameters={"headers": "a"}),
        INVALID,
        "parameter 'headers': the name is reserved",
    ),
    "a reserved switch of the wrong type": (
        Infer(parameters={"binary_data_output": "a"}),
        INVALID,
        "'binary_data_output'",
    ),
}


@pytest.fixture(scope="module")
def at(serve_module: Serving, tmp_path_factory: pytest.TempPathFactory) -> Endpoints:
    folder = write_repository(
        tmp_path_factory.mktemp("models"),
        {
            "simple": ModelEntry(simple(), SIMPLE_CONFIG),
            "broken": NOT_A_MODEL,
            "empty": ModelEntry(double(), versions=()),
            "fails": fails_on_data(),
            "fixed": fixed_batch(),
            "text": identity(DataType.BYTES, ("batch", "length")),
            "unsplit": ModelEntry(double(), UNSPLIT),
        },
    )
    return serve_module(folder, settings=replace(FREE_PORTS, max_message_bytes=1 << 20)).at


@pytest.fixture(autouse=True)
def _lives_on(at: Endpoints) -> Any:
    """After each test both protocols answer a good request."""
    yield
    assert Infer().by_rest(at) == (200, "")
    assert Infer().by_grpc(at) == ("OK", "")


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_both_protocols_refuse_with_the_same_error(
    at: Endpoints, wrong: tuple[Infer, ErrorCode, str]
) -> None:
    asked, code, words = wrong
    status, rest_text = asked.by_rest(at)
    name, grpc_text = asked.by_grpc(at)
    assert (status, name) == (STATUS[code].http, STATUS[code].grpc_name)
    assert words in rest_text
    assert words in grpc_text


@pytest.mark.parametrize("version", ["x", "-1", "1.0", "１"])
def test_a_version_that_is_no_number_is_no_path_and_an_invalid_argument(
    at: Endpoints, version: str
) -> None:
    assert Infer(version=version).by_rest(at)[0] == 404
    for method, message in (
        ("ModelInfer", pb.ModelInferRequest(model_name="simple", model_version=version)),
        ("ModelReady", pb.ModelReadyRequest(name="simple", version=version)),
        ("ModelMetadata", pb.ModelMetadataRequest(name="simple", version=version)),
        ("ModelConfig", pb.ModelConfigRequest(name="simple", version=version)),
        ("ModelStatistics", pb.ModelStatisticsRequest(name="simple", version=version)),
    ):
        assert refusal(at, method, message)[0] == "INVALID_ARGUMENT", method


@pytest.mark.parametrize(
    ("model", "status", "name"), [("nope", 404, "NOT_FOUND"), ("broken", 503, "UNAVAILABLE")]
)
def test_questions_about_a_model_that_is_not_there_are_refused_alike(
    at: Endpoints, model: str, status: int, name: str
) -> None:
    for path, method, message in (
        ("", "ModelMetadata", pb.ModelMetadataRequest(name=model)),
        ("/config", "ModelConfig", pb.ModelConfigRequest(name=model)),
        ("/stats", "ModelStatistics", pb.ModelStatisticsRequest(name=model)),
    ):
        answer = get(at, f"/v2/models/{model}{path}")
        assert (answer.status_code, refusal(at, method, message)) == (
            status,
            (name, answer.json()["error"]),
        )
    answer = get(at, f"/v2/models/{model}/ready")
    assert answer.status_code == status
    assert answer.json()["error"]
    ready = grpc_call(at, "ModelReady", pb.ModelReadyRequest(name=model), pb.ModelReadyResponse)
    assert ready.ready is False


NO_CALL: Final[dict[str, tuple[bytes, dict[str, str]]]] = {
    "no inputs": (b'{"parameters":{}}', {}),
    "no JSON": (b"{", {}),
    "no inputs before binary data": (b"{}" + ROW, {"Inference-Header-Content-Length": "2"}),
    "binary data alone": (ROW, {"Inference-Header-Content-Length": "0"}),
    "a length that is no number": (b"{}", {"Inference-Header-Content-Length": "two"}),
    "large JSON that breaks off": (b'{"inputs":[' + b" " * (64 << 10), {}),
    "gzip of no inputs": (gzip.compress(b"{}"), {"Content-Encoding": "gzip"}),
    "a shared memory region": (
        b'{"inputs":[{"name":"x","datatype":"INT32","shape":[1],'
        b'"parameters":{"shared_memory_region":"r"}}]}',
        {},
    ),
}


@pytest.mark.parametrize(("body", "headers"), NO_CALL.values(), ids=NO_CALL)
def test_a_model_that_is_not_there_is_told_whatever_the_body_has(
    at: Endpoints, body: bytes, headers: dict[str, str]
) -> None:
    def asked(path: str) -> httpx.Response:
        return post(at, f"/v2/models/{path}/infer", content=body, headers=headers)

    for path in ("nope", "simple/versions/7"):
        answer = asked(path)
        assert answer.status_code == 404
        assert answer.json()["error"].startswith("Request for unknown model")
    assert asked("broken").status_code == 503
    assert asked("simple").status_code in (400, 501)


def rest_input(**changes: object) -> dict[str, object]:
    tensor = {"name": "INPUT0", "datatype": "INT32", "shape": [1, 16], "data": list(range(16))}
    return {key: value for key, value in {**tensor, **changes}.items() if value is not None}


OTHER: Final = rest_input(name="INPUT1")
MALFORMED: Final[dict[str, object]] = {
    "no JSON": b"not JSON",
    "JSON that ends early": b'{"inputs":[{"name":"INPUT0"',
    "an empty body": b"",
    "a list": [],
    "no inputs key": {},
    "inputs that are no list": {"inputs": {}},
    "an input that is no object": {"inputs": [7]},
    "no name": {"inputs": [rest_input(name=None), OTHER]},
    "no datatype": {"inputs": [rest_input(datatype=None), OTHER]},
    "no shape": {"inputs": [rest_input(shape=None), OTHER]},
    "no data": {"inputs": [rest_input(data=None), OTHER]},
    "a shape with a fraction": {"inputs": [rest_input(shape=[1, 16.0]), OTHER]},
    "a shape of text": {"inputs": [rest_input(shape="1,16"), OTHER]},
    "a shape with a switch": {"inputs": [rest_input(shape=[True, 16]), OTHER]},
    "too few elements": {"inputs": [rest_input(data=[1] * 15), OTHER]},
    "too many elements": {"inputs": [rest_input(data=[1] * 1600), OTHER]},
    "a fraction among integers": {"inputs": [rest_input(data=[0.5] * 16), OTHER]},
    "text among integers": {"inputs": [rest_input(data=["1"] * 16), OTHER]},
    "null among integers": {"inputs": [rest_input(data=[None] * 16), OTHER]},
    "a switch among integers": {"inputs": [rest_input(data=[True] * 16), OTHER]},
    "an integer out of range": {"inputs": [rest_input(data=[2**31] * 16), OTHER]},
    "an integer of 400 digits": {"inputs": [rest_input(data=[10**400] * 16), OTHER]},
    "data that is no list": {"inputs": [rest_input(data=1), OTHER]},
    "data nested 200 deep": (
        b'{"inputs":[{"name":"INPUT0","datatype":"INT32","shape":[1,16],"data":'
        + b"[" * 200
        + b"1"
        + b"]" * 200
        + b"}]}"
    ),
    "nesting without end": b"[" * 100_000,
    "two sources of one input": {
        "inputs": [rest_input(parameters={"binary_data_size": 64}), OTHER]
    },
    "binary data that is not there": {
        "inputs": [rest_input(data=None, parameters={"binary_data_size": 64}), OTHER]
    },
    "a negative size of binary data": {
        "inputs": [rest_input(data=None, parameters={"binary_data_size": -64}), OTHER]
    },
    "an id that is a number": {"id": 7, "inputs": [rest_input(), OTHER]},
    "parameters that are a list": {"parameters": [], "inputs": [rest_input(), OTHER]},
    "a custom parameter of null": {"parameters": {"a": None}, "inputs": [rest_input(), OTHER]},
    "a custom parameter of lists": {"parameters": {"a": [1]}, "inputs": [rest_input(), OTHER]},
    "a custom parameter over 64 bits": {
        "parameters": {"a": 2**63},
        "inputs": [rest_input(), OTHER],
    },
    "outputs that are names": {"outputs": ["OUTPUT0"], "inputs": [rest_input(), OTHER]},
    "bytes that are not UTF-8": b'{"id":"\xff","inputs":[]}',
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_json_request_is_a_400_with_a_reason(at: Endpoints, body: object) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = post(at, "/v2/models/simple/infer", content=content)
    assert (answer.status_code, answer.headers["Content-Type"]) == (400, "application/json")
    assert answer.json()["error"]


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "99999999999999999999", "100000"])
def test_a_wrong_length_of_the_json_part_is_a_400(at: Endpoints, length: str) -> None:
    answer = post(
        at,
        "/v2/models/simple/infer",
        content=b"{}",
        headers={"Inference-Header-Content-Length": length},
    )
    assert answer.status_code == 400
    assert "inference-header-content-length" in answer.json()["error"]


def test_bytes_behind_the_last_input_are_a_400(at: Endpoints) -> None:
    text = json.dumps({"inputs": [rest_input(), OTHER]}).encode()
    answer = post(
        at,
        "/v2/models/simple/infer",
        content=text + b"more",
        headers={"Inference-Header-Content-Length": str(len(text))},
    )
    assert (answer.status_code, "4 bytes more" in answer.json()["error"]) == (400, True)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v2/nope", 404),
        ("GET", "/v2/models", 404),
        ("GET", "/v2/models/simple/nope", 404),
        ("GET", "/v2/models/simple/infer", 405),
        ("POST", "/v2/models/simple", 405),
        ("DELETE", "/v2/models/simple", 405),
        ("GET", "/v2/repository/index", 405),
        ("POST", "/v2/health/live", 405),
        ("BREW", "/v2", 501),
        ("POST", "/v2/repository/models/simple/load", 501),
        ("POST", "/v2/models/simple/generate", 501),
        ("GET", "/v2/systemsharedmemory/status", 501),
        ("GET", "/v2/logging", 501),
        ("GET", "/v2/models/%ff", 400),
    ],
)
def test_paths_and_methods_that_are_not_served_say_so_in_json(
    at: Endpoints, method: str, path: str, status: int
) -> None:
    answer = rest(at, method, path)
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/json")
    assert answer.json()["error"]
    assert ("Allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Content-Encoding": "br"}, b"{}", 415),
        ({"Content-Encoding": "gzip"}, b"not gzip", 400),
        ({"Content-Encoding": "deflate"}, b"not deflate", 400),
        ({"Content-Length": str(1 << 21), "Inference-Header-Content-Length": "2"}, b"{}", 413),
        ({"X-Long": "x" * 40_000}, b"{}", 431),
        ({f"X-{number}": "x" for number in range(200)}, b"{}", 431),
        ({"Expect": "200-ok"}, b"{}", 417),
        ({"Content-Length": "2, 2"}, b"{}", 400),
        ({"Content-Length": "two"}, b"{}", 400),
        ({"Transfer-Encoding": "gzip"}, b"{}", 400),
        ({"Host": "a b"}, b"{}", 400),
        ({"Transfer-Encoding": "chunked"}, b"zz\r\n", 400),
    ],
)
def test_wrong_headers_and_bodies_are_refused_in_json(
    at: Endpoints, headers: dict[str, str], body: bytes, status: int
) -> None:
    sent = {"Host": "a", "Connection": "close", **headers}
    if not {"Content-Length", "Transfer-Encoding"} & headers.keys():
        sent["Content-Length"] = str(len(body))
    assert exchange(at, "POST /v2/models/simple/infer HTTP/1.1", sent, body) == status


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET /v2", 400),
        ("GET  /v2 HTTP/1.1", 400),
        ("GET /v2 HTTP/3.0", 505),
        ("GET /" + "x" * 9000 + " HTTP/1.1", 414),
        ("\x16\x03\x01\x02", 400),
    ],
)
def test_request_lines_that_are_none_are_refused_in_json(
    at: Endpoints, line: str, status: int
) -> None:
    assert exchange(at, line, {"Host": "a", "Connection": "close"}, b"") == status


def exchange(at: Endpoints, line: str, headers: dict[str, str], body: bytes) -> int:
    """Sends these very bytes; gives the status of the answer, whose body is an error in JSON."""
    head = "".join([f"{line}\r\n", *(f"{key}: {value}\r\n" for key, value in headers.items())])
    with socket.create_connection(("127.0.0.1", at.http_port), PATIENCE) as client:
        client.sendall(head.encode("latin-1") + b"\r\n" + body)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    start, _, rest = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in start.lower()
    assert json.loads(rest)["error"]
    return int(start.split(b" ")[1])


def test_a_body_that_ends_early_harms_nobody(at: Endpoints) -> None:
    with socket.create_connection(("127.0.0.1", at.http_port), PATIENCE) as client:
        client.sendall(
            b"POST /v2/models/simple/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{"
        )
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass
    assert Infer().by_rest(at) == (200, "")


def test_a_message_over_the_limit_is_refused_with_both_numbers(at: Endpoints) -> None:
    large = b"\0" * (2 << 20)
    asked = with_right(shape=[1, 1 << 19], raw=large)
    status, text = asked.by_rest(at)
    assert (status, "1048576" in text) == (413, True)
    name, details = asked.by_grpc(at)
    assert (name, "1048576" in details) == ("RESOURCE_EXHAUSTED", True)


def test_an_inflated_body_over_the_limit_is_refused(at: Endpoints) -> None:
    answer = post(
        at,
        "/v2/models/simple/infer",
        content=gzip.compress(b" " * (2 << 20)),
        headers={"Content-Encoding": "gzip", "Inference-Header-Content-Length": "2"},
    )
    assert answer.status_code == 413
    assert "1048576" in answer.json()["error"]


def test_bytes_that_are_no_message_are_an_invalid_argument(at: Endpoints) -> None:
    for method in ("ModelInfer", "ModelMetadata", "RepositoryIndex"):
        assert grpc_status(at, SERVICE + method, b"\xff\xff\xff")[0] == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    "path",
    [
        SERVICE + "Nope",
        "/inference.Other/ModelInfer",
        "/nonsense",
        SERVICE + "RepositoryModelLoad",
        SERVICE + "LogSettings",
    ],
)
def test_methods_that_are_not_served_are_unimplemented(at: Endpoints, path: str) -> None:
    assert grpc_status(at, path, b"")[0] == "UNIMPLEMENTED"


def message(**changes: Any) -> pb.ModelInferRequest:
    """A good message of `simple`, with other fields."""
    good: dict[str, Any] = {
        "model_name": "simple",
        "inputs": [
            pb.ModelInferRequest.InferInputTensor(name=name, datatype="INT32", shape=[1, 16])
            for name in ("INPUT0", "INPUT1")
        ],
        "raw_input_contents": [ROW, ROW],
    }
    return pb.ModelInferRequest(**{**good, **changes})


def test_raw_entries_and_inputs_are_one_to_one(at: Endpoints) -> None:
    for entries in ([], [ROW], [ROW, ROW, ROW]):
        name, details = refusal(at, "ModelInfer", message(raw_input_contents=entries))
        assert name == "INVALID_ARGUMENT"
        assert "raw_input_contents" in details or "raw entries" in details


def test_typed_contents_that_do_not_fit_are_refused(at: Endpoints) -> None:
    integers = pb.InferTensorContents(int_contents=range(16))
    for contents, words in (
        (pb.InferTensorContents(int_contents=range(15)), "expected 16 elements"),
        (pb.InferTensorContents(fp32_contents=range(16)), "expected INT32 in int_contents alone"),
        (
            pb.InferTensorContents(int_contents=range(16), fp32_contents=[1]),
            "expected INT32 in int_contents alone",
        ),
    ):
        wrong = message(raw_input_contents=[])
        for each in wrong.inputs:
            each.contents.CopyFrom(contents)
        name, details = refusal(at, "ModelInfer", wrong)
        assert (name, words in details) == ("INVALID_ARGUMENT", True), details
    mixed = message()
    mixed.inputs[0].contents.CopyFrom(integers)
    assert refusal(at, "ModelInfer", mixed)[0] == "INVALID_ARGUMENT"
    good = message(raw_input_contents=[])
    for each in good.inputs:
        each.contents.CopyFrom(integers)
    assert grpc_infer(at, good).raw_output_contents[1] == b"\0" * 64


def test_what_is_part_of_the_protocol_and_not_served_is_unsupported_on_both(
    at: Endpoints,
) -> None:
    region = message()
    region.inputs[0].parameters["shared_memory_region"].string_param = "a"
    classes = message(outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name="OUTPUT0")])
    classes.outputs[0].parameters["classification"].int64_param = 3
    for asked in (region, classes):
        assert refusal(at, "ModelInfer", asked)[0] == "UNIMPLEMENTED"
    shared = rest_input(data=None, parameters={"shared_memory_region": "a"})
    best = {"name": "OUTPUT0", "parameters": {"classification": 3}}
    for body in (
        {"inputs": [shared, OTHER]},
        {"inputs": [rest_input(), OTHER], "outputs": [best]},
    ):
        answer = post(at, "/v2/models/simple/infer", json=body)
        assert answer.status_code == 501, answer.text


def test_a_repository_name_is_unsupported_by_grpc_and_ignored_by_rest(at: Endpoints) -> None:
    asked = pb.RepositoryIndexRequest(repository_name="r")
    assert refusal(at, "RepositoryIndex", asked)[0] == "UNIMPLEMENTED"
    everything = post(at, "/v2/repository/index")
    assert post(at, "/v2/repository/r/index").json() == everything.json()


def test_the_index_takes_a_switch_and_nothing_else(at: Endpoints) -> None:
    answer = post(at, "/v2/repository/index", json={"ready": True})
    names = [each["name"] for each in answer.json()]
    assert names == ["fails", "fixed", "simple", "text", "unsplit"]
    for body in (b"[]", b"{", b'{"ready":1}'):
        answer = post(at, "/v2/repository/index", content=body)
        assert (answer.status_code, "error" in answer.json()) == (400, True)
