"""An engine without transports: its models, requests and replies, for tests of `engine/`.

async with serving() as at:                 # a real Engine over the fake runtime
    served = at.add(config(max_batch_size=8))
    at.runtime.hold()
    replies = at.submit(request(rows=2))
    await at.runs(1)                        # an executor is inside its first run
    at.runtime.release()
    await replies.all(1)
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from stoker.engine.engine import Engine
from stoker.engine.load_watch import LoadWatch
from stoker.engine.opened_version import OpenedVersion, Profile
from stoker.engine.registry import ModelRegistry
from stoker.engine.served_model import ServedModel
from stoker.engine.watchdog import HUNG_AFTER_S
from stoker.errors import ServingError
from stoker.inference import Cancel
from stoker.model import (
    DynamicBatching,
    InstanceGroup,
    ModelConfig,
    ModelVersion,
    Readiness,
    TensorConfig,
    VersionState,
)
from stoker.request import InferRequest, InferResponse
from stoker.runtime.independence import Independence
from stoker.telemetry.observer import Observer
from stoker.telemetry.server_statistics import ServerStatistics
from stoker.tensor import Array, DataType, Tensor

from tests.fake_runtime import FakeModel, FakeRuntime

IMMEDIATE = DynamicBatching()
X = TensorConfig("x", DataType.FP32, (4,))
Y = TensorConfig("y", DataType.FP32, (4,))
PATIENCE = 10.0


def play(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs a scenario on an event loop of its own, as the server does."""
    uvloop.run(scenario())


def config(
    name: str = "m",
    *,
    max_batch_size: int = 8,
    batching: DynamicBatching | None = IMMEDIATE,
    instances: int = 1,
    inputs: tuple[TensorConfig, ...] = (X,),
    outputs: tuple[TensorConfig, ...] = (Y,),
) -> ModelConfig:
    """A model x FP32 [4] -> y FP32 [4] whose file configures its batching."""
    return ModelConfig(
        name,
        max_batch_size,
        inputs,
        outputs,
        batching,
        batching_is_explicit=True,
        batch_size_is_explicit=True,
        instance_groups=(InstanceGroup(count=instances),),
    )


def numbers(rows: int, value: float = 1.0, width: int = 4) -> Array:
    """FP32 [rows, width] whose rows are value, value + 1 ..."""
    column = np.arange(rows, dtype=np.float32)[:, None] + np.float32(value)
    return np.repeat(column, width, axis=1)


def request(rows: int = 1, value: float = 1.0, *, model: str = "m", width: int = 4) -> InferRequest:
    """A request whose answer is twice `numbers(rows, value)`; its tensor is the wire's bytes."""
    data = numbers(rows, value, width).tobytes()
    return InferRequest.of(model, inputs=(Tensor("x", DataType.FP32, (rows, width), data),))


def changed(
    one: InferRequest,
    *,
    id: str = "",
    deadline: float = math.inf,
    is_retry: bool = False,
    **kind: Any,
) -> InferRequest:
    """The request with these changes; `kind` are fields of its kind."""
    return InferRequest(replace(one.kind, **kind), one.data, id, deadline, is_retry)


def answer(result: InferResponse | ServingError) -> Array:
    """The output y of a good answer, a copy."""
    assert isinstance(result, InferResponse), result
    (tensor,) = result.outputs
    return tensor.array().copy()


class Replies:
    """What came back, in order."""

    def __init__(self) -> None:
        self.results: list[InferResponse | ServingError] = []
        self.times: list[float] = []
        self._came = asyncio.Event()

    def __call__(self, result: InferResponse | ServingError) -> None:
        self.results.append(result)
        self.times.append(time.monotonic())
        self._came.set()

    async def all(self, count: int) -> list[InferResponse | ServingError]:
        """The results, once there are `count`."""
        async with asyncio.timeout(PATIENCE):
            while len(self.results) < count:
                self._came.clear()
                await self._came.wait()
        return self.results

    @property
    def only(self) -> InferResponse | ServingError:
        """The one result."""
        (result,) = self.results
        return result


