"""The access log: which calls have a line, what is in it, and that no client forges one."""

import json
import os
import re
from collections.abc import Callable
from typing import Any

import pytest
from stoker.telemetry.access_log import AccessLog
from stoker.telemetry.log import Format
from stoker.telemetry.observation import (
    MOST_CHARACTERS,
    Caller,
    Observation,
    RequestRun,
    SpanIdentity,
)

PATIENCE = 10.0
TRACE = "0af7651916cd43dd8448eb211c80319c"


def caller(
    *,
    is_grpc: bool = False,
    path: str = "/v2/models/m/infer",
    request_id: str = "",
    traceparent: str = "",
) -> Caller:
    return Caller(
        is_grpc=is_grpc,
        method="POST",
        path=path,
        route="",
        peer="10.0.0.1:4711",
        scheme="http",
        protocol_version="2" if is_grpc else "1.1",
        request_id=request_id,
        traceparent=traceparent,
    )


def ended(
    by: Caller, *, seconds: float = 0.25, code: str = "", status: int = 200, **fields: Any
) -> Observation:
    """A call that took so long."""
    call = Observation(by, 100.0, 64, None)
    call.code, call.status, call.bytes_out = code, status, 32
    for name, value in fields.items():
        setattr(call, name, value)
    call.ended = 100.0 + seconds
    return call


def written(
    *calls: Observation,
    log_format: Format = "json",
    share: float = 1.0,
    slow_s: float = 1.0,
    chance: Callable[[], float] = lambda: 0.5,
) -> list[str]:
    """The lines of these calls."""
    reading, writing = os.pipe()
    log = AccessLog(log_format, writing, share=share, slow_s=slow_s, chance=chance)
    log.start()
    for call in calls:
        log.note(call)
    log.close(PATIENCE)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        return stream.read().decode().split("\n")[:-1]


def record(call: Observation) -> dict[str, Any]:
    (line,) = written(call)
    parsed: dict[str, Any] = json.loads(line)
    return parsed


def test_a_line_says_who_asked_what_and_where_the_time_went() -> None:
    call = ended(
        caller(request_id="r-1"),
        model="m",
        version="3",
        rows=2,
        client_id="mine",
        submitted=100.01,
        runs=(RequestRun(100.05, 100.2, 0.125, 8, None),),
    )
    line = record(call)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "stoker.access",
        "event": "request",
        "message": "POST /v2/models/m/infer 200",
        "protocol": "http",
        "method": "POST",
        "path": "/v2/models/m/infer",
        "status": 200,
        "model": "m",
        "version": 3,
        "rows": 2,
        "duration_ms": 250.0,
        "receive_ms": 10.0,
        "queue_ms": 40.0,
        "run_ms": 125.0,
        "batch_rows": 8,
        "bytes_in": 64,
        "bytes_out": 32,
        "peer": "10.0.0.1:4711",
        "request_id": "r-1",
        "id": "mine",
        "why": "sampled",
    }


def test_a_call_of_grpc_has_the_name_of_its_status() -> None:
    by = caller(is_grpc=True, path="/inference.GRPCInferenceService/ModelInfer")
    line = record(
        ended(by, code="OVERLOADED", status=8, grpc_status="RESOURCE_EXHAUSTED", model="m")
    )
    assert line["rpc"] == "/inference.GRPCInferenceService/ModelInfer"
    assert (line["grpc_status"], line["code"], line["why"]) == (
        "RESOURCE_EXHAUSTED", "OVERLOADED", "failed",
    )  # fmt: skip
    assert "status" not in line
    assert "path" not in line


def test_failed_and_slow_calls_are_written_whatever_the_share() -> None:
    calls = [
        ended(caller(path="/good")),
        ended(caller(path="/failed"), code="INTERNAL", status=500),
        ended(caller(path="/slow"), seconds=1.0),
    ]
    lines = [json.loads(line) for line in written(*calls, share=0.0)]
    assert [(line["path"], line["why"]) for line in lines] == [
        ("/failed", "failed"), ("/slow", "slow"),
    ]  # fmt: skip


def test_of_the_others_a_share_is_written() -> None:
    draws = iter([0.05, 0.2, 0.09, 0.1])
    calls = [ended(caller(path=f"/{number}")) for number in range(4)]
    lines = [json.loads(line) for line in written(*calls, share=0.1, chance=lambda: next(draws))]
    assert [(line["path"], line["why"]) for line in lines] == [("/0", "sampled"), ("/2", "sampled")]


def test_a_long_stream_is_not_slow() -> None:
    assert written(ended(caller(is_grpc=True), seconds=1000.0, is_stream=True), share=0.0) == []


def test_the_trace_of_a_call_is_its_own_or_its_callers() -> None:
    traced = ended(caller(traceparent=f"00-{TRACE}-b7ad6b7169203331-01"))
    traced.span = SpanIdentity(int(TRACE, 16), 0xFF)
    line = record(traced)
    assert (line["trace_id"], line["span_id"]) == (TRACE, "00000000000000ff")
    line = record(ended(caller(traceparent=f"00-{TRACE}-b7ad6b7169203331-00")))
    assert line["trace_id"] == TRACE
    assert "span_id" not in line
    assert "trace_id" not in record(ended(caller(traceparent="nonsense")))


FORGED = 'x\n{"event": "forged"}\r\x1b[31m\x00\u2028" level=error'


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_what_clients_write_forges_no_line(log_format: Format) -> None:
    call = ended(
        caller(path=FORGED, request_id=FORGED), model=FORGED, version=FORGED, client_id=FORGED
    )
    (line,) = written(call, log_format=log_format)
    assert line.isprintable()
    if log_format == "json":
        assert json.loads(line)["model"] == FORGED
    else:
        assert line.split()[1:4] == ["INFO", "request", "POST"]
        unquoted = re.sub(r'"(?:[^"\\]|\\.)*"', "", line)
        assert "forged" not in unquoted
        assert "level=error" not in unquoted


def test_what_clients_write_is_cut() -> None:
    long = "a" * 10_000
    line = record(ended(caller(path=long, request_id=long), model=long, client_id=long))
    for name in ("path", "request_id", "model", "id"):
        assert line[name] == "a" * MOST_CHARACTERS + "..."
    assert len(line["message"]) < 2 * MOST_CHARACTERS


def test_what_clients_write_is_not_kept_whole_while_a_line_waits() -> None:
    long = "a" * 10_000
    by = caller(path=long, request_id=long, traceparent=long)
    assert max(map(len, (by.path, by.request_id, by.traceparent))) <= MOST_CHARACTERS + 1


def test_another_line_comes_whole_and_waits_for_no_reader() -> None:
    reading, writing = os.pipe()
    log = AccessLog("json", writing, share=1.0, slow_s=1.0)
    log.start()
    for _ in range(300):  # more than the pipe holds
        log.note(ended(caller()))
    log.say("ready")
    with os.fdopen(reading, "rb") as stream:
        lines = [stream.readline() for _ in range(301)]
    log.close(PATIENCE)
    os.close(writing)
    assert lines[-1] == b"ready\n"
    assert all(json.loads(each)["event"] == "request" for each in lines[:-1])


def test_a_version_that_is_no_number_is_left_out() -> None:
    assert "version" not in record(ended(caller(), version="latest"))
    assert record(ended(caller(), version="12"))["version"] == 12
