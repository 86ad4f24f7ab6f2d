"""`wrk` and `h2load` (Debian: wrk, nghttp2-client) as functions: closed loops on the load core.

Not a benchmark itself. Neither gets a warm-up phase of its own, so that what they count is what the
server answered: `benchmarks.accounts` holds the two counts against each other. A benchmark warms a
row by running it once, untimed.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bodies import GRPC_HEADERS, INFER, framed
from benchmarks.figures import percentile
from benchmarks.serving import LOAD_CORE


@dataclass(frozen=True)
class Load:
    """What a load tool saw; latencies in microseconds, 0 where it does not tell them."""

    per_second: float
    requests: int
    in_flight: int
    """At most so many requests were under way when the tool stopped, answered or not."""
    p50_us: float = 0.0
    p90_us: float = 0.0
    p99_us: float = 0.0


def tool(name: str) -> str:
    """The path of a load tool. Exits with its name when it is missing."""
    path = shutil.which(name)
    if path is None:
        sys.exit(f"{name} is not installed")
    return path


@contextmanager
def _files(**contents: bytes) -> Iterator[dict[str, Path]]:
    """Files of these contents in a folder of their own, for as long as the tool runs."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        paths = {name: Path(folder, name) for name in contents}
        for name, content in contents.items():
            paths[name].write_bytes(content)
        yield paths


def _run(*command: str) -> str:
    return subprocess.run(
        ["taskset", "-c", str(LOAD_CORE), *command], capture_output=True, text=True, check=True
    ).stdout


_REPORT = """
done = function(summary, latency, requests)
  io.write(string.format("RESULT %f %d %f %f %f %d %d %d\\n",
    summary.requests / summary.duration * 1e6, summary.requests,
    latency:percentile(50), latency:percentile(90), latency:percentile(99),
    summary.errors.status, summary.errors.timeout, summary.errors.read))
end
"""


def wrk(
    port: int, path: str, body: bytes, headers: dict[str, str], *, connections: int, seconds: float
) -> Load:
    """A closed loop of `connections` keep-alive connections from one thread."""
    return wrk_mixed(port, [(path, body, headers)], connections=connections, seconds=seconds)


def wrk_mixed(
    port: int,
    calls: list[tuple[str, bytes, dict[str, str]]],
    *,
    connections: int,
    seconds: float,
) -> Load:
    """The same with several calls (path, body, headers) in turn, each built once."""
    lines = ["local calls = {}"]
    for number, (path, _, headers) in enumerate(calls):
        fields = ", ".join(f'["{name}"] = "{value}"' for name, value in headers.items())
        lines += [
            f'local file = io.open(os.getenv("BODIES") .. "/body{number}", "rb")',
            f'calls[{number + 1}] = {{"{path}", {{{fields}}}, file:read("*a")}}',
            "file:close()",
        ]
    if len(calls) == 1:
        lines.append('wrk.method, wrk.headers, wrk.body = "POST", calls[1][2], calls[1][3]')
    else:
        lines += [
            "local built, turn = {}, 0",
            "init = function()",
            "  for i, call in ipairs(calls) do",
            '    built[i] = wrk.format("POST", call[1], call[2], call[3])',
            "  end",
            "end",
            "request = function() turn = turn % #built + 1; return built[turn] end",
        ]
    script = "\n".join([*lines, _REPORT]).encode()
    bodies = {f"body{number}": body for number, (_, body, _) in enumerate(calls)}
    with _files(script=script, **bodies) as files:
        said = _run(
            "env", f"BODIES={files['script'].parent}", tool("wrk"), "-t1", f"-c{connections}",
            f"-d{max(1, round(seconds))}s", "-s", str(files["script"]),
            f"http://127.0.0.1:{port}{calls[0][0]}",
        )  # fmt: skip
    match = re.search(r"RESULT (\S+) (\d+) (\S+) (\S+) (\S+) (\d+) (\d+) (\d+)", said)
    assert match is not None, said
    if any(int(match[each]) for each in (6, 7, 8)):
        sys.exit(f"wrk saw {match[6]} error statuses, {match[7]} timeouts, {match[8]} resets")
    p50, p90, p99 = (float(match[each]) for each in (3, 4, 5))
    return Load(float(match[1]), int(match[2]), connections, p50, p90, p99)


def grpc_h2load(
    port: int,
    message: bytes,
    *,
    connections: int,
    streams: int,
    seconds: float,
    with_latency: bool = False,
) -> Load:
    """`h2load` with unary ModelInfer calls."""
    return h2load(
        port, INFER, framed(message), GRPC_HEADERS,
        connections=connections, streams=streams, seconds=seconds, with_latency=with_latency,
    )  # fmt: skip


def h2load(
    port: int,
    path: str,
    body: bytes,
    headers: dict[str, str],
    *,
    connections: int,
    streams: int,
    seconds: float,
    with_latency: bool = False,
    scheme: str = "http",
) -> Load:
    """A closed loop over HTTP/2; with the scheme `https` over TLS, trusting any certificate.
    Latencies come from a line of log for each request, which is for loads of a few thousand
    requests a second.

    It counts HTTP answers: a gRPC call that failed counts like one that did not.
    """
    fields = [word for each in headers.items() for word in ("-H", ": ".join(each))]
    with _files(body=body, log=b"") as files:
        log = [f"--log-file={files['log']}"] if with_latency else []
        said = _run(
            tool("h2load"), "-D", f"{round(seconds * 1000)}ms", "-t1", f"-c{connections}",
            f"-m{streams}", "-d", str(files["body"]), *fields, *log,
            f"{scheme}://127.0.0.1:{port}{path}",
        )  # fmt: skip
        lines = [line.split("\t") for line in files["log"].read_text().splitlines()]
    done = re.search(r"finished in .*?, ([\d.]+) req/s", said)
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", said)
    assert done is not None, said
    assert counts is not None, said
    if int(counts[2]) or int(counts[3]):
        sys.exit(f"h2load saw failures: {counts[0]}")
    in_flight = connections * streams
    times = [float(took) for _, status, took in lines if status == "200"]
    if not times:
        return Load(float(done[1]), int(counts[1]), in_flight)
    p50, p90, p99 = (percentile(times, share) for share in (0.5, 0.9, 0.99))
    return Load(float(done[1]), int(counts[1]), in_flight, p50, p90, p99)
