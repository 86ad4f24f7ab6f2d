"""What does each step of the GPU's path gain, on the GPU at hand?

Bare ONNX Runtime without the server, each pair side by side in one run, rounds taking turns:

1. level 0 (`session.run`) against level 1 (fixed device buffers, page-locked slabs, own stream),
   written by hand, and the server's own (`runtime/fixed.py`), which also lays the rows;
2. a batch size that comes for the first time, and again, against one padded to a bucket;
3. CUDA graphs: a replay against the same run uncaptured;
4. one instance against two (threads, sessions, streams), which overlap copies and kernels;
5. TF32 against FP32, with the difference of the results;
6. copies from page-locked and from pageable memory.

    python -m benchmarks.gpu [--rounds 5] [--repeats 50] [--networks cnn,launches]
                             [--output build/gpu-bench.md]

Writes a file in the form of benchmarks/results. A question that fails is told in it, and the others
are answered. Without a GPU it says why and ends with code 1.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import onnx
from stoker.tensor import Array

from benchmarks.figures import facts, spread
from tests.gpu import checks, networks
from tests.gpu.cudart import Cudart, pages
from tests.gpu.hardware import hardware
from tests.gpu.level1 import Level1
from tests.gpu.served import open_path
from tests.models import write_model

ENTRIES: Final = {"disable_synchronize_execution_providers": "1"}
COPIED: Final = tuple(1 << size for size in (16, 20, 24, 26))
PADDED_TO: Final = 16

Table: TypeAlias = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""Title, names of the columns, rows."""


@dataclass(frozen=True, slots=True)
class Network:
    """A model and the shapes of one of its rows."""

    name: str
    model: onnx.ModelProto
    x: tuple[int, ...]
    y: tuple[int, ...]


def measured_networks() -> tuple[Network, ...]:
    """One bound by computing, one by its kernels' number, one by its launches, one by copies."""
    return (
        Network("cnn", networks.cnn(64, 64, 8), (3, 64, 64), (64,)),
        Network("transformer", networks.transformer(256, 8, 4), (64, 256), (64, 256)),
        Network("launches", networks.launches(), (64,), (64,)),
        Network("increment", networks.increment(1 << 18), (1 << 18,), (1 << 18,)),
    )


@dataclass(frozen=True, slots=True)
class Bench:
    """How often to measure, and on what."""

    kind: checks.Kind
    cuda: Cudart
    folder: Path
    rounds: int
    repeats: int
    networks: Sequence[Network]
    rows: Sequence[int]

    def path(self, network: Network) -> Path:
        """The model's file."""
        path = self.folder / f"{network.name}.onnx"
        return path if path.exists() else write_model(path, network.model)

    def open(self, network: Network, **options: str) -> Any:
        """A session, without TF32 unless the options say otherwise."""
        return checks.open_session(self.path(network), self.kind, options)

    def fixed(self, network: Network, rows: int) -> "Fixed":
        """Level 1 of a network at one batch size."""
        return Fixed(self, network, rows)

    def served(self, network: Network, rows: int) -> Level1 | None:
        """The server's own level 1; None for a network without fixed shapes."""
        device = "cpu" if self.kind == "cpu" else "cuda:0"
        session = open_path(device, self.path(network), use_tf32="0")
        try:
            return Level1(session, rows)
        except ValueError:
            session.close()
            return None

    def turns(self, *calls: Callable[[], object]) -> list[list[float]]:
        """Median microseconds of each call in each round; the calls take turns."""
        figures: list[list[float]] = [[] for _ in calls]
        for _ in range(self.rounds):
            for call, into in zip(calls, figures, strict=True):
                into.append(float(np.median(checks.seconds_of(call, repeats=self.repeats))) * 1e6)
        return figures


class Fixed:
    """A session on a stream of its own, with its fixed buffers."""

    def __init__(self, bench: Bench, network: Network, rows: int) -> None:
        self._cuda = bench.cuda
        self._stream = bench.cuda.stream()
        options = {"user_compute_stream": str(self._stream)} if bench.kind == "cuda" else {}
        self._fixed = checks.FixedRun(
            bench.cuda,
            bench.open(network, **options),
            bench.kind,
            self._stream,
            {"x": ((rows, *network.x), np.float32)},
            {"y": ((rows, *network.y), np.float32)},
            ENTRIES if bench.kind == "cuda" else {},
        )
        self._fixed.inputs["x"][:] = networks.random((rows, *network.x), 1)
        self.run = self._fixed.run

    def close(self) -> None:
        """Ends the session, then the stream."""
        self._fixed.__exit__(None, None, None)
        del self.run
        self._cuda.destroy(self._stream)


