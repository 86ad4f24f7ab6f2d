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


@contextlib.contextmanager
def server_that_ends_connections() -> Iterator[tuple[str, list[bytes]]]:
    """Reads a request of each connection and closes without a byte. Gives its address and what
    requests began with."""
    begun: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the end
            while True:
                plug, _ = listener.accept()
                with plug:
                    got = b""
                    # The tensor ends with the 4 FP32 of its one row.
                    while not got.endswith(b"\x00\x00\x40\x40"):
                        got += plug.recv(1 << 16)
                    begun.append(got[:5])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}", begun
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("client", [RawHttp, TritonHttp], ids=["raw", "tritonclient"])
def test_an_http_client_does_not_repeat_a_request_whose_connection_ends(
    client: Callable[[str], Client],
) -> None:
    with server_that_ends_connections() as (address, begun):
        caller = client(address)
        with pytest.raises(CallFailed) as failed:
            caller.call("m", 3.0)
        caller.close()
    assert failed.value.is_retryable
    assert begun == [b"POST "]


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
