"""What a receiver of spans got from a server: the receiver's process, and the spans as trees.

    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.grpc)
        ...                                     # serve with tracing, call, stop the server
        (call,) = receiver.take().named("POST /v2/models/{model}/infer")
        call.inside("run").links                # spans inside of it, by name

A server has exported all of its spans when it has stopped, and a receiver has written down what it
has taken before it says so: nothing is waited for.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

SERVER, INTERNAL = 2, 1
"""`kind` of a span."""
UNSET, ERROR = 0, 2
"""`status` of a span."""


@dataclass
class Span:
    """One span, as the receiver got it."""

    protocol: str
    resource: dict[str, Any]
    scope: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    trace_state: str
    flags: int
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    links: list[tuple[str, str]]
    status: int
    status_message: str
    children: list["Span"] = field(default_factory=list)
    """In the order of their begins."""

    @property
    def identity(self) -> tuple[str, str]:
        """As links name it."""
        return self.trace_id, self.span_id

    def inside(self, name: str) -> "Span":
        """The one span inside of this that has the name."""
        (found,) = [each for each in self.children if each.name == name]
        return found

    @property
    def names(self) -> list[str]:
        """Of the spans inside of this."""
        return [each.name for each in self.children]


class Spans:
    """All spans that came."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self.all = sorted(spans, key=lambda each: each.start_ns)
        known = {each.identity: each for each in self.all}
        assert len(known) == len(spans), "a span came twice"
        for each in self.all:
            parent = known.get((each.trace_id, each.parent_id))
            if parent is not None:
                parent.children.append(each)

    def named(self, name: str) -> list[Span]:
        """Those with a name, in the order of their begins."""
        return [each for each in self.all if each.name == name]

    @property
    def calls(self) -> list[Span]:
        """Those of kind SERVER."""
        return [each for each in self.all if each.kind == SERVER]

    @property
    def batches(self) -> list[Span]:
        """Those of batches."""
        return [each for each in self.all if each.name.startswith("batch ")]


class Receiver:
    """A process of `tests/otlp_receiver.py`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        assert process.stdout is not None
        ports = json.loads(process.stdout.readline())
        self.grpc = f"http://127.0.0.1:{ports['grpc']}"
        self.http = f"http://127.0.0.1:{ports['http']}"

    def take(self) -> Spans:
        """All that it has got since the last time."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write("\n")
        stdin.flush()
        spans = []
        while line := stdout.readline().strip():
            each = json.loads(line)
            each["links"] = [tuple(link) for link in each["links"]]
            spans.append(Span(**each))
        assert self._process.poll() is None, "the receiver has ended"
        return Spans(spans)


@contextlib.contextmanager
def receiving(*arguments: str) -> Iterator[Receiver]:
    """A receiver, for as long as the test wants it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.otlp_receiver", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Receiver(process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(60.0)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
