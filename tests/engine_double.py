"""An engine and a model control that answer as a test says: for tests of transports only."""

import asyncio
from collections.abc import Callable, Sequence

import numpy as np
from stoker.control import IndexEntry
from stoker.errors import Cancelled, InvalidRequest, ModelNotFound, ServingError
from stoker.inference import Cancel, Reply
from stoker.model import ModelConfig, ModelMetadata, Readiness, VersionState
from stoker.protocol.model_config_pb2 import ModelConfig as ModelConfigMessage
from stoker.request import InferRequest, InferResponse
from stoker.telemetry.statistics import BatchEnd, FailureReason, ModelStatistics
from stoker.tensor import DataType, TensorSpec

MODEL = "echo"
SPEC = TensorSpec("x", DataType.FP32, (-1, 4))
CONFIG = ModelConfig(
    name=MODEL,
    max_batch_size=8,
    inputs=(),
    outputs=(),
    batching=None,
    message=ModelConfigMessage(name=MODEL, max_batch_size=8).SerializeToString(),
)


def echo(request: InferRequest) -> InferResponse | ServingError:
    """The inputs as outputs."""
    return InferResponse.of(
        request.kind.model, request.kind.version or "1", request.id, request.inputs
    )


def counted() -> ModelStatistics:
    """Two requests answered by one run of three rows, and one that failed."""
    statistics = ModelStatistics(MODEL, 1)
    statistics.record_run(
        rows=3,
        requests=2,
        input_ns=10,
        infer_ns=20,
        output_ns=30,
        end=BatchEnd.IDLE,
        now_ms=1_700_000_000_000,
    )
    statistics.record_success(100, 40)
    statistics.record_success(200, 50)
    statistics.record_failure(FailureReason.BACKEND, 7)
    return statistics


class EngineDouble:
    """Serves one model. Without `answer` it holds every request until `release` or a cancel."""

    def __init__(
        self, answer: Callable[[InferRequest], InferResponse | ServingError] | None = echo
    ) -> None:
        self.answer = answer
        self.is_ready = True
        self.requests: list[InferRequest] = []
        self.submitted = asyncio.Event()
        self.cancelled = asyncio.Event()
        self._held: list[tuple[InferRequest, Reply]] = []

    def submit(self, request: InferRequest, reply: Reply) -> Cancel:
        self.requests.append(request)
        self.submitted.set()
        if self.answer is not None:
            reply(self.answer(request))
            return lambda: None
        held = (request, reply)
        self._held.append(held)

        def cancel() -> None:
            if held in self._held:
                self._held.remove(held)
                self.cancelled.set()
                reply(Cancelled("the client went away"))

        return cancel

    def release(self, *ids: str) -> None:
        """Echoes the held requests of these ids in this order, or everything that is held."""
        held = self._held
        if ids:
            held = [each for id in ids for each in self._held if each[0].id == id]
        self._held = [each for each in self._held if each not in held]
        for request, reply in held:
            reply(echo(request))

    async def infer(self, request: InferRequest) -> InferResponse:
        raise NotImplementedError("transports submit")

    def metadata(self, model: str, version: str = "") -> ModelMetadata:
        self._look_up(model, version)
        return ModelMetadata(model, (version or "1",), "onnxruntime_onnx", (SPEC,), (SPEC,))

    def config(self, model: str, version: str = "") -> ModelConfig:
        self._look_up(model, version)
        return CONFIG

    def statistics(self, model: str = "", version: str = "") -> Sequence[ModelStatistics]:
        if model:
            self._look_up(model, version)
        return [counted()]

    def ready(self, model: str | None = None, version: str = "") -> Readiness:
        if version and not version.isdecimal():
            raise InvalidRequest(f"version: expected a number, got '{version}'")
        return Readiness(self.is_ready and model in (None, MODEL) and version in ("", "1"))

    def _look_up(self, model: str, version: str) -> None:
        if model != MODEL or version not in ("", "1"):
            raise ModelNotFound(f"Request for unknown model: '{model}' is not found")


class ControlDouble:
    """Lists one model that is loaded and one that never was."""

    def index(self, ready_only: bool = False) -> Sequence[IndexEntry]:
        loaded = IndexEntry(MODEL, "1", VersionState.READY)
        return [loaded] if ready_only else [loaded, IndexEntry("never", reason="not loaded")]


def values(rows: int = 1) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Data that fits the model's input."""
    return np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
