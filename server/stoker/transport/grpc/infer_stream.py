"""ModelStreamInfer: requests of one stream are in flight together and answered in their order.

On the way of a request it stands beside `methods.py`, between any transport and the engine:
message bytes come from an asynchronous iterator, answers leave by being yielded. Beside the
generator, which the transport's task runs, a stream has one task of its own, the reader, which
submits what comes; so the engine sees many requests of one client at once and batches them. A
request costs no Task.

Invariants.
  1. Every message gets one answer, in the order of the messages. What fails is told in its answer
     and the stream goes on, unless the client opened it with `triton_grpc_error: true`: then the
     first failure in that order is the stream's status and what follows it is cancelled.
  2. The reader takes a message only while fewer than MAX_IN_FLIGHT requests and MAX_HELD_BYTES are
     held. A request is held until the transport has come back for the next answer, so a client
     that sends and does not read is stopped by flow control.
  3. When the generator ends, however it ends, the reader has ended, requests without an answer are
     cancelled in the engine, and the server's budget has every byte back.
  4. Leases are released when an answer is encoded, or when it comes too late for anybody.

`InferStreams.stop` is for a server that drains: no further message is read, those that were are
answered, then the status is Draining. It is neither OK, which would tell a client that all it sent
was answered, nor an abrupt end, which would lose accepted requests; and a client that keeps an idle
stream for days does not hold up the drain.

Hot path.  Source: Triton's extension of the Open Inference Protocol, ModelStreamInfer.
"""

import asyncio
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

from stoker.errors import Draining, Overloaded, ServingError
from stoker.inference import Cancel, InferenceEngine
from stoker.protocol.inference_pb2 import (
    InferParameter,
    ModelInferResponse,
    ModelStreamInferResponse,
)
from stoker.request import InferRequest, InferResponse
from stoker.telemetry.observation import current
from stoker.telemetry.server_statistics import ServerStatistics, UnroutedReason
from stoker.transport.grpc.call import CallContext, MessageBytes, unforeseen
from stoker.transport.grpc.codec import parse_request, request_of
from stoker.transport.grpc.encode import response_pieces
from stoker.transport.grpc.wire_form import delimited_head
from stoker.transport.wire.limits import BufferBudget

MAX_IN_FLIGHT: Final = 256
"""Requests of one stream that are read and whose answers have not left. Twice the largest batch
that is formed for a model that configures none (128): one stream can fill a batch while another
runs. What more a client sends waits with it."""

MAX_HELD_BYTES: Final = 64 << 20
"""Bytes of messages and unsent answers of one stream above which no further message is read. Large
requests fill a device in small numbers: this is four of 16 MiB. One message may go beyond it."""

_FINAL_PARAMETER: Final = {"triton_final_response": InferParameter(bool_param=True)}
_FINAL: Final = ModelInferResponse(parameters=_FINAL_PARAMETER).SerializeToString()
"""The parameter as a field of ModelInferResponse. A model here gives one response to a request, so
every answer is the last one and `triton_enable_empty_final_response` asks for nothing more."""


class InferStreams:
    """All open streams of ModelStreamInfer, whichever transports carry them. Used on the loop."""

    def __init__(
        self,
        engine: InferenceEngine,
        statistics: ServerStatistics,
        budget: BufferBudget | None = None,
    ) -> None:
        """`budget` counts messages in flight and answers that have not left; a message that it has
        no room for is answered Overloaded. `statistics` counts what never reaches the engine."""
        self._engine = engine
        self._statistics = statistics
        self._budget = budget or BufferBudget(sys.maxsize)
        self._open: set[_Stream] = set()
        self._is_stopping = False

    async def answer(
        self, requests: AsyncIterator[MessageBytes], context: CallContext
    ) -> AsyncGenerator[bytes, None]:
        """One stream, from its first message to its end: a `StreamHandler`.

        What `requests` raises ends the stream likewise, after the answers to what came before.
        """
        if self._is_stopping:
            raise _draining()
        ends_on_error = context.metadata.get("triton_grpc_error") == "true"
        stream = _Stream(self._engine, self._statistics, self._budget, context)
        stream.start(requests)
        self._open.add(stream)
        try:
            while (oldest := await stream.oldest_answered()) is not None:
                answer = oldest.answer
                if isinstance(answer, ServingError):
                    if ends_on_error:
                        raise answer.bare()
                    answer = encode_stream_error(answer, oldest.model, oldest.version, id=oldest.id)
                assert answer is not None  # it is answered
                yield answer
                stream.let_go()
                del answer, oldest  # megabytes, perhaps, until the client's next request
            stream.raise_for_end()
        finally:
            self._open.discard(stream)
            await stream.close()

    def stop(self) -> None:
        """Open streams read no further message and end when they have answered those they read;
        later streams are refused. Harmless when called again."""
        self._is_stopping = True
        for stream in self._open:
            stream.stop()


