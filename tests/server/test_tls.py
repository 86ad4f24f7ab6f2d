"""HTTP over TLS, by a context that the server is given: what a connection promises, to raw clients
and to one of HTTP/2."""

import asyncio
import contextlib
import logging
import os
import random
import socket
import ssl
from pathlib import Path

import pytest
from h2.errors import ErrorCodes
from stoker.telemetry.server_statistics import ServerStatistics
from stoker.transport.data_ports import DataPorts
from stoker.transport.wire.connection import Connection
from stoker.transport.wire.handshake import Handshake
from stoker.transport.wire.http2 import frames
from stoker.transport.wire.limits import FIRST_REQUEST_S, TURN_BYTES, BufferBudget, HttpLimits
from stoker.transport.wire.message import JSON, HttpResponse

from tests.certificates import Certificate, self_signed
from tests.http2_client import Http2Client
from tests.wire_server import LIMIT, Held, Lease, get, run, serving, text


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(certificate: Certificate) -> ssl.SSLContext:
    return certificate.server_context()


@pytest.fixture(scope="module")
def h2(certificate: Certificate) -> ssl.SSLContext:
    return certificate.client_context("h2")


@pytest.fixture(scope="module")
def http1(certificate: Certificate) -> ssl.SSLContext:
    return certificate.client_context("http/1.1")


@pytest.fixture(scope="module")
def any_http(certificate: Certificate) -> ssl.SSLContext:
    return certificate.client_context()


def test_alpn_chooses_the_protocol(
    server: ssl.SSLContext, h2: ssl.SSLContext, http1: ssl.SSLContext
) -> None:
    async def steps() -> None:
        async with serving(tls=server) as served:
            old = await served.connect(tls=http1)
            old.send(get(body=b"one"))
            assert (await old.answer())[2] == b"one"
            new = Http2Client(await served.connect(tls=h2))
            await new.start()
            status, _, body = await new.answer(new.request(body=b"two"))
            assert (status, body) == (200, b"two")
            for client, chosen in ((old, "http/1.1"), (new.client, "h2")):
                tls = client.writer.get_extra_info("ssl_object")
                assert tls.selected_alpn_protocol() == chosen

    run(steps())


def test_without_alpn_the_first_bytes_tell(
    server: ssl.SSLContext, any_http: ssl.SSLContext
) -> None:
    async def steps() -> None:
        async with serving(tls=server) as served:
            old = await served.connect(tls=any_http)
            old.send(get(body=b"one"))
            assert (await old.answer())[2] == b"one"
            new = Http2Client(await served.connect(tls=any_http))
            await new.start()
            assert (await new.answer(new.request(body=b"two")))[2] == b"two"

    run(steps())


def test_what_alpn_chose_holds_whatever_the_first_bytes_are(
    server: ssl.SSLContext, h2: ssl.SSLContext, http1: ssl.SSLContext
) -> None:
    async def steps() -> None:
        async with serving(tls=server) as served:
            old = await served.connect(tls=http1)
            old.send(frames.PREFACE)
            assert (await old.answer())[0] in (400, 505)
            new = await served.connect(tls=h2)
            new.send(get())
            assert await new.ended()

    run(steps())


