"""The native gRPC transport on a free port, with a client that tests steer frame by frame.

async with serving() as served, connected(served) as client:
    answer = await call(client, framed(message))
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from h2.settings import SettingCodes

from tests.grpc_server import SERVICE, Served, serving_by
from tests.http2_client import Answered, Http2Client
from tests.wire_server import Client

INFER = SERVICE + "ModelInfer"
GRPC = ("content-type", "application/grpc")
serving = serving_by("native")


def framed(message: bytes, *, flag: int = 0) -> bytes:
    return bytes([flag]) + len(message).to_bytes(4, "big") + message


@asynccontextmanager
async def connected(
    served: Served, settings: dict[SettingCodes | int, int] | None = None, *, reads: bool = True
) -> AsyncGenerator[Http2Client, None]:
    host, _, port = served.address.rpartition(":")
    raw = Client(*await asyncio.open_connection(host, int(port)))
    client = Http2Client(raw, reads_bodies=reads)
    await client.start(settings)
    try:
        async with asyncio.timeout(30):
            yield client
    finally:
        raw.writer.close()


async def answered(client: Http2Client, number: int) -> Answered:
    answer = client.answers[number]
    while not answer.is_whole and answer.reset is None:
        assert await client.event() is not None, "the connection ended"
    return answer


async def call(
    client: Http2Client, body: bytes, *fields: tuple[str, str], path: str = INFER
) -> Answered:
    return await answered(client, client.request(path, body, GRPC, *fields))