class _Stream:
    """The requests of one stream in their order, and the task that reads them."""

    def __init__(
        self,
        engine: InferenceEngine,
        statistics: ServerStatistics,
        budget: BufferBudget,
        context: CallContext,
    ) -> None:
        self._engine = engine
        self._statistics = statistics
        self._budget = budget
        self._deadline = context.deadline
        self._is_retry = context.is_retry
        self._in_flight: deque[_InFlight] = deque()
        self._held_bytes = 0
        self._progress = asyncio.Event()
        """The oldest request got its answer, or the reader ended."""
        self._room = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._is_stopped = False

    def start(self, requests: AsyncIterator[MessageBytes]) -> None:
        """Begins to read; `close` ends it."""
        self._reader = asyncio.create_task(self._read(requests), name="infer stream reader")
        self._reader.add_done_callback(lambda _: self._progress.set())

    def stop(self) -> None:
        """Reads no further message."""
        if self._reader is not None and not self._reader.done():
            self._is_stopped = True
            self._reader.cancel()

    async def oldest_answered(self) -> "_InFlight | None":
        """Waits for the answer of the oldest request. None: there is none and none will come."""
        while True:
            if self._in_flight:
                if self._in_flight[0].answer is not None:
                    return self._in_flight[0]
            elif self._reader is None or self._reader.done():
                return None
            self._progress.clear()
            await self._progress.wait()

    def let_go(self) -> None:
        """The answer of the oldest request has left."""
        self._hold(self._in_flight.popleft(), 0)

    def raise_for_end(self) -> None:
        """Raises what ended the reader; returns if that was the client's half-close."""
        if self._is_stopped:
            raise _draining()
        if self._reader is not None:
            self._reader.result()

    async def close(self) -> None:
        """Cancels what has no answer and waits for the reader."""
        if self._reader is not None:
            self._reader.cancel()  # first, so that it takes nothing into the room that comes free
        while self._in_flight:
            request = self._in_flight.popleft()
            self._hold(request, 0)
            request.drop()
        if self._reader is not None:
            await asyncio.gather(self._reader, return_exceptions=True)

    def answered(self, request: "_InFlight", size: int) -> None:
        """`request` has its answer, of `size` bytes to hold."""
        self._hold(request, size)
        if self._in_flight[0] is request:
            self._progress.set()

    async def _read(self, requests: AsyncIterator[MessageBytes]) -> None:
        async for message in requests:
            self._take(message)
            del message  # it would live until the next one comes
            while not self._has_room:
                self._room.clear()
                await self._room.wait()

    def _take(self, message: MessageBytes) -> None:
        """Submits one message; what is wrong with it becomes its answer."""
        taken = _InFlight(self)
        self._in_flight.append(taken)
        try:
            request = self._decode(message, taken)
            cancel = self._engine.submit(request, taken.reply)
        except ServingError as error:
            is_full = isinstance(error, Overloaded)
            self._statistics.record_unrouted(
                UnroutedReason.TOO_LARGE if is_full else UnroutedReason.MALFORMED
            )
            taken.reply(_noted(error.bare()))
        except Exception as error:
            taken.reply(_noted(unforeseen("ModelStreamInfer", error)))
        else:
            if taken.answer is None:
                taken.cancel = cancel

    def _decode(self, message: MessageBytes, taken: "_InFlight") -> InferRequest:
        wire = parse_request(message)
        taken.model, taken.version, taken.id = wire.model_name, wire.model_version, wire.id
        self._budget.reserve(len(message))
        taken.held_bytes = len(message)
        self._held_bytes += len(message)
        return request_of(wire, deadline=self._deadline, is_retry=self._is_retry)

    @property
    def _has_room(self) -> bool:
        return len(self._in_flight) < MAX_IN_FLIGHT and self._held_bytes < MAX_HELD_BYTES

    def _hold(self, request: "_InFlight", size: int) -> None:
        """Counts `size` bytes for the request instead of those that it held."""
        self._budget.charge(size)
        self._budget.release(request.held_bytes)
        self._held_bytes += size - request.held_bytes
        request.held_bytes = size
        if self._has_room:
            self._room.set()


