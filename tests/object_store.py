"""An S3 server as a process of its own, and a faulty line to it."""

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

PATIENCE = 60.0
"""Seconds after which waiting for the store is a failure."""


_OWNER = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=owner/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0"
}
"""Nobody verifies it, but without one an object cannot be written again."""


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """A running store; it keeps objects in memory and takes any credentials."""

    url: str

    def put(self, bucket: str, objects: Mapping[str, bytes]) -> None:
        """Makes the bucket and writes the objects, by key."""
        with httpx.Client(base_url=self.url, timeout=PATIENCE, headers=_OWNER) as client:
            client.put(f"/{bucket}").raise_for_status()
            for key, body in objects.items():
                client.put(f"/{bucket}/{key}", content=body).raise_for_status()


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """moto's S3 server on a free port."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        watchdog = threading.Timer(PATIENCE, process.kill)  # of the start alone
        watchdog.start()
        try:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, b"")
            found = (re.search(r"http://127\.0\.0\.1:\d+", line.decode()) for line in lines)
            url = next(match[0] for match in found if match)
            watchdog.cancel()
            # It logs every request, into a pipe that somebody has to empty.
            drain = threading.Thread(target=process.stderr.read, daemon=True)
            drain.start()
            yield ObjectStore(url)
        finally:
            watchdog.cancel()
            process.kill()


@dataclass
class Line:
    """A way to the store that tells what went over it and may damage what comes back."""

    store: ObjectStore
    damage: Callable[[str, bytes], bytes] = lambda _path, body: body
    """Path of the object and its bytes -> the bytes that arrive."""
    fetched: list[str] = field(default_factory=list)
    """Path of each object that was sent, in order."""
    keys: set[str] = field(default_factory=set)
    """Access keys that requests were signed with."""
    url: str = ""


@contextmanager
def line_to(line: Line) -> Iterator[Line]:
    """The line on a free port, its `url` filled in."""

    class Forwarding(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._forward(with_body=True)

        def do_HEAD(self) -> None:
            self._forward(with_body=False)

        def _forward(self, *, with_body: bool) -> None:
            headers = {name: value for name, value in self.headers.items() if name != "Host"}
            signed = re.search(r"Credential=([^/]+)/", self.headers.get("Authorization", ""))
            if signed:
                line.keys.add(signed[1])
            with httpx.Client(timeout=PATIENCE) as client:
                answer = client.request(self.command, line.store.url + self.path, headers=headers)
            body = answer.content
            path = self.path.partition("?")[0]
            if with_body and Path(path).suffix:
                body = line.damage(path, body)
                line.fetched.append(path)
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                if name not in {"connection", "date", "server", "transfer-encoding"}:
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing: tests read `fetched`."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Forwarding)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="line to the object store")
    thread.start()
    line.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield line
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
