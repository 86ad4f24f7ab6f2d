"""What a running server writes: every line fits docs/log-schema.json, and a stalled reader of the
access log holds nothing up."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

import grpc
import httpx
import jsonschema  # type: ignore[import-untyped]  # ships no types
import pytest
from stoker.settings import GrpcTransport

from tests import models
from tests.conftest import PATIENCE, StokerProcess, run_stoker
from tests.grpc_call import SERVICE, grpc_status
from tests.rest_call import get, post
from tests.spans import receiving
from tests.stream_client import WRONG, open_stream, request

SCHEMA: Final[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "docs" / "log-schema.json").read_text()
)
INFER: Final = "/v2/models/m/infer"
BODY: Final = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
COMMAND: Final = [sys.executable, "-m", "stoker", "serve"]
SECRET: Final = 424242.0
"""A value of a tensor that no line may have."""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A model that serves, and one that cannot be loaded."""
    return models.write_repository(
        tmp_path / "models",
        {
            "m": models.ModelEntry(models.double(), "max_batch_size: 8\n"),
            "broken": models.ModelEntry(b"no model", "max_batch_size: 8\n"),
        },
    )


@contextlib.contextmanager
def serving(repository: Path, *arguments: str, **environment: str) -> Iterator[StokerProcess]:
    with run_stoker(
        str(repository), "--require-model", "m", "--drain-delay", "0s", *arguments,
        environment=environment, stderr=subprocess.PIPE,
    ) as server:  # fmt: skip
        yield server


def records(server: StokerProcess) -> list[dict[str, Any]]:
    """Every record that the server wrote, once it is told to end. All of them fit the schema."""
    server.terminate()
    out, err = server.process.communicate(timeout=PATIENCE)
    assert server.process.returncode == 0
    lines = [*server.lines, *out.splitlines(), *err.splitlines()]
    found = [json.loads(line) for line in lines]
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for each in found:
        validator.validate(each)
    return found


