"""The load's clients send no request a second time: what a rollout loses, they show."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from tests.grpc_call import SERVICE
from tests.rollout.clients import CallFailed, Client, RawHttp, TritonHttp, open_triton_grpc

REFUSAL = b'HTTP/1.1 503 Elsewhere\r\nContent-Length: 13\r\n\r\n{"error":"x"}'


@contextlib.contextmanager
def server_that_ends_connections(refused: int) -> Iterator[tuple[str, list[bytes]]]:
    """Refuses so many requests of each connection, reads one more and closes without a byte. Gives
    its address and what requests began with; a connection begins with "new"."""
    begun: list[bytes] = []

    def request(plug: socket.socket) -> bytes:
        got = b""
        # The tensor ends with the 4 FP32 of its one row.
        while not got.endswith(b"\x00\x00\x40\x40") and (piece := plug.recv(1 << 16)):
            got += piece
        return got[:5]

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the end
            while True:
                plug, _ = listener.accept()
                with plug:
                    begun.append(b"new")
                    for _ in range(refused):
                        begun.append(request(plug))
                        plug.sendall(REFUSAL)
                    begun.append(request(plug))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}", begun
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("refused", [0, 2], ids=["new connection", "used connection"])
@pytest.mark.parametrize("client", [RawHttp, TritonHttp], ids=["raw", "tritonclient"])
def test_an_http_client_does_not_repeat_a_request_whose_connection_ends(
    client: Callable[[str], Client], refused: int
) -> None:
    """Some clients do on a connection that has served: it may have been idle and closed."""
    with server_that_ends_connections(refused) as (address, begun):
        caller = client(address)
        for _ in range(refused + 1):
            with pytest.raises(CallFailed) as failed:
                caller.call("m", 3.0)
            assert failed.value.is_retryable
        caller.close()
    assert begun == [b"new", *[b"POST "] * (refused + 1)]


def test_a_grpc_client_does_not_repeat_a_call_that_ends_with_unavailable() -> None:
    calls: list[str] = []

    class Refusing(grpc.GenericRpcHandler):
        def service(
            self, details: grpc.HandlerCallDetails
        ) -> "grpc.RpcMethodHandler[bytes, bytes]":
            def refuse(request: bytes, context: grpc.ServicerContext) -> bytes:
                calls.append(details.method)
                context.abort(grpc.StatusCode.UNAVAILABLE, "elsewhere")

            return grpc.unary_unary_rpc_method_handler(refuse)

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Refusing()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    (client,) = open_triton_grpc(f"127.0.0.1:{port}", 1)
    try:
        with pytest.raises(CallFailed, match="elsewhere") as failed:
            client.call("m", 3.0)
    finally:
        client.close()
        server.stop(0).wait()
    assert failed.value.is_retryable
    assert calls == [SERVICE + "ModelInfer"]
