"""The descriptor pool in which our messages live, apart from the process-wide one.

`tritonclient`, grpcio's health package and others register packages `inference` and
`grpc.health.v1` in protobuf's default pool, under other file names; two such registrations in one
pool fail. A pool of our own lets all of them be imported in one process, in any order. The classes
are the ones that protobuf's C implementation builds for generated code as well, just as fast.

The generated `*_pb2` modules call `declare`; `files.py` answers questions about what was declared.
"""

from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message_factory import GetMessageClass

POOL: Final = DescriptorPool()


def declare(serialized: bytes, module: dict[str, Any]) -> FileDescriptor:
    """Adds one file (a serialised FileDescriptorProto) and defines its names in `module`.

    The names are those of protoc's Python code: message classes, top-level enums, their values.
    Files must come after the files they import.
    """
    # The stubs leave the method untyped.
    file: FileDescriptor = POOL.AddSerializedFile(serialized)  # type: ignore[no-untyped-call]
    for name, enum in file.enum_types_by_name.items():
        module[name] = EnumTypeWrapper(enum)
        for value in enum.values:
            module[value.name] = value.number
    for name, message in file.message_types_by_name.items():
        module[name] = _class_of(message, module["__name__"])
    return file


def _class_of(message: Descriptor, module: str) -> type[Any]:
    built = GetMessageClass(message)
    built.__module__ = module
    for name, nested in message.nested_types_by_name.items():
        setattr(built, name, _class_of(nested, module))
    return built
