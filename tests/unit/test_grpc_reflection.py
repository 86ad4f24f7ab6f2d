"""Server reflection's answers, one question at a time."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from stoker.protocol import reflection_pb2 as v1
from stoker.protocol import reflection_v1alpha_pb2 as v1alpha
from stoker.transport.grpc.call import CallContext, StreamMethod
from stoker.transport.grpc.reflection import answer, reflection_methods

Question = v1.ServerReflectionRequest


def file_names(response: v1.ServerReflectionResponse) -> list[str]:
    files = response.file_descriptor_response.file_descriptor_proto
    return [FileDescriptorProto.FromString(each).name for each in files]


def test_all_services_are_listed() -> None:
    listed = answer(Question(list_services="")).list_services_response.service
    assert [each.name for each in listed] == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
    ]


@pytest.mark.parametrize(
    "symbol",
    [
        "inference.GRPCInferenceService",
        "inference.GRPCInferenceService.ModelInfer",
        "inference.ModelInferRequest",
        "inference.ModelInferRequest.InferInputTensor",
    ],
)
def test_a_symbol_gives_its_file_and_what_that_imports(symbol: str) -> None:
    response = answer(Question(file_containing_symbol=symbol))
    assert file_names(response) == ["inference.proto", "model_config.proto"]


def test_a_file_is_found_by_its_name() -> None:
    assert file_names(answer(Question(file_by_filename="health.proto"))) == ["health.proto"]


@pytest.mark.parametrize(
    "question",
    [
        Question(file_by_filename="nope.proto"),
        Question(file_containing_symbol="inference.Nope"),
        Question(file_containing_symbol="inference.GRPCInferenceService.Nope"),
        Question(file_containing_symbol=""),
        Question(all_extension_numbers_of_type="inference.Nope"),
        Question(
            file_containing_extension=v1.ExtensionRequest(
                containing_type="inference.ModelInferRequest", extension_number=3
            )
        ),
    ],
)
def test_what_does_not_exist_is_not_found_in_band(question: v1.ServerReflectionRequest) -> None:
    response = answer(question)
    assert response.error_response.error_code == 5
    assert response.original_request == question


def test_no_message_has_extensions() -> None:
    name = "inference.ModelInferRequest"
    response = answer(Question(all_extension_numbers_of_type=name))
    assert response.all_extension_numbers_response.base_type_name == name
    assert response.WhichOneof("message_response") == "all_extension_numbers_response"


def test_a_question_of_no_known_kind_is_unimplemented_in_band() -> None:
    assert answer(Question(host="h")).error_response.error_code == 12


@pytest.mark.parametrize("package", ["v1", "v1alpha"])
def test_a_stream_answers_each_question_in_order(package: str) -> None:
    messages = v1 if package == "v1" else v1alpha
    method = reflection_methods()[
        f"/grpc.reflection.{package}.ServerReflection/ServerReflectionInfo"
    ]
    assert isinstance(method, StreamMethod)

    async def questions() -> AsyncIterator[bytes]:
        for name in ("nope.proto", "health.proto"):
            yield messages.ServerReflectionRequest(file_by_filename=name).SerializeToString()

    async def answers() -> list[bytes]:
        return [each async for each in method.handle(questions(), CallContext())]

    first, second = map(messages.ServerReflectionResponse.FromString, asyncio.run(answers()))
    assert first.WhichOneof("message_response") == "error_response"
    assert second.original_request.file_by_filename == "health.proto"
    assert len(second.file_descriptor_response.file_descriptor_proto) == 1
