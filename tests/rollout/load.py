"""Load that never rests, and what became of every request of it.

Each client sends its next request when it has the last one's answer, so that a known number is
under way at any moment. What fails is kept with its text and its moment. After a failure a client
pauses for BACK_OFF_S, as programs do; it never sends the failed request again.

Models: `wait-0` ... wait for others to batch with, each for its own time, so that many requests are
in flight at little cost and not all are answered in one moment; `work` computes for some
milliseconds. All double their input.
"""

import itertools
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np

from tests import models
from tests.rollout.clients import CallFailed, Client, Kind

WAITING: Final = 8
"""Models that wait."""

SHORTEST_WAIT_MS: Final = 60
WAIT_STEP_MS: Final = 20

WORK_EVERY: Final = 4
"""Of so many requests of a client one is for `work`."""

BACK_OFF_S: Final = 0.05

PATIENCE_S: Final = 60.0

_EXACT: Final = 1 << 20
"""FP32 doubles integers below this exactly."""


def write_models(folder: Path) -> Path:
    """The models of the load; gives the repository."""
    entries: dict[str, models.ModelEntry] = {
        f"wait-{number}": models.ModelEntry(
            models.double(), waiting_config(SHORTEST_WAIT_MS + WAIT_STEP_MS * number)
        )
        for number in range(WAITING)
    }
    entries["work"] = models.ModelEntry(models.laborious(), "max_batch_size: 16\n")
    return models.write_repository(folder, entries)


def waiting_config(delay_ms: int) -> str:
    """Of a model whose requests wait for others, so long at most."""
    batching = f"dynamic_batching {{ max_queue_delay_microseconds: {delay_ms * 1000} }}\n"
    return "max_batch_size: 64\n" + batching


@dataclass(frozen=True, slots=True)
class Failure:
    """A request without its right answer. Moments are seconds since the load began."""

    client: str
    model: str
    began: float
    ended: float
    text: str
    is_retryable: bool
    caller: int
    """Which of the load's threads."""
    answers: int
    """Good ones that the caller had had before."""


@dataclass(slots=True)
class _Caller:
    """One thread."""

    kind: Kind
    client: Client
    number: int
    answers: int = 0


@dataclass(frozen=True, slots=True)
class Tally:
    """What one kind of client has had."""

    answered: int
    failed: int
    median_s: float
    p99_s: float
    longest_s: float


class Load:
    """All clients at work, for as long as the `with` block lasts. `failures` and `tallies` are for
    the time after it."""

    def __init__(self, kinds: Iterable[Kind], address: Callable[[str], str]) -> None:
        """`address` gives that of a balancer's port."""
        self.failures: list[Failure] = []
        self.kinds = [*kinds]
        self._seconds: dict[str, list[float]] = defaultdict(list)
        """The time of each good answer."""
        self._failed: Counter[str] = Counter()
        self._values = itertools.count(1)
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._began = 0.0
        self._threads: list[threading.Thread] = []
        number = itertools.count()
        for kind in self.kinds:
            for _ in range(kind.connections):
                self._threads += [
                    threading.Thread(target=self._work, args=(_Caller(kind, client, next(number)),))
                    for client in kind.open(address(kind.port), kind.threads)
                ]
        self._finished = threading.Barrier(len(self._threads))

    @property
    def now(self) -> float:
        """Seconds since the load began."""
        return time.monotonic() - self._began

    @property
    def concurrency(self) -> int:
        """Requests that are under way at once."""
        return len(self._threads)

    @property
    def answered(self) -> int:
        """Good answers so far."""
        return sum(map(len, self._seconds.values()))

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "a client hangs"

    def wait_for_answers(self, count: int) -> None:
        """Returns when every kind of client has had so many good answers more."""
        with self._changed:
            goal = {kind.label: len(self._seconds[kind.label]) + count for kind in self.kinds}
            reached = self._changed.wait_for(
                lambda: all(len(self._seconds[label]) >= most for label, most in goal.items()),
                PATIENCE_S,
            )
        assert reached, f"expected {count} more answers of each kind; failures: {self.failures[:5]}"

    def tallies(self) -> dict[str, Tally]:
        """By kind of client."""
        return {label: self._tally(label) for label in self._labels()}

    def _labels(self) -> Sequence[str]:
        return [*dict.fromkeys(kind.label for kind in self.kinds)]

    def _tally(self, label: str) -> Tally:
        seconds = self._seconds[label] or [float("nan")]
        median, p99 = np.percentile(seconds, (50, 99))
        answered = len(self._seconds[label])
        return Tally(answered, self._failed[label], float(median), float(p99), max(seconds))

    def _work(self, caller: _Caller) -> None:
        try:
            for turn in itertools.count(caller.number):
                if self._stopping.is_set():
                    return
                usual = "work" if turn % WORK_EVERY == 0 else f"wait-{caller.number % WAITING}"
                self._request(caller, caller.kind.model or usual)
        finally:
            self._finished.wait(PATIENCE_S)  # threads share connections
            caller.client.close()

    def _request(self, caller: _Caller, model: str) -> None:
        value = float(next(self._values) % _EXACT)
        began = self.now
        try:
            answer = caller.client.call(model, value)
            if answer != 2 * value:
                raise CallFailed(f"expected {2 * value}, got {answer}", is_retryable=False)
        except CallFailed as error:
            self._note(caller, model, began, str(error), error.is_retryable)
        except Exception as error:  # what nobody foresaw is a failure like others
            self._note(caller, model, began, repr(error), False)
        else:
            caller.answers += 1
            with self._changed:
                self._seconds[caller.kind.label].append(self.now - began)
                self._changed.notify_all()

    def _note(
        self, caller: _Caller, model: str, began: float, text: str, is_retryable: bool
    ) -> None:
        label = caller.kind.label
        failure = Failure(
            label, model, began, self.now, text, is_retryable, caller.number, caller.answers
        )
        with self._changed:
            self._failed[label] += 1
            self.failures.append(failure)
        self._stopping.wait(BACK_OFF_S)
