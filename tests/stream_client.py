"""A stream of ModelStreamInfer by grpcio's synchronous client: sends and reads when told to.

with open_stream(server.at) as stream:
    stream.send(request(1), request(2))
    assert stream.values(2) == [2, 4]
"""

import contextlib
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from typing import Any, Final

import grpc
import numpy as np
from stoker.protocol import inference_pb2 as pb

from tests.calls import UNLIMITED, rows
from tests.conftest import Endpoints
from tests.fake_runtime import FakeRuntime
from tests.grpc_call import SERVICE

PATH: Final = SERVICE + "ModelStreamInfer"


class Stream:
    """One open stream of grpcio's synchronous client; sends from a thread of grpcio's."""

    def __init__(
        self,
        channel: grpc.Channel,
        *,
        timeout: float | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._requests: SimpleQueue[bytes | None] = SimpleQueue()
        self.sent = 0
        method: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(PATH)
        self.call: Any = method(self._outgoing(), timeout=timeout, metadata=tuple(metadata))

    def send(self, *messages: bytes) -> None:
        for message in messages:
            self._requests.put(message)

    def half_close(self) -> None:
        self._requests.put(None)

    def read(self) -> pb.ModelStreamInferResponse:
        return pb.ModelStreamInferResponse.FromString(next(self.call))

    def values(self, count: int) -> list[float]:
        """The first element of each of the next `count` answers, which must be good."""
        return [value_of(self.read()) for _ in range(count)]

    def end(self) -> grpc.StatusCode:
        """The stream's status, when no answer comes before it."""
        with contextlib.suppress(grpc.RpcError, StopIteration):
            raise AssertionError(f"expected the end of the stream, got {self.read()}")
        code: grpc.StatusCode = self.call.code()
        return code

    def _outgoing(self) -> Iterator[bytes]:
        for message in iter(self._requests.get, None):
            self.sent += 1
            yield message


@contextlib.contextmanager
def open_stream(at: Endpoints, **options: Any) -> Iterator[Stream]:
    with grpc.insecure_channel(at.grpc, options=UNLIMITED) as channel:
        stream = Stream(channel, **options)
        try:
            yield stream
        finally:
            stream.half_close()  # ends grpcio's thread


def request(value: float, *, id: str = "", width: int = 4, priority: int = 0) -> bytes:
    data = rows(value, width=width)
    message = pb.ModelInferRequest(
        model_name="m",
        id=id,
        inputs=[pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=data.shape)],
        raw_input_contents=[data.tobytes()],
    )
    if priority:
        message.parameters["priority"].int64_param = priority
    return message.SerializeToString()


WRONG: Final = pb.ModelInferRequest(model_name="nope", id="wrong").SerializeToString()


def value_of(answer: pb.ModelStreamInferResponse) -> float:
    assert answer.error_message == ""
    (raw,) = answer.infer_response.raw_output_contents
    return float(np.frombuffer(raw, np.float32)[0])


def is_final(response: Any) -> bool:
    return bool(response.parameters["triton_final_response"].bool_param)


def occupy(stream: Stream, runtime: FakeRuntime, value: float = 0) -> None:
    """Sends a request and returns when the model is held inside its run."""
    runtime.forget()
    runtime.hold()
    stream.send(request(value))
    runtime.wait_for_run()
