"""grpcio's blocking client, as each of Locust's users has one: a channel, and a stream on it.

Not a benchmark itself. Locust has to be imported before this, and grpcio told of gevent before the
first channel: `locustfile` does both.
"""

import queue
from collections.abc import Iterator
from typing import Final

import grpc
from stoker.protocol.inference_pb2 import ModelStreamInferResponse

SERVICE: Final = "/inference.GRPCInferenceService/"


def connected(address: str) -> grpc.Channel:
    """A connection of its own, as a separate client has."""
    unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    return grpc.insecure_channel(address, [*unlimited, ("grpc.use_local_subchannel_pool", 1)])


def stream(
    channel: grpc.Channel, outgoing: "queue.SimpleQueue[bytes | None]"
) -> Iterator[ModelStreamInferResponse]:
    """The answers of a new ModelStreamInfer; None in the queue ends what is sent."""
    method: grpc.StreamStreamMultiCallable[bytes, ModelStreamInferResponse] = channel.stream_stream(
        f"{SERVICE}ModelStreamInfer", response_deserializer=ModelStreamInferResponse.FromString
    )
    return iter(method(iter(outgoing.get, None)))


def why_no_stream(address: str) -> str | None:
    """Why a server does not do ModelStreamInfer; None where it does, or is not there yet."""
    empty: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    empty.put(None)
    with connected(address) as channel:
        try:
            list(stream(channel, empty))
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return str(error.details())
    return None