def requests(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The access log."""
    return [each for each in found if each.get("event") == "request"]


@pytest.mark.parametrize("transport", get_args(GrpcTransport))
def test_every_record_of_a_server_fits_the_schema(repository: Path, transport: str) -> None:
    with (
        receiving() as receiver,
        serving(
            repository, "--access-log", "all", "--tracing", "--trace-sampling", "1",
            "--grpc-transport", transport, "--log-level", "debug",
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.grpc,
        ) as server,
    ):  # fmt: skip
        at = server.at
        headers = {"x-request-id": 'a"b\\', "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
        secret = {**BODY, "id": "mine"}
        secret["inputs"] = [{**BODY["inputs"][0], "data": [SECRET] * 4}]
        assert post(at, INFER, json=secret, headers=headers).status_code == 200
        assert post(at, INFER, content=b"no JSON").status_code == 400
        assert post(at, INFER, json={"inputs": []}).status_code == 400
        assert post(at, "/v2/models/a%0Ab/infer", json=BODY).status_code == 404
        assert post(at, "/v2/models/broken/infer", json=BODY).status_code == 503
        assert get(at, "/nowhere").status_code == 404
        assert get(at, "/v2/models/m").status_code == 200
        assert get(at, "/v2/health/ready").status_code == 200
        assert grpc_status(at, SERVICE + "ModelInfer", request(1))[0] == "OK"
        assert grpc_status(at, SERVICE + "ModelInfer", b"\xff")[0] == "INVALID_ARGUMENT"
        assert grpc_status(at, SERVICE + "RepositoryModelLoad", b"")[0] == "UNIMPLEMENTED"
        with open_stream(at) as stream:
            stream.send(request(1, id="first"), WRONG)
            stream.half_close()
            stream.read(), stream.read()
            assert stream.end() is grpc.StatusCode.OK
        found = records(server)
        spans = receiver.take()
    lines = requests(found)
    assert {each["event"] for each in found if "event" in each} >= {
        "ready", "request", "listening", "tracing", "model_ready", "model_failed", "drain_started",
        "drained",
    }  # fmt: skip
    first = lines[0]
    assert (first["request_id"], first["id"], first["trace_id"]) == ('a"b\\', "mine", "a" * 32)
    assert (first["model"], first["version"], first["rows"], first["batch_rows"]) == ("m", 1, 1, 1)
    assert first["duration_ms"] >= first["receive_ms"] + first["queue_ms"]
    rest = [(each["status"], each.get("code", "")) for each in lines if each["protocol"] == "http"]
    assert rest == [
        (200, ""),
        (400, "INVALID_REQUEST"),
        (400, "INVALID_REQUEST"),
        (404, "MODEL_NOT_FOUND"),
        (503, "MODEL_NOT_READY"),
        (404, "NO_SUCH_PATH"),
        (200, ""),
    ]
    calls = [
        (each["rpc"].removeprefix(SERVICE), each["grpc_status"])
        for each in lines
        if each["protocol"] == "grpc"
    ]
    assert calls == [
        ("ModelInfer", "OK"),
        ("ModelInfer", "INVALID_ARGUMENT"),
        ("RepositoryModelLoad", "UNIMPLEMENTED"),
        ("ModelStreamInfer", "OK"),
        ("ModelStreamInfer", "NOT_FOUND"),
        ("ModelStreamInfer", "OK"),
    ]
    assert lines[-1]["stream_requests"] == 2
    written = json.dumps(found)
    assert "424242" not in written
    assert {each["span_id"] for each in lines} <= {each.span_id for each in spans.all}


def test_a_reader_of_the_access_log_that_stalls_holds_up_no_request_and_no_end(
    repository: Path,
) -> None:
    with serving(repository, "--access-log", "all") as server:
        sent = 400
        # 200 KB of lines; the pipe of standard output, which nobody reads, holds 64 KiB.
        for _ in range(sent):
            assert post(server.at, INFER, json=BODY).status_code == 200
        assert server.at.metric("stoker_access_log_lines_total", outcome="written") < sent
        assert server.at.probe("/livez")[0] == 200
        server.terminate()
        assert server.wait() == 0


def test_a_reader_that_stalls_before_the_ready_line_holds_up_no_loop(repository: Path) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b" " * 4095 + b"\n")
    os.set_blocking(writing, True)
    command = [
        *COMMAND, str(repository), "--require-model", "m", "--access-log", "all", "--host",
        "127.0.0.1", "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0",
        "--drain-delay", "0s",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=writing, stderr=subprocess.PIPE, text=True) as process:
        os.close(writing)
        assert process.stderr is not None
        events = (json.loads(line) for line in process.stderr)
        listening = next(each for each in events if each["event"] == "listening")
        next(each for each in events if each["event"] == "model_ready")
        url = f"http://{listening['metrics']}/readyz"
        try:
            assert httpx.get(url, timeout=PATIENCE).status_code == 200
            with os.fdopen(reading) as stream:
                lines = (line for line in stream if line.strip())
                assert json.loads(next(lines))["event"] == "ready"
                process.terminate()
                assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


def test_without_asking_there_is_no_line_about_a_request(repository: Path) -> None:
    with serving(repository) as server:
        assert post(server.at, INFER, json=BODY).status_code == 200
        assert post(server.at, INFER, content=b"no JSON").status_code == 400
        found = records(server)
    assert requests(found) == []
    assert server.process.returncode == 0


def test_failed_requests_are_written_whatever_the_share(repository: Path) -> None:
    with serving(repository, "--access-log", "sampled", "--access-log-share", "0") as server:
        assert post(server.at, INFER, json=BODY).status_code == 200
        assert post(server.at, "/v2/models/nope/infer", json=BODY).status_code == 404
        found = records(server)
    assert [(each["why"], each["status"]) for each in requests(found)] == [("failed", 404)]


def test_slow_requests_are_written_whatever_the_share(repository: Path) -> None:
    with serving(
        repository, "--access-log", "sampled", "--access-log-share", "0",
        "--slow-request-threshold", "1us",
    ) as server:  # fmt: skip
        assert post(server.at, INFER, json=BODY).status_code == 200
        found = records(server)
    assert [(each["why"], each["status"]) for each in requests(found)] == [("slow", 200)]


def test_spans_are_flushed_when_the_server_is_told_to_end(repository: Path) -> None:
    with (
        receiving() as receiver,
        serving(
            repository, "--tracing",
            OTEL_TRACES_SAMPLER="always_on",
            OTEL_BSP_SCHEDULE_DELAY="600000",
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.grpc,
        ) as server,
    ):  # fmt: skip
        assert post(server.at, INFER, json=BODY).status_code == 200
        records(server)
        (call,) = receiver.take().calls
    assert call.attributes["url.path"] == INFER


def refused(*arguments: str, **environment: str) -> tuple[int, str]:
    """Exit code and standard error of a server that does not start."""
    done = subprocess.run(
        [*COMMAND, *arguments], env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


def test_tracing_without_its_packages_is_refused_and_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text("")  # in front of the real packages
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    code, told = refused("--tracing", PYTHONPATH=path)
    assert code == 2
    assert told.splitlines() == [
        "stoker: 1 problem in the configuration",
        "--tracing: expected the packages of the extra otel, got an installation without them: "
        "pip install 'stoker[otel]'",
    ]


def test_a_wrong_standard_variable_is_refused() -> None:
    code, told = refused("--tracing", OTEL_EXPORTER_OTLP_PROTOCOL="http/json")
    assert code == 2
    assert "OTEL_EXPORTER_OTLP_PROTOCOL: expected one of grpc, http/protobuf" in told


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"OTEL_EXPORTER_OTLP_COMPRESSION": "brotli"}, "brotli"),
        ({"OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere/ca.pem"}, "/nowhere/ca.pem"),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "secret"}, "OTEL_EXPORTER_OTLP_*HEADERS"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "no pair"}, "no pair"),
    ],
)
def test_variables_that_the_exporter_cannot_use_are_refused(
    variables: dict[str, str], expected: str
) -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://localhost:1"}
    code, told = refused("--tracing", **endpoint, **variables)
    assert code == 2
    assert "start_failed" in told
    assert expected in told
    assert "secret" not in told
