"""The order in which a process with a dead GPU context gives up, and what it leaves alone."""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from stoker.engine.device_failures import BatchFacts
from stoker.errors import DeviceFailed, Reach
from stoker.lifecycle.device_fault import DeviceFault, DeviceFaults, KnownOfDevice
from stoker.lifecycle.health import ServerHealth, ServerState
from stoker.model import ModelConfig, ModelVersion
from stoker.request import InferResponse
from stoker.runtime.session import Placement
from stoker.telemetry.log import formatter

from tests.engine_parts import Serving, config, play, request, serving
from tests.fake_runtime import FakeRuntime

CAUSE = DeviceFailed("CUDA failure 700: an illegal memory access", reach=Reach.PROCESS)


class ByName(FakeRuntime):
    def place(self, config: ModelConfig) -> tuple[Placement, ...]:
        device = "cpu" if config.name == "on_cpu" else f"cuda:{config.name[-1]}"
        return (Placement(device, 1, 2),)


class Scene:
    def __init__(self, at: Serving, *, is_strict: bool) -> None:
        self.at = at
        self.left: list[bool] = []
        """Whether the server was ready at each call of `leave`."""
        self.health = ServerHealth(at.registry, is_strict=is_strict)
        self.health.require(("on_gpu_0",))
        self.health.become(ServerState.STARTED)
        self.faults = DeviceFaults(
            self.health,
            at.registry.served,
            lambda: self.left.append(self.health.readiness().ready),
            lambda device: KnownOfDevice("for CUDA 13.0", 70, 100),
        )
        for name in ("on_gpu_0", "on_gpu_1", "on_cpu"):
            at.add(config(name))

    def strike(self, batch: BatchFacts | None = None) -> None:
        identity = ModelVersion("on_gpu_0", 1)
        self.faults.strike(DeviceFault(CAUSE, identity, ("cuda:0",), batch, 1))


@asynccontextmanager
async def scene(*, is_strict: bool = True) -> AsyncIterator[Scene]:
    async with serving(runtime=ByName()) as at:
        yield Scene(at, is_strict=is_strict)


@pytest.mark.parametrize("is_strict", [True, False])
def test_the_server_is_not_ready_before_it_leaves_and_never_again(is_strict: bool) -> None:
    async def scenario() -> None:
        async with scene(is_strict=is_strict) as here:
            assert here.health.readiness().ready
            here.strike()
            assert here.left == [False]
            here.health.become(ServerState.DRAINING)
            here.health.become(ServerState.STARTED)
            assert here.health.state is ServerState.BROKEN
            (reason,) = here.health.readiness().reasons
            assert CAUSE.message in reason

    play(scenario)


def test_models_on_every_gpu_fail_their_requests_and_those_on_the_cpu_go_on() -> None:
    async def scenario() -> None:
        async with scene() as here:
            here.at.runtime.hold()
            on_gpu = [here.at.submit(request(model=f"on_gpu_{gpu}")) for gpu in (0, 1)]
            on_cpu = here.at.submit(request(model="on_cpu"))
            await here.at.runs(3)
            here.strike()
            for replies in on_gpu:
                assert isinstance(replies.only, DeviceFailed)
                assert replies.only.retry_after is not None
            late = here.at.submit(request(model="on_gpu_1"))
            assert isinstance(late.only, DeviceFailed)
            here.at.runtime.release()
            assert isinstance((await on_cpu.all(1))[0], InferResponse)

    play(scenario)


def test_the_facts_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with scene() as here:
            facts = BatchFacts(rows=3, requests=2, shapes=("x FP32 [3,4]",))
            for _ in range(3):
                here.strike(facts)
            assert len(here.left) == 1

    with caplog.at_level(logging.CRITICAL):
        play(scenario)
    (record,) = [each for each in caplog.records if each.levelno == logging.CRITICAL]
    told = json.loads(formatter("json").format(record))
    expected = {
        "event": "device_failed",
        "model": "on_gpu_0",
        "version": 1,
        "reason": CAUSE.message,
        "devices": ["cuda:0"],
        "rows": 3,
        "requests": 2,
        "shapes": ["x FP32 [3,4]"],
        "driver": "for CUDA 13.0",
        "memory_used_bytes": 70,
        "memory_total_bytes": 100,
    }
    assert told.items() >= expected.items()
    assert told["last_good_run_s_ago"] > 0
