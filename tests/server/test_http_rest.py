"""The REST interface over real sockets: tritonclient and httpx against a test's engine."""

import asyncio
import gzip
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton  # type: ignore[import-untyped]  # ships no types
import tritonclient.http.aio as triton_aio  # type: ignore[import-untyped]  # ships no types
import uvloop
from stoker import errors
from stoker.errors import Overloaded, ServingError
from stoker.model import ModelConfig, TensorConfig
from stoker.request import InferRequest, InferResponse
from stoker.tensor import Array, DataType
from stoker.transport.rest.compression import COMPRESS_FROM_BYTES
from stoker.transport.rest.descriptions import ServerInfo
from stoker.transport.rest.service import LARGE_JSON_BYTES, rest_handler
from stoker.transport.status import STATUS
from stoker.transport.wire.limits import BufferBudget, HttpLimits
from stoker.transport.wire.server import HttpServer

from tests.engine_double import CONFIG, MODEL, ControlDouble, EngineDouble, echo

INFO = ServerInfo("stoker", "1.2.3", ("binary_tensor_data", "statistics"))
INFER = f"/v2/models/{MODEL}/infer"
X: dict[str, Any] = {"name": "x", "shape": [1, 2], "datatype": "FP32"}
CALL = {"inputs": [{**X, "data": [1.5, 2]}]}
LEAVES = [each for each in vars(errors).values() if isinstance(each, type)
          and issubclass(each, ServingError) and each is not ServingError]  # fmt: skip


class Engine(EngineDouble):
    """With one FP32 input and an output of each datatype that JSON cannot carry."""

    def config(self, model: str, version: str = "") -> ModelConfig:
        return replace(
            super().config(model, version),
            inputs=(TensorConfig("x", DataType.FP32, (2,)),),
            outputs=(
                TensorConfig("x", DataType.FP32, (2,)),
                TensorConfig("h", DataType.FP16, (2,)),
                TensorConfig("b", DataType.BF16, (2,)),
            ),
            json=b'{"name":"echo"}',
        )


class Echo(EngineDouble):
    """All of its outputs have a JSON form."""

    def config(self, model: str, version: str = "") -> ModelConfig:
        super().config(model, version)
        return replace(CONFIG, inputs=(TensorConfig("x", DataType.FP32, (2,)),), json=b"{}")


class Served:
    """A server and an HTTP client of it."""

    def __init__(self, http: httpx.AsyncClient, port: int, budget: BufferBudget) -> None:
        self.http = http
        self.address = f"127.0.0.1:{port}"
        self.budget = budget

    async def infer(self, content: object, **headers: str) -> httpx.Response:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(INFER, content=body, headers=fields)


@asynccontextmanager
async def serving(
    engine: EngineDouble | None = None, limits: HttpLimits | None = None
) -> AsyncGenerator[Served, None]:
    limits, budget = limits or HttpLimits(), BufferBudget(1 << 30)
    service = rest_handler(engine or Echo(), ControlDouble(), INFO, limits, budget)
    server = HttpServer(service, limits, budget)
    port = await server.start("127.0.0.1", 0)
    try:
        async with (
            asyncio.timeout(30),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
        ):
            yield Served(http, port, budget)
    finally:
        await server.close()
        service.close()
    assert budget.used == 0


def run(steps: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(steps)


def with_server(
    steps: Callable[[Served], Coroutine[Any, Any, None]], engine: EngineDouble | None = None
) -> None:
    async def act() -> None:
        async with serving(engine) as served:
            await steps(served)

    run(act())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready/", {"ready": True}),
        ("/v2/models/echo/ready?x=y", {"name": "echo", "ready": True}),
        ("/v2/models/%65cho/versions/1/ready", {"name": "echo", "ready": True}),
        ("/v2", {"name": "stoker", "version": "1.2.3", "extensions": list(INFO.extensions)}),
        (
            "/v2/models/echo",
            {
                "name": "echo",
                "versions": ["1"],
                "platform": "onnxruntime_onnx",
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
                "outputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
            },
        ),
        ("/v2/models/echo/config", {"name": "echo"}),
    ],
)
def test_questions_are_answered_as_the_protocol_says(path: str, body: object) -> None:
    async def steps(served: Served) -> None:
        response = await served.http.get(path)
        assert (response.status_code, response.json()) == (200, body)
        assert response.headers["content-type"] == "application/json"

    with_server(steps, Engine())


