"""Generates `server/stoker/protocol/*_pb2.py` and `*_pb2.pyi` from `protos/` (`make protos`).

protoc compiles the files; of its output we keep the descriptors and the type stubs. Each generated
module hands its descriptor to `stoker.protocol.pool`, which builds the message classes in a pool of
our own: protoc's own modules would register package `inference` in the process-wide pool, where
`tritonclient` registers its package of that name.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Final

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc  # type: ignore[import-untyped]  # has neither stubs nor types

ROOT: Final = Path(__file__).resolve().parent.parent
PROTOS: Final = ROOT / "protos"
OUTPUT: Final = ROOT / "server" / "stoker" / "protocol"

HEADER: Final = (
    "Generated from protos/{name} by scripts/make_protos.py (`make protos`). Do not edit."
)
BYTES_PER_LINE: Final = 60


def main(arguments: Sequence[str]) -> int:
    """Writes all generated files; the exit status."""
    parser = argparse.ArgumentParser(description="Generate the protocol's messages from protos/.")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder to write into")
    output: Path = parser.parse_args(arguments).output
    generated = generate(PROTOS)
    output.mkdir(parents=True, exist_ok=True)
    for stale in output.glob("*_pb2.py*"):
        if stale.is_file() and stale.name not in generated:
            stale.unlink()
    for name, text in generated.items():
        (output / name).write_text(text, encoding="utf-8")
    print(f"{len(generated)} files in {output}")
    return 0


def generate(protos: Path) -> dict[str, str]:
    """The generated files: name -> text. Raises RuntimeError if protoc refuses a file."""
    sources = sorted(path.name for path in protos.glob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        described = Path(folder) / "all.binpb"
        status = protoc.main(
            [
                "protoc",
                f"-I{protos}",
                f"-I{files('grpc_tools') / '_proto'}",
                f"--pyi_out={folder}",
                f"--descriptor_set_out={described}",
                *sources,
            ]
        )
        if status != 0:
            raise RuntimeError(f"protoc failed with status {status}")
        descriptors = FileDescriptorSet.FromString(described.read_bytes())
        generated: dict[str, str] = {}
        for descriptor in descriptors.file:
            module = module_name(descriptor.name)
            stub = (Path(folder) / f"{module}.pyi").read_text(encoding="utf-8")
            generated[f"{module}.py"] = module_text(descriptor)
            generated[f"{module}.pyi"] = stub_text(descriptor, stub)
    return generated


def module_name(proto: str) -> str:
    """`inference.proto` -> `inference_pb2`."""
    return f"{proto.removesuffix('.proto')}_pb2"


def module_text(descriptor: FileDescriptorProto) -> str:
    """The Python module of one file: its descriptor, handed to our pool."""
    imports = [
        f"from stoker.protocol import {module_name(name)}  # noqa: F401\n"
        for name in descriptor.dependency
    ]
    serialized = descriptor.SerializeToString(deterministic=True)
    lines = [
        f"    {serialized[at : at + BYTES_PER_LINE]!r}\n"
        for at in range(0, len(serialized), BYTES_PER_LINE)
    ]
    return (
        f'"""{HEADER.format(name=descriptor.name)}"""\n\n'
        f"{''.join(imports)}from stoker.protocol.pool import declare\n\n"
        f"DESCRIPTOR = declare(\n{''.join(lines)}    ,\n    globals(),\n)\n"
    )


def stub_text(descriptor: FileDescriptorProto, stub: str) -> str:
    """protoc's stub with imports that resolve in our package and no untyped corners."""
    for name in descriptor.dependency:
        module = module_name(name)
        stub = stub.replace(f"import {module} as", f"from stoker.protocol import {module} as")
    stub = re.sub(r"\b_Mapping\](?!\[)", "_Mapping[str, object]]", stub)
    stub = stub.replace("**kwargs)", "**kwargs: object)")
    return f"# {HEADER.format(name=descriptor.name)}\n{stub}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
