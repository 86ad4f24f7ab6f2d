"""gRPC calls with messages of our own, for what stock clients cannot send."""

from typing import TypeVar

import grpc
from google.protobuf.message import Message
from stoker.protocol import inference_pb2 as pb

from tests.conftest import PATIENCE, Endpoints

SERVICE = "/inference.GRPCInferenceService/"

_Answer = TypeVar("_Answer", bound=Message)


def grpc_bytes(at: Endpoints, path: str, message: bytes) -> bytes:
    """The answer's bytes to a message's, by the method's full path. Raises grpc.RpcError."""
    with grpc.insecure_channel(at.grpc) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
        return call(message, timeout=PATIENCE)


def grpc_status(at: Endpoints, path: str, message: bytes) -> tuple[str, str]:
    """The status of such a call, and its details."""
    with grpc.insecure_channel(at.grpc) as channel:
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
        call = method.future(message, timeout=PATIENCE)
        return call.code().name, call.details() or ""


def grpc_call(at: Endpoints, method: str, request: Message, answer: type[_Answer]) -> _Answer:
    """One method of the inference service."""
    return answer.FromString(grpc_bytes(at, SERVICE + method, request.SerializeToString()))


def grpc_infer(at: Endpoints, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    """One inference."""
    return grpc_call(at, "ModelInfer", request, pb.ModelInferResponse)
