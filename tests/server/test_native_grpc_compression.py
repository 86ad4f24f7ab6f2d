"""Compressed messages of the native gRPC transport, both ways."""

import gzip
import zlib

import pytest
from stoker.protocol import inference_pb2 as pb
from stoker.transport.grpc.native_unary import COMPRESS_FROM_BYTES
from stoker.transport.wire.limits import HttpLimits

from tests.engine_double import values
from tests.grpc_server import infer_message, run
from tests.native_grpc import GRPC, INFER, answered, call, connected, framed, serving


def test_an_unknown_coding_is_unimplemented_and_ours_are_told() -> None:
    async def steps() -> None:
        async with serving() as served, connected(served) as client:
            answer = await call(client, framed(b""), ("grpc-encoding", "snappy"))
            assert answer.fields["grpc-status"] == "12"
            assert answer.fields["grpc-accept-encoding"] == "identity,deflate,gzip"

    run(steps())


@pytest.mark.parametrize(
    ("coding", "pack", "unpack"),
    [("gzip", gzip.compress, gzip.decompress), ("deflate", zlib.compress, zlib.decompress)],
)
@pytest.mark.parametrize("rows", [COMPRESS_FROM_BYTES // 16, 100_000])
def test_an_answer_has_the_coding_of_its_request(
    coding: str, pack: object, unpack: object, rows: int
) -> None:
    async def steps() -> None:
        async with serving() as served, connected(served) as client:
            body = framed(pack(infer_message(rows)), flag=1)  # type: ignore[operator]  # a function of bytes
            fields = (("grpc-encoding", coding), ("grpc-accept-encoding", f"identity, {coding}"))
            number = client.request(INFER, b"", GRPC, *fields, ends=False)
            await client.send_all(number, body)
            answer = await answered(client, number)
            assert (answer.fields["grpc-encoding"], answer.body[0]) == (coding, 1)
            message = pb.ModelInferResponse.FromString(unpack(answer.body[5:]))  # type: ignore[operator]  # likewise
            assert message.raw_output_contents[0] == values(rows).tobytes()

    run(steps())


@pytest.mark.parametrize(("rows", "accepted"), [(1, "identity, gzip"), (1000, "identity, deflate")])
def test_an_answer_that_is_small_or_whose_coding_is_not_accepted_is_plain(
    rows: int, accepted: str
) -> None:
    async def steps() -> None:
        async with serving() as served, connected(served) as client:
            body = framed(gzip.compress(infer_message(rows)), flag=1)
            fields = (("grpc-encoding", "gzip"), ("grpc-accept-encoding", accepted))
            answer = await call(client, body, *fields)
            assert (answer.fields["grpc-status"], answer.body[0]) == ("0", 0)
            assert "grpc-encoding" not in answer.fields

    run(steps())


def test_a_client_that_only_offers_a_coding_is_answered_plain() -> None:
    async def steps() -> None:
        async with serving() as served, connected(served) as client:
            accepts = ("grpc-accept-encoding", "identity, deflate, gzip")
            answer = await call(client, framed(infer_message(1000)), accepts)
            assert "grpc-encoding" not in answer.fields
            assert answer.body[0] == 0

    run(steps())


def test_a_message_that_inflates_over_the_limit_is_refused() -> None:
    async def steps() -> None:
        async with serving(limits=HttpLimits(max_message_bytes=100_000)) as served:
            async with connected(served) as client:
                bomb = framed(gzip.compress(bytes(10_000_000)), flag=1)
                answer = await call(client, bomb, ("grpc-encoding", "gzip"))
                assert answer.fields["grpc-status"] == "8"
            assert served.held_bytes == 0

    run(steps())