class Serving:
    """An engine over the fake runtime."""

    def __init__(
        self,
        runtime: FakeRuntime,
        clock: Callable[[], float],
        cpu_clock: Callable[[], float],
        *,
        runs_inline: bool,
        hung_run_s: float,
        load_watch: LoadWatch | None,
        observer: Observer | None,
    ) -> None:
        self.runtime = runtime
        self.registry = ModelRegistry()
        self.unrouted = ServerStatistics()
        self.cancels: list[Cancel] = []
        self.engine = Engine(
            self.registry,
            asyncio.get_running_loop(),
            max_queued_bytes=1 << 30,
            readiness=lambda: Readiness(True),
            statistics=self.unrouted,
            clock=clock,
            cpu_clock=cpu_clock,
            runs_inline=runs_inline,
            hung_run_s=hung_run_s,
            load_watch=load_watch,
            observer=observer,
        )

    def add(
        self,
        model: ModelConfig | None = None,
        *,
        costs: Sequence[tuple[int, float]] = (),
        independence: Independence = Independence.INDEPENDENT,
        version: int = 1,
    ) -> ServedModel:
        """Serves a model. Without costs it owns a thread per instance and predicts nothing."""
        model = model or config()
        identity = ModelVersion(model.name, version)
        sessions = [
            (placement, self.runtime.open(Path("model.onnx"), model, placement))
            for placement in self.runtime.place(model)
        ]
        profile = Profile(tuple(costs), 4)
        served = self.engine.host(OpenedVersion(identity, model, sessions, profile, independence))
        self.registry.set_state(identity, VersionState.LOADING)
        self.registry.set_state(identity, VersionState.READY, served=served)
        return served

    def submit(self, *requests: InferRequest, to: Replies | None = None) -> Replies:
        """Submits requests in one turn of the loop."""
        replies = to or Replies()
        self.cancels += [self.engine.submit(each, replies) for each in requests]
        return replies

    async def runs(self, count: int) -> None:
        """Returns when executors have started `count` runs; the loop goes on meanwhile."""
        await asyncio.to_thread(self.runtime.wait_for_run, count)

    async def finished(self, count: int) -> None:
        """Returns when `count` runs have ended."""
        await asyncio.to_thread(self.runtime.wait_for_finish, count)


@asynccontextmanager
async def serving(
    model: FakeModel | None = None,
    *,
    runtime: FakeRuntime | None = None,
    clock: Callable[[], float] = time.monotonic,
    cpu_clock: Callable[[], float] = time.thread_time,
    runs_inline: bool = False,
    hung_run_s: float = HUNG_AFTER_S,
    load_watch: LoadWatch | None = None,
    observer: Observer | None = None,
) -> AsyncIterator[Serving]:
    """An engine that ends with the block; every model must have come to rest by then. A run that
    is held on the loop would hold the test, so short models have threads unless a test asks."""
    at = Serving(
        runtime or FakeRuntime(model),
        clock,
        cpu_clock,
        runs_inline=runs_inline,
        hung_run_s=hung_run_s,
        load_watch=load_watch,
        observer=observer,
    )
    try:
        yield at
        for served in at.registry.served():
            async with asyncio.timeout(PATIENCE):
                await served.drained()
            assert_at_rest(served)
    finally:
        at.runtime.release()
        for served in list(at.registry.served()):
            at.engine.retire(served)
        await at.engine.close()


def assert_at_rest(served: ServedModel) -> None:
    """Every counter of what waits and runs is back at zero."""
    statistics, admission = served.statistics, served.admission
    counters = {
        "pending": statistics.pending,
        "in_flight": statistics.in_flight,
        "rows": admission.rows,
        "bytes": admission.bytes,
        **{f"requests at {level}": n for level, n in admission.requests_by_level.items()},
        **{f"entries at {level}": n for level, n in admission.entries_by_level.items()},
        **{f"rows at {level}": n for level, n in admission.rows_by_level.items()},
    }
    assert not any(counters.values()), counters


def timed(one: InferRequest, seconds: float) -> InferRequest:
    """The request with a deadline so many seconds from now."""
    return changed(one, deadline=time.monotonic() + seconds if seconds < math.inf else math.inf)
