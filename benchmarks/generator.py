"""Open and closed loops over raw connections, from one thread on the load core.

Not a benchmark itself. The open loop sends each call at a time that was fixed before the run, and
counts its latency from that time: a call that had to wait for the generator or for a free stream
waited for the server, as far as a user is concerned. Arrivals have exponential gaps by default, as
those of many users who know nothing of each other. The loop spins on its core; how late it sent is
part of the result: lateness near the latency means that connections were full or the core was not
the generator's own.
"""

import contextlib
import gc
import itertools
import math
import select
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np

from benchmarks.figures import percentile
from benchmarks.raw_http2 import ServerGone

_STANDSTILL_S = 0.1
"""A turn of a loop that took longer is a machine that stood still."""

CallT = TypeVar("CallT", contravariant=True)
Sent = TypeVar("Sent")


class Client(Protocol[CallT]):
    """A connection: `Http1Client` or `Http2Client`."""

    def fileno(self) -> int: ...
    def close(self) -> None: ...
    def room(self) -> int: ...
    def send(self, number: int, call: CallT) -> None: ...
    def flush(self) -> bool: ...
    def read(self) -> list[tuple[int, int]]: ...


@dataclass
class Outcome:
    """What a loop saw. Latencies and moments in seconds, moments since its start."""

    codes: Counter[int] = field(default_factory=Counter)
    """Answers by code: 0 is good, `raw_http2` tells the others."""
    latencies: dict[int, list[float]] = field(default_factory=dict)
    """Latencies by code."""
    moments: list[float] = field(default_factory=list)
    """When good answers came."""
    late: list[float] = field(default_factory=list)
    """How much after its time each call of an open loop was sent."""
    sent: int = 0
    seconds: float = 0.0
    unanswered: int = 0

    @property
    def good(self) -> int:
        """Answers without an error."""
        return self.codes[0]

    @property
    def per_second(self) -> float:
        """Good answers a second."""
        return self.good / self.seconds

    def steady_per_second(self, gap: float = 0.02) -> float:
        """Good answers a second between the first and the last whole batch.

        For models whose runs take longer than `gap`: answers that come closer together than that
        are one batch. Where a run holds few batches, a rate by the clock would count the parts that
        its ends cut off.
        """
        starts, sizes, last = list[float](), list[int](), -math.inf
        for moment in self.moments:
            if moment - last > gap:
                starts.append(moment)
                sizes.append(0)
            sizes[-1] += 1
            last = moment
        if len(starts) < 3:
            raise ValueError(f"{len(starts)} batches: expected at least 3, so a longer run")
        return sum(sizes[1:-1]) / (starts[-2] - starts[0])

    def us(self, share: float, code: int = 0) -> float:
        """A percentile of the latencies of one kind of answer, in microseconds; NaN without any."""
        values = self.latencies.get(code)
        return percentile(values, share) * 1e6 if values else float("nan")

    def all_good(self) -> "Outcome":
        """This outcome. Raises ServerGone when anything but a good answer came."""
        if self.unanswered or set(self.codes) - {0}:
            raise ServerGone(f"answers by code {dict(self.codes)}, {self.unanswered} unanswered")
        return self

    def add(self, code: int, latency: float, moment: float) -> None:
        """One answer."""
        self.codes[code] += 1
        self.latencies.setdefault(code, []).append(latency)
        if code == 0:
            self.moments.append(moment)


def arrivals(rate: float, seconds: float, *, even: bool = False, seed: int = 1) -> list[float]:
    """Moments within `seconds`: exponential gaps of mean 1/rate, or all gaps alike."""
    count = int(rate * seconds)
    if even:
        return [number / rate for number in range(count)]
    gaps = np.random.default_rng(seed).exponential(1 / rate, count)
    moments: list[float] = np.cumsum(gaps).tolist()
    return moments