class _InFlight:
    """One request of a stream, from its message until its answer has left."""

    __slots__ = (
        "_is_dropped",
        "_stream",
        "answer",
        "cancel",
        "held_bytes",
        "id",
        "model",
        "version",
    )

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self._is_dropped = False
        self.answer: bytes | ServingError | None = None
        self.cancel: Cancel | None = None
        self.held_bytes = 0
        self.model = self.version = self.id = ""
        """As in the request; empty for bytes that are no message."""

    def reply(self, outcome: InferResponse | ServingError) -> None:
        """The engine's answer. Of a request that was dropped only the lease goes back."""
        if self._is_dropped:
            if isinstance(outcome, InferResponse) and outcome.lease is not None:
                outcome.lease.release()
            return
        if isinstance(outcome, ServingError):
            self.answer = outcome
            texts = (outcome.message, self.model, self.version, self.id)
            size = sum(map(len, texts))  # of the request's own, perhaps megabytes
        else:
            self.answer = _encoded(outcome)
            size = len(self.answer) if isinstance(self.answer, bytes) else 0
        self.cancel = None
        self._stream.answered(self, size)

    def drop(self) -> None:
        """Nobody waits for the answer any more."""
        self._is_dropped = True
        if self.cancel is not None:
            self.cancel()
            self.cancel = None


def _encoded(response: InferResponse) -> bytes | ServingError:
    """The answer's bytes, or the error that takes their place. Its lease is released: every byte
    was copied."""
    try:
        return encode_stream_response(response)
    except ServingError as error:
        return error.bare()
    except Exception as error:
        return unforeseen("ModelStreamInfer", error)
    finally:
        if response.lease is not None:
            response.lease.release()


def encode_stream_response(response: InferResponse) -> bytes:
    """The ModelStreamInferResponse of a good answer, the last one to its request.

    Copies every output and raises as `encode.encode_response`.
    """
    pieces = response_pieces(response)
    pieces.append(_FINAL)
    head = delimited_head(2, sum(map(len, pieces)))  # infer_response
    return b"".join([head, *pieces])


def encode_stream_error(error: ServingError, model: str, version: str, *, id: str) -> bytes:
    """The ModelStreamInferResponse of a request that failed, with what it said of itself."""
    return ModelStreamInferResponse(
        # Clients tell a failure by a text that is not empty.
        error_message=error.message or error.code.value,
        infer_response=ModelInferResponse(
            model_name=model, model_version=version, id=id, parameters=_FINAL_PARAMETER
        ),
    ).SerializeToString()


def _noted(error: ServingError) -> ServingError:
    """The error of a message that never reached the engine; whoever looks at the stream sees it."""
    observation = current.get()
    if observation is not None:
        observation.code = error.code.value
    return error


def _draining() -> Draining:
    return Draining(
        "the server is shutting down; open another stream for the requests that have no answer",
        retry_after=1.0,
    )
