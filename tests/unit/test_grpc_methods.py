"""The method table: every method of the service, bytes in and bytes out, without a transport."""

import logging
import time
from collections.abc import Callable

import pytest
import stoker
from google.protobuf.message import Message
from stoker.errors import Cancelled, ErrorCode, Overloaded, ServingError
from stoker.protocol import inference_pb2 as pb
from stoker.request import InferRequest, InferResponse
from stoker.tensor import DataType, Tensor
from stoker.transport.grpc.call import CallContext, Method, StreamMethod, UnaryAnswer, UnaryMethod
from stoker.transport.grpc.health import HealthBoard
from stoker.transport.grpc.methods import method_table

from tests.engine_double import CONFIG, MODEL, ControlDouble, EngineDouble, values

SERVICE = "/inference.GRPCInferenceService/"


class Replies:
    """Collects what a handler replies."""

    def __init__(self) -> None:
        self.got: list[UnaryAnswer] = []

    def __call__(self, answer: UnaryAnswer) -> None:
        self.got.append(answer)

    @property
    def only(self) -> UnaryAnswer:
        (answer,) = self.got
        return answer

    @property
    def error(self) -> ServingError:
        assert isinstance(self.only, ServingError)
        return self.only

    @property
    def message(self) -> bytes:
        assert isinstance(self.only, bytes), self.only
        return self.only


def table(engine: EngineDouble | None = None) -> dict[str, Method]:
    return method_table(engine or EngineDouble(), ControlDouble(), HealthBoard())


def call(
    name: str,
    request: Message | bytes,
    *,
    engine: EngineDouble | None = None,
    context: CallContext | None = None,
) -> Replies:
    method = table(engine)[SERVICE + name]
    assert isinstance(method, UnaryMethod)
    replies = Replies()
    message = request if isinstance(request, bytes) else request.SerializeToString()
    method.handle(message, context or CallContext(), replies)
    return replies


def infer_request(id: str = "") -> pb.ModelInferRequest:
    return pb.ModelInferRequest(
        model_name=MODEL,
        inputs=[pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 4])],
        raw_input_contents=[values().tobytes()],
        id=id,
    )


def test_every_method_of_the_service_is_in_the_table() -> None:
    methods = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    assert {SERVICE + method.name for method in methods} <= table().keys()
    streams = {method.name for method in methods if method.client_streaming}
    for method in methods:
        is_stream = isinstance(table()[SERVICE + method.name], StreamMethod)
        assert is_stream == (method.name in streams)


def test_health_and_reflection_are_in_the_table() -> None:
    assert {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    } <= table().keys()


def test_the_server_is_live_and_as_ready_as_the_engine() -> None:
    engine = EngineDouble()
    engine.is_ready = False
    live = call("ServerLive", pb.ServerLiveRequest(), engine=engine).message
    ready = call("ServerReady", pb.ServerReadyRequest(), engine=engine).message
    assert pb.ServerLiveResponse.FromString(live).live
    assert not pb.ServerReadyResponse.FromString(ready).ready


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [(MODEL, "", True), (MODEL, "1", True), (MODEL, "2", False), ("unknown", "", False)],
)
def test_what_cannot_serve_is_not_ready_and_no_error(name: str, version: str, ready: bool) -> None:
    answer = call("ModelReady", pb.ModelReadyRequest(name=name, version=version)).message
    assert pb.ModelReadyResponse.FromString(answer).ready is ready


def test_readiness_of_a_malformed_version_is_an_error() -> None:
    replies = call("ModelReady", pb.ModelReadyRequest(name=MODEL, version="one"))
    assert replies.error.code is ErrorCode.INVALID_REQUEST


def test_server_metadata_has_name_version_and_extensions() -> None:
    answer = call("ServerMetadata", pb.ServerMetadataRequest()).message
    metadata = pb.ServerMetadataResponse.FromString(answer)
    assert (metadata.name, metadata.version) == ("stoker", stoker.__version__)
    assert "binary_tensor_data" in metadata.extensions


def test_model_metadata_shows_the_clients_shapes() -> None:
    answer = call("ModelMetadata", pb.ModelMetadataRequest(name=MODEL)).message
    tensor = pb.ModelMetadataResponse.TensorMetadata(name="x", datatype="FP32", shape=[-1, 4])
    assert pb.ModelMetadataResponse.FromString(answer) == pb.ModelMetadataResponse(
        name=MODEL,
        versions=["1"],
        platform="onnxruntime_onnx",
        inputs=[tensor],
        outputs=[tensor],
    )


def test_the_configuration_is_the_engines_message() -> None:
    answer = call("ModelConfig", pb.ModelConfigRequest(name=MODEL)).message
    config = pb.ModelConfigResponse.FromString(answer).config
    assert config.SerializeToString() == CONFIG.message
    assert config.max_batch_size == 8


@pytest.mark.parametrize(
    ("method", "request_type"),
    [
        ("ModelMetadata", pb.ModelMetadataRequest),
        ("ModelConfig", pb.ModelConfigRequest),
        ("ModelStatistics", pb.ModelStatisticsRequest),
    ],
)
def test_an_unknown_model_is_not_found(method: str, request_type: Callable[..., Message]) -> None:
    error = call(method, request_type(name="nope")).error
    assert error.code is ErrorCode.MODEL_NOT_FOUND
    assert error.message.startswith("Request for unknown model")


