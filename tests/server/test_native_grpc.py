"""Unary calls of the native gRPC transport frame by frame: what grpcio's own clients never send, or
never show."""

import asyncio
from urllib.parse import unquote

import pytest
from stoker.errors import Overloaded
from stoker.protocol import inference_pb2 as pb
from stoker.request import InferRequest, InferResponse
from stoker.tensor import DataType, Tensor

from tests.engine_double import EngineDouble, echo, values
from tests.grpc_server import infer_message, run
from tests.native_grpc import GRPC, INFER, answered, call, connected, framed, serving


@pytest.mark.parametrize(
    ("path", "body", "fields", "status", "text"),
    [
        ("/a.B/C", framed(b""), (), "12", "expected a method that is served"),
        (INFER, framed(b"\x08"), (), "3", "ModelInferRequest"),
        (INFER, b"", (), "3", "expected one whole message"),
        (INFER, framed(b"ab")[:-1], (), "3", "expected one whole message"),
        (INFER, framed(b"") * 2, (), "3", "expected one message in a unary call"),
        (INFER, framed(b"", flag=2), (), "3", "expected 0 or 1"),
        (INFER, framed(b"", flag=1), (), "3", "without grpc-encoding"),
        (INFER, framed(b"no gzip", flag=1), (("grpc-encoding", "gzip"),), "3", "gzip data"),
        (INFER, framed(b""), (("grpc-timeout", "1x"),), "3", "expected a grpc-timeout"),
        (INFER, framed(b""), (("grpc-timeout", "123456789m"),), "3", "expected a grpc-timeout"),
    ],
)
def test_what_is_wrong_with_a_call_is_told_by_trailers_alone(
    path: str, body: bytes, fields: tuple[tuple[str, str], ...], status: str, text: str
) -> None:
    async def steps() -> None:
        async with serving() as served, connected(served) as client:
            answer = await call(client, body, *fields, path=path)
            assert answer.fields[":status"] == "200"
            assert answer.fields["content-type"] == "application/grpc"
            assert answer.fields["grpc-status"] == status
            assert text in unquote(answer.fields["grpc-message"])
            assert answer.body == b""
            assert served.held_bytes == 0

    run(steps())


@pytest.mark.parametrize(
    ("method", "content_type", "status"),
    [
        ("POST", "application/json", "415"),
        ("POST", "application/grpc-web", "415"),
        ("GET", "application/grpc", "405"),
    ],
)
def test_what_is_no_grpc_is_told_by_http(method: str, content_type: str, status: str) -> None:
    async def steps() -> None:
        async with serving() as served, connected(served) as client:
            fields = ("content-type", content_type)
            number = client.request(INFER, framed(b""), fields, method=method)
            assert (await answered(client, number)).fields[":status"] == status

    run(steps())


def test_messages_that_are_no_protobuf_are_unimplemented() -> None:
    async def steps() -> None:
        async with serving() as served, connected(served) as client:
            number = client.request(INFER, framed(b"{}"), ("content-type", "application/grpc+json"))
            assert (await answered(client, number)).fields["grpc-status"] == "12"

    run(steps())


def test_a_message_over_the_limit_is_refused_by_its_length_alone() -> None:
    async def steps() -> None:
        async with serving() as served, connected(served) as client:
            number = client.request(INFER, b"\0\xff\xff\xff\xff", GRPC, ends=False)
            answer = await answered(client, number)
            assert answer.fields["grpc-status"] == "8"
            assert "4294967295" in unquote(answer.fields["grpc-message"])

    run(steps())


def test_a_full_budget_refuses_with_the_time_to_retry_and_takes_nothing() -> None:
    async def steps() -> None:
        async with serving() as served, connected(served) as client:
            served.server.budget.limit = 1000
            number = client.request(INFER, framed(infer_message(5000))[:100], GRPC, ends=False)
            answer = await answered(client, number)
            assert answer.fields["grpc-status"] == "8"
            assert answer.fields["grpc-retry-pushback-ms"] == "1000"
            assert served.held_bytes == 0

    run(steps())


def test_text_beyond_ascii_is_percent_encoded() -> None:
    async def steps() -> None:
        engine = EngineDouble(lambda request: Overloaded("100 % é\n", retry_after=0.25))
        async with serving(engine) as served, connected(served) as client:
            answer = await call(client, framed(infer_message()))
            assert answer.fields["grpc-message"] == "100 %25 %C3%A9%0A"
            assert answer.fields["grpc-retry-pushback-ms"] == "250"

    run(steps())


@pytest.mark.parametrize("text", [" begins", "ends ", " ", ""])
def test_a_text_with_spaces_at_its_ends_reaches_strict_clients(text: str) -> None:
    async def steps() -> None:
        engine = EngineDouble(lambda request: Overloaded(text))
        async with serving(engine) as served, connected(served) as client:
            answer = await call(client, framed(infer_message()))
            assert unquote(answer.fields["grpc-message"]) == text

    run(steps())


@pytest.mark.parametrize("how", ["reset", "connection"])
def test_a_client_that_goes_away_cancels_its_unary_call_in_the_engine(how: str) -> None:
    async def steps() -> None:
        engine = EngineDouble(answer=None)
        async with serving(engine) as served, connected(served) as client:
            number = client.request(INFER, framed(infer_message()), GRPC)
            await engine.submitted.wait()
            if how == "reset":
                client.h2.reset_stream(number, 8)
                client.flush()
            else:
                client.client.writer.transport.abort()
            await engine.cancelled.wait()
            assert served.held_bytes == 0

    run(steps())


def test_a_large_answer_is_written_from_its_own_memory() -> None:
    large = values(100_000)
    released: list[None] = []

    class Lease:
        def release(self) -> None:
            released.append(None)

    def answer(request: InferRequest) -> InferResponse:
        tensor = Tensor("y", DataType.FP32, large.shape, large)
        return InferResponse.of("echo", "1", "", [tensor], lease=Lease())

    async def steps() -> None:
        async with (
            serving(EngineDouble(answer)) as served,
            connected(served, reads=False) as client,
        ):
            number = client.request(INFER, framed(infer_message()), GRPC)
            while not client.answers[number].body:
                await client.event()
            assert not released
            large[50_000:] = 7  # of what has not left yet
            client.h2.increment_flow_control_window(10_000_000)
            client.h2.increment_flow_control_window(10_000_000, number)
            client.flush()
            got = await answered(client, number)
            message = pb.ModelInferResponse.FromString(got.body[5:])
            assert message.raw_output_contents[0] == large.tobytes()
            assert len(released) == 1

    run(steps())


def test_two_thousand_calls_at_once_are_all_answered() -> None:
    async def steps() -> None:
        engine = EngineDouble(answer=None)
        async with serving(engine) as served:
            calls = [asyncio.ensure_future(served.infer()) for _ in range(2000)]
            while len(engine.requests) < 1000:
                await engine.submitted.wait()
                engine.submitted.clear()
            engine.answer = echo
            engine.release()
            assert len(await asyncio.gather(*calls)) == 2000

    run(steps())


def test_large_metadata_arrives() -> None:
    async def steps() -> None:
        engine = EngineDouble()
        async with serving(engine) as served:
            await served.infer(metadata=(("token", "x" * 20_000),))
            assert len(engine.requests) == 1

    run(steps())
