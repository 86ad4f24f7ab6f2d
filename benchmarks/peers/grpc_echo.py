"""A `grpc.aio` server on uvloop that answers every ModelInfer with the same bytes.

Not a benchmark itself: it is what gRPC by grpcio costs without any inference server, so that the
figures of others can be ratios of one run. Prints its port.

    python -m benchmarks.peers.grpc_echo ANSWER_FILE
"""

import sys
from pathlib import Path

import grpc
import uvloop

METHOD = "/inference.GRPCInferenceService/ModelInfer"


class _Echo(grpc.GenericRpcHandler):
    """One method, no serializer: messages pass as bytes, as in Stoker's own transport."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(
            self._respond
        )

    async def _respond(
        self, message: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]"
    ) -> bytes:
        return self._answer

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        return self._handler if handler_call_details.method == METHOD else None


async def main(answer: bytes) -> None:
    """Serves until the process is ended."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Echo(answer),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]).read_bytes()))
