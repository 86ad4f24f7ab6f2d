"""ModelStreamInfer without a transport, for tests: a hand-fed iterator of messages in, answers out.

async def steps() -> None:
    stream = Stream()
    answer = await stream.send(message("a"))
    stream.engine.release("a")
    assert ids([await answer]) == ["a"]

run(steps)
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Self

from stoker.protocol import inference_pb2 as pb
from stoker.telemetry.server_statistics import ServerStatistics
from stoker.transport.grpc.call import CallContext
from stoker.transport.grpc.infer_stream import InferStreams
from stoker.transport.wire.limits import BufferBudget

from tests.engine_double import MODEL, EngineDouble, values

PATIENCE_S = 10.0


class Messages:
    """What a client sends, as a transport's iterator; counts how often the handler asked."""

    def __init__(self) -> None:
        self.asked = 0
        self._sent: asyncio.Queue[bytes | Exception] = asyncio.Queue()
        self._changed = asyncio.Event()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        self.asked += 1
        self._changed.set()
        sent = await self._sent.get()
        if isinstance(sent, Exception):
            raise sent
        return sent

    def send(self, *messages: bytes) -> None:
        for message in messages:
            self._sent.put_nowait(message)

    def half_close(self) -> None:
        self._sent.put_nowait(StopAsyncIteration())

    def fail(self, error: Exception) -> None:
        self._sent.put_nowait(error)

    async def read(self, count: int) -> None:
        """Waits until the handler has taken `count` messages and asks for the next."""
        while self.asked <= count:
            self._changed.clear()
            await self._changed.wait()


class Stream:
    """One stream of an engine that holds every request until the test lets it go."""

    def __init__(
        self,
        engine: EngineDouble | None = None,
        *,
        context: CallContext | None = None,
        budget: BufferBudget | None = None,
    ) -> None:
        self.engine = engine or EngineDouble(answer=None)
        self.statistics = ServerStatistics()
        self.budget = budget or BufferBudget(1 << 40)
        self.streams = InferStreams(self.engine, self.statistics, self.budget)
        self.client = Messages()
        self.answers = self.streams.answer(self.client, context or CallContext())

    async def next(self) -> pb.ModelStreamInferResponse:
        return pb.ModelStreamInferResponse.FromString(await anext(self.answers))

    async def rest(self) -> list[pb.ModelStreamInferResponse]:
        return [pb.ModelStreamInferResponse.FromString(each) async for each in self.answers]

    async def send(self, *messages: bytes) -> "asyncio.Task[pb.ModelStreamInferResponse]":
        """Sends, and waits until all are submitted. Gives the wait for the next answer."""
        self.client.send(*messages)
        waiting = asyncio.ensure_future(self.next())
        await self.client.read(len(messages))
        return waiting


def run(steps: Callable[[], Awaitable[None]]) -> None:
    async def within() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await steps()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(within())


async def turns() -> None:
    """Lets everything happen that is ready to."""
    for _ in range(10):
        await asyncio.sleep(0)


def message(id: str = "", *, rows: int = 1, model: str = MODEL, **changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "model_name": model,
        "inputs": [
            pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[rows, 4])
        ],
        "raw_input_contents": [values(rows).tobytes()],
        "id": id,
    }
    return pb.ModelInferRequest(**{**fields, **changes}).SerializeToString()


def ids(answers: list[pb.ModelStreamInferResponse]) -> list[str]:
    return [each.infer_response.id for each in answers]


def is_final(answer: pb.ModelStreamInferResponse) -> bool:
    parameters = answer.infer_response.parameters
    return list(parameters) == ["triton_final_response"] and (
        parameters["triton_final_response"].bool_param
    )
