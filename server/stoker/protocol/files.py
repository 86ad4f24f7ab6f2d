"""Which files, services and symbols our protocol has: what server reflection answers with.

Importing this module declares every generated file. Extensions do not occur in proto3 files like
ours, so there is no answer about them.
"""

from collections.abc import Iterator
from types import MappingProxyType
from typing import Final

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FileDescriptor

from stoker.protocol import (
    health_pb2,
    inference_pb2,
    model_config_pb2,
    reflection_pb2,
    reflection_v1alpha_pb2,
)

_FILES: Final[tuple[FileDescriptor, ...]] = (
    model_config_pb2.DESCRIPTOR,
    inference_pb2.DESCRIPTOR,
    health_pb2.DESCRIPTOR,
    reflection_pb2.DESCRIPTOR,
    reflection_v1alpha_pb2.DESCRIPTOR,
)

SERIALIZED: Final = MappingProxyType({file.name: file.serialized_pb for file in _FILES})
"""File name -> serialised FileDescriptorProto."""

SERVICES: Final = tuple(
    sorted(service.full_name for file in _FILES for service in file.services_by_name.values())
)
"""Full names of all services that the files define, whether they are served or not."""


_IMPORTS: Final = MappingProxyType(
    {file.name: tuple(each.name for each in file.dependencies) for file in _FILES}
)


def _symbols_of_enum(enum: EnumDescriptor) -> Iterator[str]:
    yield enum.full_name
    scope = enum.full_name.rpartition(".")[0]  # as in C++, values are siblings of their enum
    for value in enum.values:
        yield f"{scope}.{value.name}"


def _symbols_of_message(message: Descriptor) -> Iterator[str]:
    yield message.full_name
    for member in (*message.fields, *message.oneofs):
        yield f"{message.full_name}.{member.name}"
    for enum in message.enum_types:
        yield from _symbols_of_enum(enum)
    for nested in message.nested_types:
        yield from _symbols_of_message(nested)


def _symbols_of_file(file: FileDescriptor) -> Iterator[str]:
    for service in file.services_by_name.values():
        yield service.full_name
        for method in service.methods:
            yield f"{service.full_name}.{method.name}"
    for enum in file.enum_types_by_name.values():
        yield from _symbols_of_enum(enum)
    for message in file.message_types_by_name.values():
        yield from _symbols_of_message(message)


# Of our own making: the C pool's search by symbol does not know methods.
_FILE_OF_SYMBOL: Final = MappingProxyType(
    {symbol: file.name for file in _FILES for symbol in _symbols_of_file(file)}
)


def file_of_symbol(symbol: str) -> str | None:
    """The file that defines a service, method, message, enum, value or field; None if none does."""
    return _FILE_OF_SYMBOL.get(symbol)


def with_imports(file_name: str) -> tuple[bytes, ...] | None:
    """A file's serialised descriptor, then those of the files it imports; None if unknown."""
    if file_name not in SERIALIZED:
        return None
    wanted = [file_name]
    for name in wanted:  # grows while it is walked: imports of imports come later
        wanted += [each for each in _IMPORTS[name] if each not in wanted]
    return tuple(SERIALIZED[name] for name in wanted)