@pytest.mark.parametrize("path", ["/v2/models/stats", "/v2/models/echo/versions/1/stats"])
def test_statistics_have_every_key(path: str) -> None:
    async def steps(served: Served) -> None:
        (model,) = (await served.http.get(path)).json()["model_stats"]
        assert model["inference_stats"]["success"] == {"count": 2, "ns": 300}
        assert model["inference_stats"]["queue"] == {"count": 2, "ns": 90}
        assert model["inference_stats"]["fail"] == {"count": 1, "ns": 7}
        assert model["inference_stats"]["compute_infer"] == {"count": 2, "ns": 40}
        assert model["inference_stats"]["cache_hit"] == {"count": 0, "ns": 0}
        assert (model["inference_count"], model["execution_count"]) == (3, 1)
        assert (model["name"], model["version"]) == ("echo", "1")
        assert model["batch_stats"] == [
            {
                "batch_size": 3,
                "compute_input": {"count": 1, "ns": 10},
                "compute_infer": {"count": 1, "ns": 20},
                "compute_output": {"count": 1, "ns": 30},
            }
        ]
        assert (model["response_stats"], model["memory_usage"]) == ({}, [])
        assert model["last_inference"] == 1_700_000_000_000

    with_server(steps)


def test_the_index_lists_models_and_may_be_asked_with_an_empty_body() -> None:
    async def steps(served: Served) -> None:
        everything = await served.http.post("/v2/repository/index")
        loaded = {"name": "echo", "version": "1", "state": "READY"}
        assert everything.json() == [loaded, {"name": "never", "reason": "not loaded"}]
        ready = await served.http.post("/v2/repository/index", json={"ready": True})
        assert ready.json() == [loaded]
        wrong = await served.http.post("/v2/repository/index", json={"ready": 1})
        assert (wrong.status_code, "boolean" in wrong.json()["error"]) == (400, True)

    with_server(steps)


def test_what_is_not_ready_says_why() -> None:
    engine = Echo()
    engine.is_ready = False

    async def steps(served: Served) -> None:
        server = await served.http.get("/v2/health/ready")
        assert (server.status_code, server.json()["ready"]) == (503, False)
        assert server.json()["error"]
        model = await served.http.get("/v2/models/echo/ready")
        assert (model.status_code, model.json()["ready"]) == (503, False)
        unknown = await served.http.get("/v2/models/other/ready")
        assert unknown.status_code == 404
        assert unknown.json()["error"].startswith("Request for unknown model")

    with_server(steps, engine)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v2/models/echo/versions/x", 404),
        ("GET", INFER, 405),
        ("POST", "/v2/health/live", 405),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/other/config", 404),
        ("GET", "/v2/models/other/stats", 404),
        ("POST", "/v2/repository/models/echo/load", 501),
        ("GET", "/v2/systemsharedmemory/status", 501),
        ("POST", "/v2/models/echo/generate", 501),
        ("GET", "/v2/logging", 501),
        ("GET", "/v2/trace/setting", 501),
    ],
)
def test_every_refusal_has_a_json_body(method: str, path: str, status: int) -> None:
    async def steps(served: Served) -> None:
        response = await served.http.request(method, path)
        assert response.status_code == status
        assert list(response.json()) == ["error"]

    with_server(steps)


@pytest.mark.parametrize("error", LEAVES)
def test_every_error_of_the_engine_has_its_status_and_text(error: type[ServingError]) -> None:
    async def steps(served: Served) -> None:
        response = await served.infer(CALL)
        assert response.status_code == STATUS[error.code].http
        assert response.json() == {"error": "the reason"}

    with_server(steps, Echo(lambda request: error("the reason")))


def test_an_overloaded_server_says_when_to_retry() -> None:
    async def steps(served: Served) -> None:
        assert (await served.infer(CALL)).headers["retry-after"] == "3"

    with_server(steps, Echo(lambda request: Overloaded("full", retry_after=2.2)))


def test_a_bug_is_logged_once_and_answered_without_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def bug(request: InferRequest) -> InferResponse:
        raise ZeroDivisionError("secret")

    async def steps(served: Served) -> None:
        response = await served.infer(CALL)
        assert response.status_code == 500
        assert "secret" not in response.text

    with_server(steps, Echo(bug))
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info


ALL = {
    "BOOL": np.array([True, False]),
    "UINT8": np.array([0, 255], np.uint8),
    "UINT16": np.array([0, 65535], np.uint16),
    "UINT32": np.array([0, (1 << 32) - 1], np.uint32),
    "UINT64": np.array([0, (1 << 64) - 1], np.uint64),
    "INT8": np.array([-128, 127], np.int8),
    "INT16": np.array([-(1 << 15), 1], np.int16),
    "INT32": np.array([-(1 << 31), 1], np.int32),
    "INT64": np.array([-(1 << 63), (1 << 53) + 1], np.int64),
    "FP16": np.array([0.5, np.inf], np.float16),
    "FP32": np.array([0.1, np.nan], np.float32),
    "FP64": np.array([0.1, -np.inf], np.float64),
    "BYTES": np.array(["", "ä" * 9], np.object_),
}


