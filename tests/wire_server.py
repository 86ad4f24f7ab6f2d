"""The wire's server for tests: on a free port, with a handler that holds what it gets, and raw
clients.

    async with serving(HttpLimits(...)) as served:
        client = await served.connect()
        client.send(get("/held"))
        await served.handler.holds(1)
"""

import asyncio
import select
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from stoker.errors import ServingError
from stoker.inference import Cancel
from stoker.transport.wire.http2.http_stream import HttpRequests
from stoker.transport.wire.limits import BufferBudget, HttpLimits
from stoker.transport.wire.message import JSON, Answer, HttpRequest, HttpResponse, RequestHead
from stoker.transport.wire.problems import HttpError
from stoker.transport.wire.server import HttpServer

LIMIT = 4 << 20


def run(steps: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(steps)


class Lease:
    """Counts its releases."""

    def __init__(self) -> None:
        self.releases = 0

    def release(self) -> None:
        self.releases += 1


class Held:
    """A `Handler` that answers `/now` at once with the body it got, and holds everything else."""

    def __init__(self) -> None:
        self.requests: list[HttpRequest] = []
        self.answers: list[Answer] = []
        self.cancelled: list[int] = []
        self.at_once: Callable[[], object] = lambda: None
        """Called before `/now` is answered."""
        self._seen = asyncio.Event()

    def body_limit(self, head: RequestHead) -> int:
        return LIMIT

    def handle(self, request: HttpRequest, answer: Answer) -> Cancel | None:
        if request.head.path == "/now":
            self.at_once()
            answer(text(request.body))
            return None
        index = len(self.requests)
        self.requests.append(request)
        self.answers.append(answer)
        self._seen.set()
        return lambda: self._cancel(index)

    def _cancel(self, index: int) -> None:
        self.cancelled.append(index)
        self._seen.set()
        self.answers[index](text(b"too late"))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until a request or a cancel makes the condition true."""
        while not condition():
            self._seen.clear()
            await self._seen.wait()

    async def holds(self, count: int) -> None:
        await self.until(lambda: len(self.requests) >= count)


def text(body: bytes | memoryview) -> HttpResponse:
    return HttpResponse(200, JSON, (bytes(body),))


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def has_bytes(self) -> bool:
        """Whether the kernel has something for it that it has not read."""
        number = self.writer.get_extra_info("socket").fileno()
        return bool(select.select([number], [], [], 0)[0])

    async def head(self) -> tuple[int, dict[str, str]]:
        raw = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        status, *fields = raw.split("\r\n")[:-2]
        return int(status.split()[1]), {
            name.lower(): value for name, value in (each.split(": ", 1) for each in fields)
        }

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        status, fields = await self.head()
        body = await self.reader.readexactly(int(fields["content-length"]))
        return status, fields, body

    async def ended(self) -> bool:
        return await self.reader.read() == b""


class Served:
    """A server, its handler and budget."""

    def __init__(self, limits: HttpLimits, budget: int, tls: ssl.SSLContext | None = None) -> None:
        self.handler = Held()
        self.budget = BufferBudget(budget)
        self.refused: list[ServingError | HttpError] = []
        note = self.refused.append
        self.server = HttpServer(
            self.handler,
            limits,
            self.budget,
            http2=HttpRequests(self.handler, self.budget, on_refused=note),
            on_refused=note,
            tls=tls,
        )
        self.clients: list[Client] = []
        self.port = 0

    async def connect(
        self, receive_bytes: int | None = None, tls: ssl.SSLContext | None = None
    ) -> Client:
        """A connection, over TLS with a client's context."""
        raw = socket.socket()
        if receive_bytes is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        raw.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", self.port))
        except OSError:
            raw.close()
            raise
        name = None if tls is None else "localhost"
        opening = asyncio.open_connection(sock=raw, limit=1 << 16, ssl=tls, server_hostname=name)
        client = Client(*await opening)
        self.clients.append(client)
        return client

    async def answers_at_once(self, client: Client, send: Callable[[], object]) -> bool:
        """Whether what `send` sends has its answer before the server's turn of the loop ends."""
        seen: list[bool] = []
        loop = asyncio.get_running_loop()
        self.handler.at_once = lambda: loop.call_soon(lambda: seen.append(client.has_bytes()))
        send()
        await self.until(lambda: bool(seen))
        return seen[0]

    def later(self, seconds: float) -> None:
        """Lets the server look at its deadlines as if so much time had passed."""
        self.server.sweep(self.server.time() + seconds)

    def stop_the_clock(self) -> None:
        """No time passes for the server from here on, however slow the machine."""
        now = self.server.time()
        self.server.time = lambda: now

    async def finish(self) -> None:
        """What a drain does once its delay is over, without a limit."""
        await self.server.stop_accepting()
        await self.server.drained()
        await self.server.close()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Lets the loop turn until the condition is true."""
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 (no event tells of a byte count)
                await asyncio.sleep(0)


@asynccontextmanager
async def serving(
    limits: HttpLimits | None = None, *, budget: int = 1 << 30, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[Served, None]:
    served = Served(limits or HttpLimits(), budget, tls)
    served.port = await served.server.start("127.0.0.1", 0)
    try:
        async with asyncio.timeout(30):
            yield served
    finally:
        await served.server.close()
        for client in served.clients:
            client.writer.close()
        assert served.server.open_connections == 0
        assert served.server.lingering_connections == 0
        assert served.server.in_flight == 0
        assert served.budget.used == 0


def get(path: str = "/now", body: bytes = b"", *fields: str, method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: a", *fields, f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body