@pytest.mark.parametrize("name", ["", MODEL])
def test_statistics_have_every_number_and_every_duration(name: str) -> None:
    answer = call("ModelStatistics", pb.ModelStatisticsRequest(name=name)).message
    (stats,) = pb.ModelStatisticsResponse.FromString(answer).model_stats

    def pair(duration: pb.StatisticDuration) -> tuple[int, int]:
        return duration.count, duration.ns

    assert (stats.name, stats.version) == (MODEL, "1")
    assert stats.last_inference == 1_700_000_000_000
    assert (stats.inference_count, stats.execution_count) == (3, 1)
    sums = stats.inference_stats
    assert pair(sums.success) == (2, 300)
    assert pair(sums.fail) == (1, 7)
    assert pair(sums.queue) == (2, 90)
    assert pair(sums.compute_input) == (2, 20)
    assert pair(sums.compute_infer) == (2, 40)
    assert pair(sums.compute_output) == (2, 60)
    assert sums.HasField("cache_hit")
    assert sums.HasField("cache_miss")
    (batch,) = stats.batch_stats
    assert batch.batch_size == 3
    assert pair(batch.compute_input) == (1, 10)
    assert pair(batch.compute_infer) == (1, 20)
    assert pair(batch.compute_output) == (1, 30)


def test_the_index_lists_loaded_and_never_loaded_models() -> None:
    answer = call("RepositoryIndex", pb.RepositoryIndexRequest()).message
    models = pb.RepositoryIndexResponse.FromString(answer).models
    assert [(each.name, each.version, each.state, each.reason) for each in models] == [
        (MODEL, "1", "READY", ""),
        ("never", "", "", "not loaded"),
    ]


def test_the_index_lists_ready_versions_alone_when_asked() -> None:
    answer = call("RepositoryIndex", pb.RepositoryIndexRequest(ready=True)).message
    assert [each.name for each in pb.RepositoryIndexResponse.FromString(answer).models] == [MODEL]


def test_a_repository_cannot_be_named() -> None:
    replies = call("RepositoryIndex", pb.RepositoryIndexRequest(repository_name="r"))
    assert replies.error.code is ErrorCode.UNSUPPORTED


@pytest.mark.parametrize(
    "method",
    [
        "RepositoryModelLoad",
        "RepositoryModelUnload",
        "SystemSharedMemoryStatus",
        "SystemSharedMemoryRegister",
        "SystemSharedMemoryUnregister",
        "CudaSharedMemoryStatus",
        "CudaSharedMemoryRegister",
        "CudaSharedMemoryUnregister",
        "TraceSetting",
        "LogSettings",
    ],
)
def test_a_method_that_is_not_served_says_so(method: str) -> None:
    error = call(method, b"").error
    assert error.code is ErrorCode.UNSUPPORTED
    assert method in error.message


@pytest.mark.parametrize("method", ["ServerLive", "ModelMetadata", "ModelInfer"])
def test_bytes_that_are_no_message_are_refused(method: str) -> None:
    assert call(method, b"\xff\xff").error.code is ErrorCode.INVALID_REQUEST


def test_inference_answers_with_the_engines_outputs() -> None:
    answer = call("ModelInfer", infer_request(id="7")).message
    response = pb.ModelInferResponse.FromString(answer)
    assert (response.model_name, response.model_version, response.id) == (MODEL, "1", "7")
    assert response.outputs[0].shape == [1, 4]
    assert response.raw_output_contents == [values().tobytes()]


def test_deadline_and_declared_retry_reach_the_request() -> None:
    engine = EngineDouble()
    deadline = time.monotonic() + 1
    context = CallContext(deadline=deadline, is_retry=True)
    call("ModelInfer", infer_request(), engine=engine, context=context)
    call("ModelInfer", infer_request(), engine=engine)
    assert [(each.deadline, each.is_retry) for each in engine.requests] == [
        (deadline, True),
        (float("inf"), False),
    ]


def test_the_engines_refusal_is_the_reply() -> None:
    refusal = Overloaded("full", retry_after=0.5)
    engine = EngineDouble(lambda request: refusal)
    assert call("ModelInfer", infer_request(), engine=engine).only is refusal


def test_the_handler_gives_the_engines_cancel() -> None:
    engine = EngineDouble(answer=None)
    method = table(engine)[SERVICE + "ModelInfer"]
    assert isinstance(method, UnaryMethod)
    replies = Replies()
    cancel = method.handle(infer_request().SerializeToString(), CallContext(), replies)
    assert cancel is not None
    assert replies.got == []
    cancel()
    assert isinstance(replies.only, Cancelled)


class LeaseDouble:
    """Counts releases, and wipes the buffer on the first."""

    def __init__(self, buffer: bytearray) -> None:
        self.buffer = buffer
        self.releases = 0

    def release(self) -> None:
        self.releases += 1
        self.buffer[:] = bytes(len(self.buffer))


def test_a_lease_is_released_once_after_every_byte_was_copied() -> None:
    lease = LeaseDouble(bytearray(b"1234"))
    engine = EngineDouble(
        lambda request: InferResponse.of(
            MODEL,
            "1",
            "",
            (Tensor("y", DataType.UINT8, (4,), memoryview(lease.buffer)),),
            lease=lease,
        )
    )
    answer = call("ModelInfer", infer_request(), engine=engine).message
    assert pb.ModelInferResponse.FromString(answer).raw_output_contents == [b"1234"]
    assert lease.releases == 1


def test_a_bug_is_logged_once_and_told_without_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(request: InferRequest) -> InferResponse | ServingError:
        raise ZeroDivisionError("secret")

    with caplog.at_level(logging.ERROR):
        error = call("ModelInfer", infer_request(), engine=EngineDouble(broken)).error
    assert error.code is ErrorCode.INTERNAL
    assert "secret" not in error.message
    (record,) = caplog.records
    assert record.exc_info is not None
