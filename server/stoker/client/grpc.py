"""Calls a server by gRPC, with tensors in the raw form.

Source: Open Inference Protocol v2, "gRPC"; an answer with typed contents, which other servers
may send, is read as well.
"""

from typing import Final, TypeVar

import grpc
import numpy as np
from google.protobuf.message import Message

from stoker.address import joined
from stoker.client.connection import ClientError
from stoker.errors import ServingError
from stoker.model import ModelMetadata
from stoker.protocol import inference_pb2
from stoker.request import InferRequest, InferResponse
from stoker.tensor import (
    Array,
    DataType,
    Tensor,
    TensorSpec,
    datatype_of,
    from_raw,
    text_of,
    to_raw,
)

_SERVICE: Final = "/inference.GRPCInferenceService/"
# The field of InferTensorContents that holds a datatype. FP16 and BF16 have none.
_CONTENTS: Final = {
    DataType.BOOL: "bool_contents",
    DataType.INT8: "int_contents",
    DataType.INT16: "int_contents",
    DataType.INT32: "int_contents",
    DataType.INT64: "int64_contents",
    DataType.UINT8: "uint_contents",
    DataType.UINT16: "uint_contents",
    DataType.UINT32: "uint_contents",
    DataType.UINT64: "uint64_contents",
    DataType.FP32: "fp32_contents",
    DataType.FP64: "fp64_contents",
    DataType.BYTES: "bytes_contents",
}

_M = TypeVar("_M", bound=Message)


class GrpcConnection:
    """One channel, connected by the first call."""

    def __init__(self, host: str, port: int, *, is_secure: bool, timeout_s: float) -> None:
        target = joined(host, port)
        options = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
        if is_secure:
            credentials = grpc.ssl_channel_credentials()
            self._channel = grpc.secure_channel(target, credentials, options=options)
        else:
            self._channel = grpc.insecure_channel(target, options=options)
        self._timeout_s = timeout_s

    def metadata(self, model: str, version: str) -> ModelMetadata:
        request = inference_pb2.ModelMetadataRequest(name=model, version=version)
        answer = self._call("ModelMetadata", request, inference_pb2.ModelMetadataResponse)
        return decode_metadata(answer)

    def infer(self, request: InferRequest) -> InferResponse:
        answer = self._call("ModelInfer", encode_request(request), inference_pb2.ModelInferResponse)
        return decode_response(answer)

    def close(self) -> None:
        self._channel.close()

    def _call(self, method: str, request: Message, answer: type[_M]) -> _M:
        call: grpc.UnaryUnaryMultiCallable[Message, _M] = self._channel.unary_unary(
            _SERVICE + method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        try:
            return call(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            code = error.code().name if isinstance(error, grpc.Call) else "UNKNOWN"
            text = (error.details() if isinstance(error, grpc.Call) else "") or str(error)
            raise ClientError(f"{' '.join(text.split())} (gRPC {code})") from error


def encode_request(request: InferRequest) -> inference_pb2.ModelInferRequest:
    """The message, with every tensor in `raw_input_contents`."""
    message = inference_pb2.ModelInferRequest(
        model_name=request.kind.model, model_version=request.kind.version
    )
    for tensor in request.inputs:
        message.inputs.add(name=tensor.name, datatype=tensor.datatype.wire, shape=tensor.shape)
        message.raw_input_contents.append(bytes(to_raw(tensor)))
    for name in request.kind.requested_outputs:
        message.outputs.add(name=name)
    return message


def decode_response(message: inference_pb2.ModelInferResponse) -> InferResponse:
    """The answer. Raises ClientError for anything that is no answer of the protocol."""
    try:
        outputs = []
        for index, each in enumerate(message.outputs):
            datatype = datatype_of(each.datatype, tensor=each.name)
            shape = tuple(each.shape)
            if message.raw_output_contents:
                raw = message.raw_output_contents[index]
                outputs.append(from_raw(each.name, datatype, shape, raw))
            else:
                array = _typed(each, datatype).reshape(shape)
                outputs.append(Tensor(each.name, datatype, shape, array))
    except (IndexError, KeyError, ValueError, ServingError) as error:
        raise ClientError(f"the server's answer is malformed: {error!r}") from error
    return InferResponse.of(message.model_name, message.model_version, "", tuple(outputs))


def decode_metadata(message: inference_pb2.ModelMetadataResponse) -> ModelMetadata:
    """The model's metadata. Raises ClientError for an unknown datatype."""
    try:
        inputs, outputs = (
            tuple(
                TensorSpec(
                    each.name, datatype_of(each.datatype, tensor=each.name), tuple(each.shape)
                )
                for each in side
            )
            for side in (message.inputs, message.outputs)
        )
    except ServingError as error:
        raise ClientError(f"the server's model metadata is malformed: {error}") from error
    return ModelMetadata(message.name, tuple(message.versions), message.platform, inputs, outputs)


def _typed(output: inference_pb2.ModelInferResponse.InferOutputTensor, datatype: DataType) -> Array:
    values = getattr(output.contents, _CONTENTS[datatype])
    if datatype is not DataType.BYTES:
        return np.array(values, datatype.numpy)
    array = np.empty(len(values), object)
    array[:] = [text_of(each, index, tensor=output.name) for index, each in enumerate(values)]
    return array
