"""What every benchmark shares: models, a server pinned to one core, load tools on the other, facts.

Not a benchmark itself. The server is `stoker serve` as users start it; load comes from other
processes: `wrk` and `h2load` (Debian: wrk, nghttp2-client), or a Python client where a question is
about one. Each result states the machine and the versions that `facts` prints.
"""

import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
import onnx
from stoker.protocol import inference_pb2 as pb
from stoker.tensor import Array

from tests import models

SERVER_CORE = 0
WARM_UP_S = 1
LOAD_CORE = max(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Endpoint:
    """Where the server under test listens, and its process."""

    http: int
    grpc: int
    metrics: int
    process: int


def tiny() -> onnx.ModelProto:
    """A 16-32-4 network, FP32 x [N,16] -> y [N,4]: next to no computing."""
    return models.mlp(width=16, hidden=32, classes=4)


def tool(name: str) -> str:
    """The path of a load tool. Exits with its name when it is missing."""
    path = shutil.which(name)
    if path is None:
        sys.exit(f"{name} is not installed")
    return path


@contextlib.contextmanager
def serve(repository: Path, *arguments: str, core: int | None = SERVER_CORE) -> Iterator[Endpoint]:
    """`stoker serve` on free ports, pinned to one core (None: not pinned)."""
    command = [sys.executable, "-m", "stoker", "serve", str(repository), "--host", "127.0.0.1"]
    for port in ("--http-port", "--grpc-port", "--metrics-port"):
        command += [port, "0"]
    if core is not None:
        command = ["taskset", "-c", str(core), *command]
    process = subprocess.Popen(
        [
            *command, "--log-format", "json", "--log-level", "warning", "--drain-delay", "0s",
            *arguments,
        ],
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            sys.exit(f"stoker serve ended with code {process.wait()}")
        ready = json.loads(line)
        http, grpc, metrics = (
            int(ready[key].rpartition(":")[2]) for key in ("http", "grpc", "metrics")
        )
        yield Endpoint(http, grpc, metrics, process.pid)
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


@contextlib.contextmanager
def grpc_echo(answer: bytes, core: int = SERVER_CORE) -> Iterator[Endpoint]:
    """The reference of `grpc_echo.py`, pinned to the server's core: only `grpc` is a port."""
    file = Path(f"/tmp/grpc-echo-{os.getpid()}.bin")
    file.write_bytes(answer)
    process = subprocess.Popen(
        ["taskset", "-c", str(core), sys.executable, "-m", "benchmarks.grpc_echo", str(file)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield Endpoint(0, int(process.stdout.readline()), 0, process.pid)
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()
        file.unlink()


def rest_request(model: str, **inputs: Array) -> tuple[bytes, int]:
    """A REST body in the binary extension that asks for binary outputs, and its JSON length."""
    described = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": {"float32": "FP32", "int32": "INT32"}[str(array.dtype)],
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in inputs.items()
    ]
    head = json.dumps(
        {"inputs": described, "parameters": {"binary_data_output": True}}, separators=(",", ":")
    ).encode()
    return head + b"".join(array.tobytes() for array in inputs.values()), len(head)


def json_request(**inputs: Array) -> bytes:
    """A REST body with its numbers as JSON."""
    described = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": {"float32": "FP32", "int32": "INT32"}[str(array.dtype)],
            "data": array.ravel().tolist(),
        }
        for name, array in inputs.items()
    ]
    return json.dumps({"inputs": described}, separators=(",", ":")).encode()


def grpc_answer(model: str, **outputs: Array) -> bytes:
    """A serialised ModelInferResponse, as the reference answers it."""
    answer = pb.ModelInferResponse(model_name=model, model_version="1")
    for name, array in outputs.items():
        datatype = {"float32": "FP32", "int32": "INT32"}[str(array.dtype)]
        answer.outputs.add(name=name, datatype=datatype, shape=list(array.shape))
        answer.raw_output_contents.append(array.tobytes())
    return answer.SerializeToString()


def grpc_request(model: str, **inputs: Array) -> bytes:
    """A serialised ModelInferRequest with raw contents."""
    request = pb.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        datatype = {"float32": "FP32", "int32": "INT32"}[str(array.dtype)]
        request.inputs.add(name=name, datatype=datatype, shape=list(array.shape))
        request.raw_input_contents.append(array.tobytes())
    return request.SerializeToString()


@dataclass(frozen=True)
class Load:
    """What a load tool saw: answers a second, and latencies in microseconds where it tells."""

    per_second: float
    busy_s: float
    """Seconds under load, warm-up included: what CPU time is to be divided by."""
    p50_us: float = 0.0
    p99_us: float = 0.0


def wrk(
    port: int, path: str, body: bytes, headers: dict[str, str], *, connections: int, seconds: int
) -> Load:
    """A closed loop of `connections` keep-alive connections from one thread."""
    script = Path(f"/tmp/wrk-{os.getpid()}.lua")
    quoted = "".join(f"\\{byte:03d}" for byte in body)
    lines = [f'wrk.method = "POST"\nwrk.body = "{quoted}"']
    lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
    lines.append(
        "done = function(summary, latency, requests)\n"
        '  io.write(string.format("STOKER %f %f %f %d %d\\n", '
        "summary.requests / summary.duration * 1e6, latency:percentile(50), "
        "latency:percentile(99), summary.errors.status, summary.errors.timeout))\nend"
    )
    script.write_text("\n".join(lines))
    try:
        said = subprocess.run(
            [
                "taskset", "-c", str(LOAD_CORE), tool("wrk"), "-t1", f"-c{connections}",
                f"-d{seconds}s", "-s", str(script), f"http://127.0.0.1:{port}{path}",
            ],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    finally:
        script.unlink()
    match = re.search(r"STOKER (\S+) (\S+) (\S+) (\d+) (\d+)", said)
    assert match is not None, said
    if int(match[4]) or int(match[5]):
        sys.exit(f"wrk saw {match[4]} error statuses and {match[5]} timeouts")
    return Load(float(match[1]), seconds, float(match[2]), float(match[3]))


def grpc_h2load(port: int, message: bytes, *, connections: int, seconds: int) -> Load:
    """`h2load` with unary ModelInfer calls, 16 streams a connection."""
    return h2load(
        port,
        "/inference.GRPCInferenceService/ModelInfer",
        b"\0" + len(message).to_bytes(4, "big") + message,
        {"content-type": "application/grpc", "te": "trailers"},
        connections=connections,
        seconds=seconds,
    )


def h2load(
    port: int, path: str, body: bytes, headers: dict[str, str], *, connections: int, seconds: int
) -> Load:
    """A closed loop over HTTP/2, 16 streams a connection; h2load tells the mean latency only."""
    file = Path(f"/tmp/h2load-{os.getpid()}.bin")
    file.write_bytes(body)
    fields = [word for each in headers.items() for word in ("-H", ": ".join(each))]
    try:
        said = subprocess.run(
            [
                "taskset", "-c", str(LOAD_CORE), tool("h2load"), "-D", str(seconds),
                "--warm-up-time", str(WARM_UP_S), "-t1", f"-c{connections}", "-m16",
                "-d", str(file), *fields, f"http://127.0.0.1:{port}{path}",
            ],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    finally:
        file.unlink()
    rate = re.search(r"finished in .*?, ([\d.]+) req/s", said)
    failed = re.search(r"(\d+) failed, (\d+) errored", said)
    assert rate is not None, said
    assert failed is not None, said
    if int(failed[1]) or int(failed[2]):
        sys.exit(f"h2load saw failures: {failed[0]}")
    return Load(float(rate[1]), seconds + WARM_UP_S)


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of the values lie."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def spread(values: list[float], digits: int = 0) -> str:
    """Median and range of the rounds, as results print them."""
    low, high = min(values), max(values)
    return f"{median(values):,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def cpu_seconds(process: int) -> float:
    """CPU time that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def facts() -> str:
    """Commit, machine and versions, as every result file states them."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    packages = ("onnxruntime", "numpy", "uvloop", "grpcio", "protobuf", "httptools")
    return (
        f"commit {commit}; {cpu[1] if cpu else platform.machine()}, "
        f"{len(os.sched_getaffinity(0))} cores; CPython {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in packages)
    )


def row(width: int = 16, rows: int = 1) -> Array:
    """FP32 [rows, width], seeded."""
    return np.random.default_rng(1).standard_normal((rows, width)).astype(np.float32)
