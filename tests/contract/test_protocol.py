"""Our protocol messages: never stale, alone in their pool, equal to what clients have."""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from stoker.protocol import files, inference_pb2

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ROOT / "server" / "stoker" / "protocol"
OURS = {"properties"}  # fields of the Open Inference Protocol that Triton lacks

PARTNERS = [
    ("stoker.protocol.model_config_pb2", "tritonclient.grpc.model_config_pb2"),
    ("stoker.protocol.inference_pb2", "tritonclient.grpc.service_pb2"),
    ("stoker.protocol.health_pb2", "grpc_health.v1.health_pb2"),
    ("stoker.protocol.reflection_v1alpha_pb2", "grpc_reflection.v1alpha.reflection_pb2"),
    ("stoker.protocol.reflection_pb2", "grpc_reflection.v1alpha.reflection_pb2"),
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "server")}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False
    )


def test_the_generated_modules_are_those_of_the_proto_files(tmp_path: Path) -> None:
    done = run(str(ROOT / "scripts" / "make_protos.py"), "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    fresh = {path.name: path.read_text() for path in tmp_path.iterdir()}
    checked_in = {path.name: path.read_text() for path in GENERATED.glob("*_pb2.py*")}
    stale = sorted(
        name for name in fresh.keys() | checked_in.keys() if fresh.get(name) != checked_in.get(name)
    )
    assert not stale, f"run `make protos`: {', '.join(stale)}"


OUR_IMPORT = "from stoker.protocol import files, inference_pb2 as ours"
THEIR_IMPORT = (
    "import tritonclient.grpc, tritonclient.grpc.aio\n"
    "from tritonclient.grpc import service_pb2 as theirs\n"
    "import grpc_health.v1.health_pb2, grpc_reflection.v1alpha.reflection_pb2"
)
BOTH_WORK = (
    "message = theirs.ModelInferRequest(model_name='m', raw_input_contents=[b'abc'])\n"
    "same = ours.ModelInferRequest.FromString(message.SerializeToString())\n"
    "assert same.model_name == 'm' and same.raw_input_contents[0] == b'abc'\n"
    "assert type(same) is not type(message)"
)


@pytest.mark.parametrize("order", [(OUR_IMPORT, THEIR_IMPORT), (THEIR_IMPORT, OUR_IMPORT)])
def test_tritonclient_and_our_messages_work_in_one_process(order: tuple[str, str]) -> None:
    done = run("-c", "\n".join([*order, BOTH_WORK]))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("ours", "theirs"), PARTNERS)
def test_every_field_has_the_name_number_type_label_and_oneof_of_the_clients(
    ours: str, theirs: str
) -> None:
    our_file, their_file = descriptor(ours), descriptor(theirs)
    assert dict(described(our_file)) == dict(described(their_file))


@pytest.mark.parametrize(("ours", "theirs"), PARTNERS)
def test_every_method_has_the_name_types_and_streaming_of_the_clients(
    ours: str, theirs: str
) -> None:
    assert methods(descriptor(ours)) == methods(descriptor(theirs))


def test_reflection_finds_the_file_of_a_method_and_what_it_imports() -> None:
    name = files.file_of_symbol("inference.GRPCInferenceService.ModelInfer")
    assert name == "inference.proto"
    found = files.with_imports(name)
    assert found is not None
    assert [FileDescriptorProto.FromString(each).name for each in found] == [
        "inference.proto",
        "model_config.proto",
    ]


@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        ("inference.ModelInferRequest.InferInputTensor.shape", "inference.proto"),
        ("inference.TYPE_FP32", "model_config.proto"),
        ("inference.ModelInstanceGroup.KIND_GPU", "model_config.proto"),
        ("grpc.health.v1.Health", "health.proto"),
        ("grpc.reflection.v1alpha.ServerReflection", "reflection_v1alpha.proto"),
    ],
)
def test_reflection_finds_the_file_of_every_kind_of_symbol(symbol: str, file: str) -> None:
    assert files.file_of_symbol(symbol) == file


def test_reflection_knows_no_foreign_symbol_or_file() -> None:
    assert files.file_of_symbol("google.protobuf.Any") is None
    assert files.with_imports("google/protobuf/any.proto") is None


def test_the_services_are_listed_by_their_full_names() -> None:
    assert files.SERVICES == (
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
    )


def test_metadata_has_the_properties_of_the_open_inference_protocol() -> None:
    field = inference_pb2.ModelMetadataResponse.DESCRIPTOR.fields_by_name["properties"]
    assert field.number == 6


def descriptor(module: str) -> FileDescriptor:
    imported: ModuleType = importlib.import_module(module)
    found = imported.DESCRIPTOR
    assert isinstance(found, FileDescriptor)
    return found


def described(file: FileDescriptor) -> Iterator[tuple[str, object]]:
    """Everything that the wire and the text format depend on, by name without the package."""
    for enum in file.enum_types_by_name.values():
        yield enum.name, enum_values(enum)
    for message in file.message_types_by_name.values():
        yield from described_message(message, message.name)


def described_message(message: Descriptor, path: str) -> Iterator[tuple[str, object]]:
    yield path, "message"
    for field in message.fields:
        if field.name in OURS:
            continue
        yield (
            f"{path}.{field.name}",
            (
                field.number,
                field.type,
                field.is_repeated,
                field.is_packed,
                field.containing_oneof.name if field.containing_oneof else None,
                field.message_type.name if field.message_type else None,
                field.enum_type.name if field.enum_type else None,
            ),
        )
    for enum in message.enum_types:
        yield f"{path}.{enum.name}", enum_values(enum)
    for nested in message.nested_types:
        if nested.name != "PropertiesEntry":
            yield from described_message(nested, f"{path}.{nested.name}")


def enum_values(enum: EnumDescriptor) -> list[tuple[str, int]]:
    return [(value.name, value.number) for value in enum.values]


def methods(file: FileDescriptor) -> list[tuple[object, ...]]:
    return [
        (
            service.name,
            method.name,
            method.input_type.name,
            method.output_type.name,
            method.client_streaming,
            method.server_streaming,
        )
        for service in file.services_by_name.values()
        for method in service.methods
    ]
