"""What does a header block cost that no cache knows, and a frame that moves nothing?

Ten fields of a gRPC call, two of them fresh each time (`grpc-timeout`, `traceparent`), from three
encoders: one that indexes everything and codes by Huffman, one that indexes and does not code, and
one that leaves the fresh ones as plain literals. `hpack` decodes them, our decoder does, and the
whole way from block to call does. One process, one core, no sockets; CPU time of the thread.

    python -m benchmarks.header_blocks [--rounds 5] [--calls 4000]
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import hpack
from stoker.telemetry.server_statistics import ServerStatistics
from stoker.transport.grpc.call import CallContext, MessageBytes, Reply, UnaryMethod
from stoker.transport.grpc.native import GrpcRequests
from stoker.transport.wire.http2 import frames
from stoker.transport.wire.http2.hpack import Decoder
from stoker.transport.wire.http2.http_stream import HttpRequests
from stoker.transport.wire.http2.session import Session
from stoker.transport.wire.limits import MAX_IDLE_FRAMES, BufferBudget, HttpLimits
from stoker.transport.wire.message import Answer, HttpRequest, RequestHead

from benchmarks.figures import facts, spread

PATH = "/inference.GRPCInferenceService/ModelInfer"
LASTING = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", PATH),
    (":authority", "localhost:8001"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
    ("user-agent", "grpc-python/1.80.0 grpc-c/50.0.0 (linux; chttp2)"),
    ("grpc-accept-encoding", "identity, deflate, gzip"),
]
BODY = frames.frame(frames.DATA, frames.END_STREAM, 1, b"\0\0\0\0\0")[9:]


class _Nothing:
    """Serves no HTTP."""

    def body_limit(self, head: RequestHead) -> int:
        return 0

    def handle(self, request: HttpRequest, answer: Answer) -> None:
        return None


def encoded(kind: str, count: int) -> list[bytes]:
    """Blocks of so many calls, one after another."""
    encoder = hpack.Encoder()
    blocks = []
    for number in range(count):
        fresh = [
            ("grpc-timeout", f"{999_000 + number % 1000}u"),
            ("traceparent", f"00-{number:032x}-{number:016x}-01"),
        ]
        if kind == "literal":
            block = encoder.encode(LASTING, huffman=False)
            for name, value in fresh:
                for text in (name, value):
                    block += (b"\0" if text is name else b"") + bytes([len(text)]) + text.encode()
        else:
            block = encoder.encode(LASTING + fresh, huffman=kind == "indexed, Huffman")
        blocks.append(block)
    return blocks


def microseconds(run: Callable[[], object], count: int) -> float:
    """CPU microseconds of each of `count`."""
    began = time.thread_time()
    run()
    return (time.thread_time() - began) / count * 1e6


def session() -> Session:
    """One whose calls are answered at once."""

    def handle(message: MessageBytes, context: CallContext, reply: Reply) -> None:
        reply(b"")

    budget, limits = BufferBudget(1 << 30), HttpLimits()
    others = HttpRequests(_Nothing(), budget, on_refused=lambda error: None)
    requests = GrpcRequests(
        {PATH: UnaryMethod(handle)},
        others,
        budget,
        ServerStatistics(),
        max_message_bytes=limits.max_message_bytes,
    )
    made = Session(requests, budget, lambda: None)
    start = frames.settings({}) + frames.window_update(0, 1 << 30)
    made.receive(memoryview(start), len(start))
    return made


def calls(blocks: Sequence[bytes]) -> Callable[[], None]:
    """A session that receives a call for each block, 16 at a time."""
    data = [
        memoryview(
            b"".join(
                frames.frame(frames.HEADERS, frames.END_HEADERS, 2 * number + 1, block)
                + frames.frame(frames.DATA, frames.END_STREAM, 2 * number + 1, BODY)
                for number, block in enumerate(blocks[first : first + 16], first)
            )
        )
        for first in range(0, len(blocks), 16)
    ]
    made = session()

    def run() -> None:
        for piece in data:
            made.receive(piece, len(piece))
            made.sending.take(1 << 20)

    return run


def main() -> None:
    """Prints two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=4000)
    given = parser.parse_args()
    count: int = given.calls
    kinds = {kind: encoded(kind, count) for kind in
             ("indexed, Huffman", "indexed, plain", "literal")}  # fmt: skip
    encoder = hpack.Encoder()
    first = encoder.encode(LASTING, huffman=False)  # fills the table; the next ones are indices
    plain = [first, *[encoder.encode(LASTING, huffman=False)] * (count - 1)]
    pings = memoryview(frames.frame(frames.PING, 0, 0, bytes(8)) * (MAX_IDLE_FRAMES - 1000))
    seen: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(given.rounds):
        for kind, blocks in kinds.items():
            theirs = hpack.Decoder()
            ours = Decoder(max_table_bytes=4096, max_list_bytes=1 << 15)

            def by_hpack(decoder: hpack.Decoder = theirs, all: list[bytes] = blocks) -> None:
                for block in all:
                    decoder.decode(block)

            def by_ours(decoder: Decoder = ours, all: list[bytes] = blocks) -> None:
                for block in all:
                    decoder.decode(block)

            seen[kind, "hpack"].append(microseconds(by_hpack, count))
            seen[kind, "ours"].append(microseconds(by_ours, count))
            seen[kind, "call"].append(microseconds(calls(blocks), count))
        seen["known", "call"].append(microseconds(calls(plain), count))
        flooded = session()
        flood = microseconds(lambda to=flooded: to.receive(pings, len(pings)), 1)  # type: ignore[misc]  # a lambda of its own default
        seen["ping", ""].append(flood / 1e3)
    print(f"{facts()}; {given.rounds} rounds of {count} calls, medians (range)\n")
    print("| fresh fields | `hpack` | our decoder | whole call, wire only |\n|---|---|---|---|")
    for kind in kinds:
        row = [spread(seen[kind, each], 1) for each in ("hpack", "ours", "call")]
        print(f"| {kind} | {' | '.join(row)} |")
    print(f"| none, a known block | | | {spread(seen['known', 'call'], 1)} |")
    print(f"\n{MAX_IDLE_FRAMES - 1000} PINGs take {spread(seen['ping', ''], 1)} ms.")


if __name__ == "__main__":
    main()