@pytest.mark.parametrize(
    ("name", "binary"),
    [(name, True) for name in ALL] + [(name, False) for name in ALL if name != "FP16"],
)
def test_tritonclient_gets_back_what_it_sent(name: str, binary: bool) -> None:
    data: Array = ALL[name]

    async def steps(served: Served) -> None:
        async with triton_aio.InferenceServerClient(served.address) as client:
            x = triton.InferInput("x", [2], name)
            x.set_data_from_numpy(data, binary_data=binary)
            for outputs in (None, [triton.InferRequestedOutput("x", binary_data=binary)]):
                result = await client.infer(MODEL, [x], outputs=outputs, request_id="r")
                got = result.as_numpy("x")
                if name == "BYTES":
                    got = np.array([e.decode() if isinstance(e, bytes) else e for e in got], object)
                np.testing.assert_array_equal(got, data)
                assert result.get_response()["id"] == "r"

    with_server(steps)


def test_tritonclient_finds_everything_it_asks_for() -> None:
    async def steps(served: Served) -> None:
        async with triton_aio.InferenceServerClient(served.address) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready(MODEL)
            assert not await client.is_model_ready("other")
            assert (await client.get_server_metadata())["name"] == "stoker"
            assert (await client.get_model_metadata(MODEL, "1"))["versions"] == ["1"]
            assert await client.get_model_config(MODEL) == {"name": "echo"}
            assert len((await client.get_inference_statistics(MODEL))["model_stats"]) == 1
            assert len(await client.get_model_repository_index()) == 2
            with pytest.raises(Exception, match="Request for unknown model"):
                await client.get_model_metadata("other")

    with_server(steps, Engine())


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_tritonclient_may_compress_both_ways(coding: str) -> None:
    data = np.arange(COMPRESS_FROM_BYTES, dtype=np.float32)

    async def steps(served: Served) -> None:
        async with triton_aio.InferenceServerClient(served.address) as client:
            x = triton.InferInput("x", list(data.shape), "FP32")
            x.set_data_from_numpy(data)
            result = await client.infer(
                MODEL,
                [x],
                request_compression_algorithm=coding,
                response_compression_algorithm=coding,
            )
            np.testing.assert_array_equal(result.as_numpy("x"), data)

    with_server(steps)


def test_only_large_answers_are_compressed() -> None:
    async def steps(served: Served) -> None:
        small = await served.infer(CALL, accept_encoding="gzip")
        assert "content-encoding" not in small.headers
        zeros = [0.0] * COMPRESS_FROM_BYTES
        call = {"inputs": [{**X, "shape": [len(zeros)], "data": zeros}]}
        large = await served.infer(call, accept_encoding="gzip")
        assert large.headers["content-encoding"] == "gzip"
        assert large.json()["outputs"][0]["data"] == zeros

    with_server(steps)


