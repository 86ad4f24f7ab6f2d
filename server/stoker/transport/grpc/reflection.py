"""Server reflection, v1 and v1alpha: grpcurl and its like learn our services and messages.

A stream of questions, each with one answer; what cannot be answered is told in the answer, and
the stream goes on. The files come from `protocol/files.py`. Knows no model and no engine.
Source: gRPC server reflection protocol, grpc.reflection.v1.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final, TypeAlias

from stoker.errors import ErrorCode
from stoker.protocol import reflection_pb2 as v1
from stoker.protocol import reflection_v1alpha_pb2 as v1alpha
from stoker.protocol.files import SERVICES, file_of_symbol, with_imports
from stoker.protocol.pool import POOL
from stoker.transport.grpc.call import CallContext, MessageBytes, Method, StreamMethod, parse
from stoker.transport.status import STATUS

_NOT_FOUND: Final = STATUS[ErrorCode.MODEL_NOT_FOUND].grpc
_UNIMPLEMENTED: Final = STATUS[ErrorCode.UNSUPPORTED].grpc

_Request: TypeAlias = v1.ServerReflectionRequest
_Response: TypeAlias = v1.ServerReflectionResponse


def reflection_methods() -> dict[str, Method]:
    """ServerReflectionInfo of both packages by full name. Their messages are alike byte for byte,
    so that v1's classes serve both."""
    method = StreamMethod(_reflect, is_endless=True)
    return {
        f"/{package.DESCRIPTOR.package}.ServerReflection/ServerReflectionInfo": method
        for package in (v1, v1alpha)
    }


async def _reflect(
    requests: AsyncIterator[MessageBytes], context: CallContext
) -> AsyncGenerator[bytes, None]:
    async for message in requests:
        request = parse(_Request, message)
        yield answer(request).SerializeToString()


def answer(request: _Request) -> _Response:
    """The answer to one question; failures are answers too."""
    response = _Response(valid_host=request.host, original_request=request)
    question = request.WhichOneof("message_request")
    if question == "list_services":
        response.list_services_response.service.extend(
            v1.ServiceResponse(name=name) for name in SERVICES
        )
    elif question == "file_by_filename":
        _give_file(response, request.file_by_filename)
    elif question == "file_containing_symbol":
        _give_file_of_symbol(response, request.file_containing_symbol)
    elif question == "file_containing_extension":
        extension = request.file_containing_extension
        _refuse(
            response,
            _NOT_FOUND,
            f"no extension {extension.extension_number} of '{extension.containing_type}'",
        )
    elif question == "all_extension_numbers_of_type":
        type_name = request.all_extension_numbers_of_type
        if file_of_symbol(type_name) is None:
            _refuse(response, _NOT_FOUND, f"no type '{type_name}'")
        else:  # proto3 messages have no extensions: the list stays empty
            response.all_extension_numbers_response.base_type_name = type_name
    else:
        _refuse(response, _UNIMPLEMENTED, "expected a question that v1 or v1alpha has, got none")
    return response


def _give_file(response: _Response, name: str) -> None:
    files = with_imports(name)
    if files is None:
        _refuse(response, _NOT_FOUND, f"no file '{name}'")
    else:
        response.file_descriptor_response.file_descriptor_proto.extend(files)


def _give_file_of_symbol(response: _Response, symbol: str) -> None:
    # protobuf's pool finds services but not their methods: those are where the service is.
    file = file_of_symbol(symbol)
    if file is None:
        service, _, method = symbol.rpartition(".")
        if service in SERVICES:
            found = POOL.FindServiceByName(service)  # type: ignore[no-untyped-call]  # the stub's
            if method in found.methods_by_name:
                file = file_of_symbol(service)
    if file is None:
        _refuse(response, _NOT_FOUND, f"no symbol '{symbol}'")
    else:
        _give_file(response, file)


def _refuse(response: _Response, code: int, message: str) -> None:
    response.error_response.error_code = code
    response.error_response.error_message = message