def levels(bench: Bench) -> Table:
    """1: level 0 against level 1."""
    rows = []
    for network in bench.networks:
        session = bench.open(network)
        for count in bench.rows:
            x = networks.random((count, *network.x), 1)
            fixed = bench.fixed(network, count)
            calls: list[Callable[[], object]] = [partial(session.run, None, {"x": x}), fixed.run]
            ours = bench.served(network, count)
            if ours is not None:
                calls.append(partial(ours.run, x))
            plain_us, fixed_us, *served_us = bench.turns(*calls)
            fixed.close()
            if ours is not None:
                ours.close()
            cells = ["no fixed shapes", "-"]
            for each in served_us:
                cells = [spread(each), _ratio(plain_us, each)]
            rows.append((network.name, str(count), spread(plain_us), spread(fixed_us),
                         _ratio(plain_us, fixed_us), *cells))  # fmt: skip
    return (
        "Level 0 against level 1",
        ("model", "rows", "level 0 us", "level 1 us", "level 0 / level 1",
         "the server's us", "level 0 / the server's"),
        rows,
    )  # fmt: skip


def buckets(bench: Bench) -> Table:
    """2: a new batch size against padding."""
    rows = []
    for network in bench.networks:
        session = bench.open(network)
        session.run(None, {"x": networks.random((PADDED_TO, *network.x), 1)})
        padded = bench.fixed(network, PADDED_TO)
        first, again = [], []
        for count in range(PADDED_TO // 2 + 1, PADDED_TO):
            x = networks.random((count, *network.x), 1)
            run = partial(session.run, None, {"x": x})
            first += [each * 1e6 for each in checks.seconds_of(run, repeats=1, warm=0)]
            again.append(float(np.median(checks.seconds_of(run, repeats=bench.repeats))) * 1e6)
        (padded_us,) = bench.turns(padded.run)
        padded.close()
        rows.append((network.name, spread(first), spread(again), spread(padded_us)))
    return (
        f"Batches of {PADDED_TO // 2 + 1} to {PADDED_TO - 1} rows, us",
        ("model", "a size's first run", "its later runs", f"padded to {PADDED_TO}, level 1"),
        rows,
    )


def graphs(bench: Bench) -> Table:
    """3: replays against uncaptured runs."""
    rows = []
    options = {"enable_cuda_graph": "1"} if bench.kind == "cuda" else {}
    for network in bench.networks:
        if network.name == "transformer":
            continue  # shapes are computed on the CPU
        session = bench.open(network, **options)
        for count in sorted(bench.rows, reverse=True):
            x = networks.random((count, *network.x), 1)
            runs = [
                checks.GraphRun(session, bench.kind, x, (count, *network.y), graph)
                for graph in (count, None)
            ]
            before = checks.used_bytes(bench.cuda)
            runs[0].run()
            taken = (checks.used_bytes(bench.cuda) - before) / 2**20
            replay_us, plain_us = bench.turns(*(run.run for run in runs))
            apart = checks.distance(runs[0].result(), runs[1].result())
            rows.append((network.name, str(count), spread(plain_us), spread(replay_us),
                         _ratio(plain_us, replay_us), f"{taken:.1f}", f"{apart:.1e}"))  # fmt: skip
    return (
        "CUDA graphs, data on the device",
        ("model", "rows", "uncaptured us", "replay us", "uncaptured / replay", "MiB", "apart"),
        rows,
    )


def instances(bench: Bench) -> Table:
    """4: one instance against two."""
    rows = []
    for network in bench.networks:
        for count in bench.rows[-1:]:
            pair = [bench.fixed(network, count) for _ in range(2)]
            rates: dict[int, list[float]] = {1: [], 2: []}
            for _ in range(bench.rounds):
                for size in rates:
                    elapsed = _side_by_side([each.run for each in pair[:size]], bench.repeats)
                    rates[size].append(size * bench.repeats * count / elapsed)
            for each in pair:
                each.close()
            rows.append((network.name, str(count), spread(rates[1]), spread(rates[2]),
                         _ratio(rates[2], rates[1])))  # fmt: skip
    return (
        "One instance against two, rows/s",
        ("model", "rows a batch", "one", "two", "two / one"),
        rows,
    )


def _side_by_side(calls: Sequence[Callable[[], object]], repeats: int) -> float:
    """Seconds until every call was made `repeats` times, each in a thread of its own."""

    def act(call: Callable[[], object]) -> None:
        for _ in range(repeats):
            call()

    threads = [threading.Thread(target=act, args=(call,)) for call in calls]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def tf32(bench: Bench) -> Table:
    """5: TF32 against FP32."""
    rows = []
    for network in bench.networks:
        sessions = [bench.open(network, use_tf32=flag) for flag in ("0", "1")]
        x = networks.random((bench.rows[-1], *network.x), 1)
        exact_us, fast_us = bench.turns(
            *(partial(session.run, None, {"x": x}) for session in sessions)
        )
        exact, fast = (session.run(None, {"x": x})[0] for session in sessions)
        rows.append((network.name, str(bench.rows[-1]), spread(exact_us), spread(fast_us),
                     _ratio(exact_us, fast_us), f"{checks.distance(fast, exact):.1e}"))  # fmt: skip
    return (
        "FP32 against TF32",
        ("model", "rows", "FP32 us", "TF32 us", "FP32 / TF32", "apart"),
        rows,
    )


def copies(bench: Bench) -> Table:
    """6: bandwidth."""
    rows = []
    stream = bench.cuda.stream()
    for nbytes in COPIED:
        there = bench.cuda.malloc(nbytes)
        pageable, locked = pages(nbytes), pages(nbytes)
        bench.cuda.register(locked)
        ways = list(_ways(bench.cuda, there, (pageable, locked), stream))
        speeds = [
            [nbytes / each / 1e3 for each in times]  # bytes a microsecond are MB/s
            for times in bench.turns(*ways)
        ]
        rows.append((f"{nbytes >> 10:,} KiB", *(spread(each, 2) for each in speeds)))
        bench.cuda.unregister(locked)
        bench.cuda.free(there)
    bench.cuda.destroy(stream)
    return (
        "Copies, GB/s",
        ("size", "pageable in", "pageable out", "page-locked in", "page-locked out"),
        rows,
    )


def _ways(
    cuda: Cudart, there: int, hosts: Sequence[Array], stream: int
) -> Iterator[Callable[[], None]]:
    for host in hosts:

        def copy_in(host: Array = host) -> None:
            cuda.copy_in(there, host, stream)
            cuda.wait(stream)

        def copy_out(host: Array = host) -> None:
            cuda.copy_out(host, there, stream)
            cuda.wait(stream)

        yield copy_in
        yield copy_out


def _ratio(these: Sequence[float], those: Sequence[float]) -> str:
    return spread([this / that for this, that in zip(these, those, strict=True)], 2)


QUESTIONS: Final = (levels, buckets, graphs, instances, tf32, copies)


def answer(question: Callable[[Bench], Table], bench: Bench) -> Table:
    """The question's table, or why there is none: the others are of use all the same."""
    try:
        return question(bench)
    except Exception as error:
        text = f"{type(error).__name__}: {error}".replace("|", "\\|").replace("\n", " ")
        return f"{question.__name__}: failed", ("why",), [(text[:500],)]


def render(command: str, machine: Sequence[tuple[str, str]], tables: Sequence[Table]) -> str:
    """The file: what ran, on what, then each table."""
    lines = ["# The GPU's path, step by step", "", f"    {command}", ""]
    lines += [f"- {name}: {value}" for name, value in machine]
    for title, names, rows in tables:
        lines += ["", f"## {title}", "", "| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", "Left out: the server around it, TensorRT, other GPUs of this machine."]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measures all and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--networks", default=",".join(each.name for each in measured_networks()))
    parser.add_argument("--output", type=Path, default=Path("build/gpu-bench.md"))
    given = parser.parse_args()
    found = hardware()
    if found.absence:
        print(f"bench-gpu measured nothing: {found.absence}", file=sys.stderr)
        return 1
    checks.runtime()
    with tempfile.TemporaryDirectory() as folder:
        cuda = Cudart()
        cuda.set_device(0)
        chosen = [each for each in measured_networks() if each.name in given.networks.split(",")]
        bench = Bench("cuda", cuda, Path(folder), given.rounds, given.repeats, chosen, (1, 8, 64))
        tables = [answer(question, bench) for question in QUESTIONS]
    machine = (
        *found.lines(),
        ("host", facts()),
        ("figures", f"medians of {given.repeats} after 3 that are not counted; "
                    f"median (range) of {given.rounds} rounds"),
    )  # fmt: skip
    text = render(f"python -m benchmarks.gpu {' '.join(sys.argv[1:])}".strip(), machine, tables)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(text)
    print(text)
    print(f"written to {given.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