def test_large_json_is_read_like_small_json() -> None:
    values = [float(i) for i in range(LARGE_JSON_BYTES // 4)]
    call = {"inputs": [{**X, "shape": [len(values)], "data": values}]}

    async def steps(served: Served) -> None:
        assert len(json.dumps(call)) > LARGE_JSON_BYTES
        response = await served.infer(call)
        assert response.json()["outputs"][0]["data"] == values
        call["inputs"][0]["shape"] = [3]
        wrong = await served.infer(call)
        assert (wrong.status_code, "expected 3 elements" in wrong.text) == (400, True)

    with_server(steps)


def test_a_body_without_json_is_the_tensor_and_is_answered_in_binary() -> None:
    async def steps(served: Served) -> None:
        data = np.array([1, 2], np.float32).tobytes()
        for body, coding in ((data, "identity"), (gzip.compress(data), "gzip")):
            response = await served.infer(
                body, inference_header_content_length="0", content_encoding=coding
            )
            size = int(response.headers["inference-header-content-length"])
            assert json.loads(response.content[:size])["outputs"][0]["shape"] == [1, 2]
            assert response.content[size:] == data
        wrong = await served.infer(b"123", inference_header_content_length="0")
        assert (wrong.status_code, "expected 8 bytes" in wrong.text) == (400, True)

    with_server(steps)


def test_outputs_without_a_json_form_are_refused_before_the_model_runs() -> None:
    engine = Engine()
    outputs = [{"name": "x"}, {"name": "h", "parameters": {"binary_data": True}}]

    async def steps(served: Served) -> None:
        response = await served.infer(CALL)
        assert (response.status_code, "'h': FP16" in response.text) == (400, True)
        response = await served.infer({**CALL, "outputs": [{"name": "b"}]})
        assert (response.status_code, "'b': BF16" in response.text) == (400, True)
        assert engine.requests == []
        assert (await served.infer({**CALL, "outputs": outputs})).status_code == 200
        binary = {**CALL, "parameters": {"binary_data_output": True}}
        assert (await served.infer(binary)).status_code == 200

    with_server(steps, engine)


def test_version_timeout_and_priority_reach_the_engine() -> None:
    engine = Echo()

    async def steps(served: Served) -> None:
        call = {**CALL, "parameters": {"timeout": 5000, "priority": 1}}
        response = await served.http.post("/v2/models/echo/versions/1/infer", json=call)
        assert response.json()["model_version"] == "1"
        (request,) = engine.requests
        assert (request.kind.version, request.kind.timeout_us, request.kind.priority) == (
            "1",
            5000,
            1,
        )

    with_server(steps, engine)


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content_encoding": "br"}, b"x", 415),
        ({"content_encoding": "gzip"}, b"x", 400),
        ({"content_encoding": "gzip"}, gzip.compress(b"1" * 2000), 413),
        ({}, b"1" * 1001, 413),
        ({"inference_header_content_length": "1001"}, b"1" * 1001, 413),
        ({"inference_header_content_length": "5"}, b"{}", 400),
        ({"inference_header_content_length": "x"}, b"{}", 400),
        ({}, b"", 400),
        ({}, b"{", 400),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_and_the_server_lives_on(
    headers: dict[str, str], body: bytes, status: int
) -> None:
    async def steps() -> None:
        async with serving(limits=HttpLimits(max_json_bytes=1000)) as served:
            response = await served.infer(body, **headers)
            assert response.status_code == status
            assert response.json()["error"]
            if status == 415:
                assert response.headers["accept-encoding"] == "gzip, deflate"
            assert (await served.infer(CALL)).status_code == 200

    run(steps())


def test_a_large_body_is_bounded_by_what_it_says_it_is() -> None:
    async def steps() -> None:
        limits = HttpLimits(max_json_bytes=70_000, max_message_bytes=200_000)
        async with serving(limits=limits) as served:
            assert (await served.infer(b" " * 70_001)).status_code == 413
            head = b'{"inputs":[{"name":"x","shape":[150000],"datatype":"UINT8",'
            head += b'"parameters":{"binary_data_size":150000}}]}'
            size = str(len(head))
            body = head + bytes(150_000)
            response = await served.infer(body, inference_header_content_length=size)
            assert response.status_code == 200
            response = await served.infer(
                body + bytes(100_000), inference_header_content_length=size
            )
            assert response.status_code == 413

    run(steps())


@pytest.mark.parametrize("pad", [0, LARGE_JSON_BYTES])
def test_a_client_that_goes_away_cancels_its_request(pad: int) -> None:
    engine = Echo(None)

    async def steps(served: Served) -> None:
        _, port = served.address.split(":")
        _, writer = await asyncio.open_connection("127.0.0.1", int(port))
        body = json.dumps(CALL).encode() + b" " * pad
        writer.write(b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b"
                     % (INFER.encode(), len(body), body))  # fmt: skip
        await engine.submitted.wait()
        writer.close()
        await engine.cancelled.wait()

    with_server(steps, engine)


def test_answers_in_order_when_the_engine_finishes_in_another() -> None:
    replies: list[tuple[InferRequest, Callable[[Any], None]]] = []

    class Reversing(Echo):
        """Answers the second request before the first."""

        def submit(self, request: InferRequest, reply: Callable[[Any], None]) -> Any:
            replies.append((request, reply))
            if len(replies) == 2:
                for each, answer in reversed(replies):
                    answer(echo(each))
            return lambda: None

    async def steps(served: Served) -> None:
        _, port = served.address.split(":")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        for id in ("first", "second"):
            body = json.dumps({**CALL, "id": id}).encode()
            writer.write(b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b"
                         % (INFER.encode(), len(body), body))  # fmt: skip
        seen = b""
        while b"second" not in seen:
            seen += await reader.read(1000)
        assert seen.index(b"first") < seen.index(b"second")
        writer.close()

    with_server(steps, Reversing())
