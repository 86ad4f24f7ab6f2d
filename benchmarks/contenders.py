"""Who is compared: our server by each of its protocols, and the references, with one network.

Not a benchmark itself. The names are those of the rows that benchmarks print.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnxruntime  # type: ignore[import-untyped]  # it ships no types

from benchmarks import answers, bodies, targets
from benchmarks.load_tools import tool
from benchmarks.networks import Network, session
from benchmarks.serving import NATIVE, Endpoint, asgi_echo, grpc_echo, serve, transports
from benchmarks.targets import Target
from tests.certificates import self_signed
from tests.models import write_repository

BARE = "bare ONNX Runtime"
REST_BINARY, REST_JSON, REST_HTTP2 = "REST, binary", "REST, JSON", "REST over HTTP/2, binary"
GRPC_TLS = "gRPC, native, over TLS"
GRPC_ECHO = "grpc.aio echo, no inference"
ASGI_BINARY, ASGI_JSON = "uvicorn echo, binary body", "uvicorn echo, JSON body"


def grpc_name(transport: str) -> str:
    """The row of a gRPC transport."""
    return f"gRPC, {transport}"


@contextlib.contextmanager
def stokers(repository: Path) -> Iterator[dict[str, Endpoint]]:
    """Our server, once for each gRPC transport that it has."""
    with contextlib.ExitStack() as opened:
        yield {
            transport: opened.enter_context(serve(repository, transport=transport))
            for transport in transports()
        }


@contextlib.contextmanager
def stokers_of(
    network: Network,
) -> Iterator[tuple[dict[str, Endpoint], onnxruntime.InferenceSession]]:
    """Our servers of one network, their answers checked, and bare ONNX Runtime with it."""
    with tempfile.TemporaryDirectory() as folder:
        repository = write_repository(Path(folder), {network.name: network.make()})
        bare = session(repository / network.name / "1" / "model.onnx")
        with stokers(repository) as ours:
            for at in ours.values():
                answers.check(at, network, bare)
            yield ours, bare


@contextlib.contextmanager
def over_tls(
    network: Network, repository: Path, bare: onnxruntime.InferenceSession
) -> Iterator[Target]:
    """The native gRPC transport over TLS, with a self-signed certificate of ECDSA P-256."""
    tool("openssl")
    with tempfile.TemporaryDirectory() as folder:
        certificate = self_signed(Path(folder))
        with serve(repository, transport=NATIVE, certificate=certificate) as at:
            answers.check(at, network, bare)
            message = bodies.grpc_request(network.name, x=network.rows())
            yield targets.grpc(GRPC_TLS, at, message)


@contextlib.contextmanager
def contenders(
    network: Network, ours: dict[str, Endpoint], bare: onnxruntime.InferenceSession
) -> Iterator[list[Target]]:
    """Everything that can be loaded with this network, its answers checked. REST is measured at the
    server with the fastest gRPC transport."""
    x, name = network.rows(), network.name
    y = bare.run(["y"], {"x": x})[0]
    message = bodies.grpc_request(name, x=x)
    constant = bodies.grpc_answer(name, y=y)
    binary, text = bodies.binary_answer(name, y=y), bodies.json_answer(name, y=y)
    first = next(iter(ours.values()))
    with (
        grpc_echo(constant) as grpc_at,
        asgi_echo(binary) as binary_at,
        asgi_echo(text, "application/json") as json_at,
    ):
        for at in ours.values():
            answers.check(at, network, bare)
        for at, expected in ((grpc_at, constant), (binary_at, binary), (json_at, text)):
            answers.check_constant(at, expected)
        yield [
            *(targets.grpc(grpc_name(transport), at, message) for transport, at in ours.items()),
            targets.grpc(GRPC_ECHO, grpc_at, message),
            targets.rest_binary(REST_BINARY, first, name, x),
            targets.rest_json(REST_JSON, first, name, x),
            targets.rest_http2(REST_HTTP2, first, name, x),
            targets.rest_binary(ASGI_BINARY, binary_at, name, x),
            targets.rest_json(ASGI_JSON, json_at, name, x),
        ]
