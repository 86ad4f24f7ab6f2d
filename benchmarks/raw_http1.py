"""A client's side of HTTP/1.1 on a raw socket: one request at a time, built beforehand.

Not a benchmark itself. Like `raw_http2` it trusts its server, and tells failures by the same codes.
"""

import socket
from dataclasses import dataclass

from benchmarks.raw_http2 import HTTP_STATUS, ServerGone


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request."""

    content: bytes


def request(path: str, body: bytes, headers: dict[str, str]) -> Request:
    """A POST."""
    fields = {"Host": "127.0.0.1", "Content-Length": str(len(body)), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return Request(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body)


class Http1Client:
    """One connection that is kept alive."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._number: int | None = None
        self._out = memoryview(b"")
        self._got = bytearray()
        self._space = bytearray(1 << 18)

    def fileno(self) -> int:
        """For a selector."""
        return self._socket.fileno()

    def close(self) -> None:
        """Ends the connection, whatever is still under way."""
        self._socket.close()

    def room(self) -> int:
        """How many calls may be sent: one, or none while one is under way."""
        return int(self._number is None)

    def send(self, number: int, call: Request) -> None:
        """Queues a call; `flush` writes what is queued."""
        self._number = number
        self._out = memoryview(call.content)

    def flush(self) -> bool:
        """Writes as much as the socket takes; whether anything is left."""
        while self._out:
            try:
                self._out = self._out[self._socket.send(self._out) :]
            except BlockingIOError:
                return True
        return False

    def read(self) -> list[tuple[int, int]]:
        """Reads once what is there; the call that was answered, as (number, code)."""
        try:
            size = self._socket.recv_into(self._space)
        except BlockingIOError:
            return []
        if not size:
            raise ServerGone("the server closed the connection")
        got = self._got
        got += memoryview(self._space)[:size]
        end = got.find(b"\r\n\r\n")
        if end < 0:
            return []
        head = got[:end].lower()
        at = head.find(b"\r\ncontent-length:")
        if at < 0:
            raise ServerGone("an answer without content-length: not expected here")
        length = int(head[at + 17 :].split(b"\r\n", 1)[0])
        if len(got) < end + 4 + length:
            return []
        status, number = int(got[9:12]), self._number
        del got[: end + 4 + length]
        self._number = None
        if number is None:
            raise ServerGone("an answer that nobody asked for")
        return [(number, 0 if status == 200 else HTTP_STATUS + status)]