@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, TURN_BYTES + 1, 1_000_000, LIMIT])
def test_bodies_of_every_size_come_and_go_whole(
    server: ssl.SSLContext, h2: ssl.SSLContext, http1: ssl.SSLContext, size: int
) -> None:
    async def steps() -> None:
        async with serving(tls=server) as served:
            body = bytes(range(256)) * (size // 256) + bytes(size % 256)
            old = await served.connect(tls=http1)
            for _ in range(2):
                old.send(get(body=body))
                status, _, answer = await old.answer()
                assert (status, answer == body) == (200, True)
            new = Http2Client(await served.connect(tls=h2))
            await new.start()
            number = new.request("/now", b"", ends=False)
            await new.send_all(number, body) if size else new.send(number, b"")
            if not size:
                new.h2.end_stream(number)
                new.flush()
            status, _, answer = await new.answer(number)
            assert (status, answer == body) == (200, True)

    run(steps())


def test_a_request_may_come_byte_by_byte_and_many_at_once(
    server: ssl.SSLContext, http1: ssl.SSLContext
) -> None:
    async def steps() -> None:
        async with serving(tls=server) as served:
            client = await served.connect(tls=http1)
            for byte in get(body=b"slow"):
                client.send(bytes([byte]))
                await client.writer.drain()
            assert (await client.answer())[2] == b"slow"
            bodies = [b"%d" % number for number in range(100)]
            client.send(b"".join(get(body=body) for body in bodies))
            assert [(await client.answer())[2] for _ in bodies] == bodies

    run(steps())


def test_a_handshake_that_never_ends_counts_as_open_and_is_cut_off(
    server: ssl.SSLContext, http1: ssl.SSLContext
) -> None:
    async def steps() -> None:
        limits = HttpLimits(header_timeout_s=5, max_connections=1)
        async with serving(limits, tls=server) as served:
            raw = await served.connect()
            await served.until(lambda: served.server.open_connections == 1)
            crowd = await served.connect()
            assert await crowd.ended()
            served.later(4)
            assert served.server.open_connections == 1
            served.later(6)
            assert await raw.ended()
            client = await served.connect(tls=http1)
            client.send(get())
            assert (await client.answer())[0] == 200

    run(steps())


@pytest.mark.parametrize(
    "said", [get(), b"\x16\x03\x01\x00\x05hello", bytes(1000), b""], ids=["plain", "bad", "0", ""]
)
def test_a_failed_handshake_ends_the_connection_and_is_not_logged(
    server: ssl.SSLContext, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def steps() -> None:
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
        async with serving(tls=server) as served:
            raw = await served.connect()
            raw.send(said)
            raw.writer.write_eof()
            await raw.reader.read()
            await served.until(lambda: served.server.open_connections == 0)
        assert complaints == []

    with caplog.at_level(logging.INFO):
        run(steps())
    assert caplog.records == []


def test_any_damage_to_a_handshake_ends_the_connection_and_is_not_logged(
    server: ssl.SSLContext, h2: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    def hello(chance: random.Random) -> bytes:
        """What a client says first, damaged at up to three places."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = h2.wrap_bio(incoming, outgoing, server_hostname="localhost")
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        said = bytearray(outgoing.read())
        for _ in range(chance.randrange(4)):
            said[chance.randrange(len(said))] ^= chance.randrange(1, 256)
        return bytes(said[: chance.randrange(len(said)) if chance.random() < 0.2 else None])

    async def steps() -> None:
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
        chance = random.Random(5)
        async with serving(tls=server) as served:
            for _ in range(200):
                raw = await served.connect()
                raw.send(hello(chance))
                raw.writer.write_eof()
                with contextlib.suppress(ConnectionResetError):
                    await raw.reader.read()
            await served.until(lambda: served.server.open_connections == 0)
        assert complaints == []

    with caplog.at_level(logging.INFO):
        run(steps())
    assert caplog.records == []


def test_a_client_that_does_not_trust_the_certificate_is_not_logged(
    server: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    async def steps() -> None:
        async with serving(tls=server) as served:
            with pytest.raises(ssl.SSLCertVerificationError):
                await served.connect(tls=ssl.create_default_context())
            await served.until(lambda: served.server.open_connections == 0)

    with caplog.at_level(logging.INFO):
        run(steps())
    assert caplog.records == []


def test_bytes_that_are_no_tls_end_a_connection_that_was(
    server: ssl.SSLContext, http1: ssl.SSLContext
) -> None:
    async def steps() -> None:
        async with serving(tls=server) as served:
            client = await served.connect(tls=http1)
            client.send(get("/held"))
            await served.handler.holds(1)
            os.write(client.writer.get_extra_info("socket").fileno(), bytes(100))
            await served.handler.until(lambda: served.handler.cancelled == [0])

    run(steps())


def test_old_versions_of_tls_are_refused(server: ssl.SSLContext, certificate: Certificate) -> None:
    async def steps() -> None:
        async with serving(tls=server) as served:
            client = certificate.client_context()
            client.set_ciphers("ALL:@SECLEVEL=0")
            with pytest.warns(DeprecationWarning, match="TLS"):
                client.minimum_version = ssl.TLSVersion.TLSv1
            with pytest.warns(DeprecationWarning, match="TLS"):
                client.maximum_version = ssl.TLSVersion.TLSv1_1
            with pytest.raises(ssl.SSLError):
                await served.connect(tls=client)

    run(steps())


def test_tls_1_2_takes_ephemeral_keys_and_authenticated_ciphers_only(
    server: ssl.SSLContext, certificate: Certificate
) -> None:
    async def steps() -> None:
        async with serving(tls=server) as served:
            client = certificate.client_context("h2")
            client.maximum_version = ssl.TLSVersion.TLSv1_2
            new = Http2Client(await served.connect(tls=client))
            await new.start()
            assert (await new.answer(new.request(body=b"two")))[2] == b"two"
            cipher, version, _ = new.client.writer.get_extra_info("ssl_object").cipher()
            assert (version, cipher.startswith("ECDHE")) == ("TLSv1.2", True)
            client.set_ciphers("ECDHE+AES:!AESGCM:!AESCCM")  # CBC
            with pytest.raises(ssl.SSLError):
                await served.connect(tls=client)

    run(steps())


def test_a_context_neither_compresses_nor_renegotiates(
    server: ssl.SSLContext, certificate: Certificate
) -> None:
    async def steps() -> None:
        async with serving(tls=server) as served:
            client = certificate.client_context("h2")
            client.maximum_version = ssl.TLSVersion.TLSv1_2
            raw = await served.connect(tls=client)
            assert raw.writer.get_extra_info("ssl_object").compression() is None

    run(steps())
    assert ssl.OP_NO_COMPRESSION in server.options
    assert ssl.OP_NO_RENEGOTIATION in server.options


@pytest.mark.parametrize("how", ["close_notify", "reset"])
def test_a_client_that_goes_away_cancels_its_requests(
    server: ssl.SSLContext, http1: ssl.SSLContext, h2: ssl.SSLContext, how: str
) -> None:
    async def steps() -> None:
        async with serving(tls=server) as served:
            old, new = (
                await served.connect(tls=http1),
                Http2Client(await served.connect(tls=h2)),
            )
            old.send(get("/a"))
            await new.start()
            new.request("/b")
            await served.handler.holds(2)
            for client in (old, new.client):
                if how == "reset":
                    client.writer.transport.abort()
                else:
                    client.writer.close()
            await served.handler.until(lambda: sorted(served.handler.cancelled) == [0, 1])

    run(steps())


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
def test_a_client_that_does_not_read_is_cut_off_and_its_answer_freed(
    server: ssl.SSLContext, certificate: Certificate, protocol: str
) -> None:
    async def steps() -> None:
        async with serving(HttpLimits(write_stall_s=5), tls=server) as served:
            context = certificate.client_context(protocol)
            client = await served.connect(receive_bytes=4096, tls=context)
            size = 50 << 20
            if protocol == "h2":
                new = Http2Client(client)
                await new.start({4: (1 << 31) - 1})
                new.h2.increment_flow_control_window((1 << 31) - 1 - 65_535)
                new.request("/a")
            else:
                client.send(get("/a"))
            await served.handler.holds(1)
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it can read
            lease = Lease()
            served.handler.answers[0](HttpResponse(200, JSON, (memoryview(bytes(size)),), lease))
            before = -1
            while served.budget.used != before:  # until the kernel takes no more
                before = served.budget.used
                for _ in range(100):
                    await asyncio.sleep(0)
            assert lease.releases == 0
            for second in range(1, 5):
                served.later(2.0 * second)
            await served.until(lambda: served.server.open_connections == 0)
            assert lease.releases == 1

    run(steps())


def test_a_drain_finishes_a_handshake_that_had_begun_and_serves_its_request(
    server: ssl.SSLContext, http1: ssl.SSLContext
) -> None:
    async def steps() -> None:
        async with serving(tls=server) as served:
            served.stop_the_clock()
            raw = await served.connect()
            await served.until(lambda: served.server.open_connections == 1)
            finishing = asyncio.ensure_future(served.finish())
            await served.until(lambda: served.server.is_closing)
            raw.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it can read
            await raw.writer.start_tls(http1, server_hostname="localhost")
            raw.send(get(body=b"in time"))
            status, fields, body = await raw.answer()
            assert (status, fields["connection"], body) == (200, "close", b"in time")
            raw.writer.close()
            await finishing

    run(steps())


def test_a_drain_does_not_wait_for_handshakes_that_do_not_move(server: ssl.SSLContext) -> None:
    async def steps() -> None:
        async with serving(tls=server) as served:
            raw = await served.connect()
            await served.until(lambda: served.server.open_connections == 1)
            await served.server.stop_accepting()
            served.later(FIRST_REQUEST_S + 1)
            assert await raw.ended()
            await served.server.drained()

    run(steps())


def test_a_drain_tells_every_connection_and_loses_no_request(
    server: ssl.SSLContext, http1: ssl.SSLContext, h2: ssl.SSLContext
) -> None:
    async def steps() -> None:
        async with serving(tls=server) as served:
            idle = await served.connect(tls=http1)
            idle.send(get())
            await idle.answer()
            busy = await served.connect(tls=http1)
            busy.send(get("/a"))
            await served.handler.holds(1)
            new = Http2Client(await served.connect(tls=h2))
            await new.start()
            held = new.request("/b")
            await served.handler.holds(2)
            served.server.announce_drain()
            finishing = asyncio.ensure_future(served.finish())
            assert await idle.ended()
            idle.writer.close()
            while not new.goaways:
                await new.event()
            for answer in served.handler.answers:
                answer(text(b"whole"))
            status, fields, body = await busy.answer()
            assert (status, fields["connection"], body) == (200, "close", b"whole")
            assert await busy.ended()
            busy.writer.close()
            assert (await new.answer(held))[2] == b"whole"
            assert await new.end() == ErrorCodes.NO_ERROR
            new.client.writer.close()
            await finishing

    run(steps())


def test_a_key_that_does_not_fit_the_certificate_is_refused_at_start(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    one, other = map(self_signed, folders)
    with pytest.raises(ssl.SSLError):
        Certificate(one.certificate, other.key).server_context()


def test_who_reads_a_connections_socket_beside_it_sees_that_tls_stands_between(
    server: ssl.SSLContext, http1: ssl.SSLContext
) -> None:
    seen: list[asyncio.BaseTransport] = []

    class Seen(Connection):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            seen.append(transport)
            super().connection_made(transport)

    async def steps() -> None:
        async with serving() as served:
            ours, theirs = socket.socketpair()
            with ours:
                theirs.setblocking(False)
                accepted = Handshake(
                    served.server, server, lambda alpn: Seen(served.server, 100, alpn)
                )
                loop = asyncio.get_running_loop()
                await loop.connect_accepted_socket(lambda: accepted, theirs)
                _, writer = await asyncio.open_connection(
                    sock=ours, ssl=http1, server_hostname="localhost"
                )
                writer.write(get("/held"))
                await served.handler.holds(1)
                assert seen[0].get_extra_info("sslcontext") is server
                assert seen[0].get_extra_info("ssl_object").version() == "TLSv1.3"
                writer.close()

    run(steps())


def test_a_grpcio_port_is_never_left_plain_beside_a_secured_one(server: ssl.SSLContext) -> None:
    with pytest.raises(ValueError, match="native gRPC transport"):
        DataPorts(
            Held(), {}, HttpLimits(), BufferBudget(1), ServerStatistics(), grpcio=True, tls=server
        )