class _Poll(Generic[Sent]):
    """Which connections can be read, and which have more to write."""

    def __init__(self, clients: Sequence[Client[Sent]]) -> None:
        self._by_number = {client.fileno(): client for client in clients}
        self._epoll = select.epoll()
        for number in self._by_number:
            self._epoll.register(number, select.EPOLLIN)
        self._stuck: set[int] = set()

    def flush(self, client: Client[Sent]) -> None:
        """Writes; what the socket does not take is written when it can."""
        number, is_stuck = client.fileno(), client.flush()
        if is_stuck != (number in self._stuck):
            self._epoll.modify(number, select.EPOLLIN | (select.EPOLLOUT if is_stuck else 0))
            self._stuck ^= {number}

    def readable(self, timeout: float) -> Iterator[Client[Sent]]:
        """Connections with answers, after those that can write again have written."""
        for number, events in self._epoll.poll(timeout):
            client = self._by_number[number]
            if events & select.EPOLLOUT:
                self.flush(client)
            if events & ~select.EPOLLOUT:
                yield client

    def close(self) -> None:
        self._epoll.close()


@contextlib.contextmanager
def _polling(clients: Sequence[Client[Sent]]) -> Iterator[_Poll[Sent]]:
    """No garbage collection meanwhile: it would stop the clock's only reader."""
    poll = _Poll(clients)
    gc.collect()
    gc.disable()
    try:
        yield poll
    finally:
        gc.enable()
        poll.close()


def open_loop(
    clients: Sequence[Client[Sent]],
    scripts: Sequence[Iterator[Sent]],
    due: Sequence[float],
    *,
    patience: float = 10.0,
) -> Outcome:
    """Sends a call at each moment of `due`, over the connections in turn, each with its own script.

    Ends when `patience` seconds went by without an answer. Only time in which this loop ran is
    counted: a machine that stood still, the generator with it, says nothing of the server.
    """
    outcome, now = Outcome(), time.perf_counter
    script_of = dict(zip(clients, scripts, strict=True))
    turns, count, sent, open_calls = itertools.cycle(clients), len(due), 0, 0
    with _polling(clients) as poll:
        began, before, silent = now(), 0.0, 0.0
        while (sent < count or open_calls) and silent < patience:
            at = now() - began
            silent = silent + min(at - before, _STANDSTILL_S) if open_calls else 0.0
            before = at
            touched: set[Client[Sent]] = set()
            while sent < count and due[sent] <= at:
                client = next(turns)
                for _ in clients:
                    if client.room() > 0:
                        break
                    client = next(turns)
                else:  # every connection is full: the call waits, and its clock runs
                    break
                outcome.late.append(at - due[sent])
                client.send(sent, next(script_of[client]))
                touched.add(client)
                sent += 1
                open_calls += 1
            for client in touched:
                poll.flush(client)
            wait = due[sent] - at if sent < count else 0.01
            for client in poll.readable(wait - 0.001 if wait > 0.002 else 0):
                answers = client.read()
                moment = now() - began
                for number, code in answers:
                    outcome.add(code, moment - due[number], moment)
                    silent = 0.0
                open_calls -= len(answers)
                poll.flush(client)
    outcome.sent, outcome.seconds, outcome.unanswered = sent, due[-1], open_calls
    return outcome


def closed_loop(
    clients: Sequence[Client[Sent]], scripts: Sequence[Iterator[Sent]], seconds: float
) -> Outcome:
    """Keeps every connection full for `seconds`, each with the calls of its own script.

    Ends early when a script does: the rate stands for the time until then. What is under way at
    the end is waited for, and not counted.
    """
    outcome, now = Outcome(), time.perf_counter
    script_of = dict(zip(clients, scripts, strict=True))
    starts: list[float] = []

    def fill(client: Client[Sent], moment: float) -> bool:
        for call in itertools.islice(script_of[client], client.room()):
            client.send(len(starts), call)
            starts.append(moment)
        poll.flush(client)
        return client.room() == 0

    with _polling(clients) as poll:
        began = now()
        for client in clients:
            fill(client, 0.0)
        is_running, ended = True, 0.0
        open_calls = len(starts)
        while open_calls:
            for client in poll.readable(1.0):
                answers = client.read()
                moment = now() - began
                open_calls -= len(answers)
                if not is_running:
                    poll.flush(client)
                    continue
                for number, code in answers:
                    outcome.add(code, moment - starts[number], moment)
                before = len(starts)
                if moment >= seconds or not fill(client, moment):
                    is_running, ended = False, moment
                open_calls += len(starts) - before
    outcome.sent, outcome.seconds = len(starts), ended
    return outcome
