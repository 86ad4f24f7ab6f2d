"""A candidate whose sessions are fake ones, for tests of what prepares and swaps them.

candidate = FakeCandidate(runtime, FakeModel())    # covers every shape, corners of 8 and 1 rows
candidate.hold()                                   # its build stops in the middle
candidate.wait_for_build()                         # ... the thread is inside of it
candidate.release()
"""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from stoker.errors import ServingError
from stoker.model import ModelConfig
from stoker.runtime.candidate import Preparation, Shapes, Stop
from stoker.runtime.session import Placement, Session
from stoker.tensor import Array

from tests.fake_runtime import PATIENCE, FakeModel, FakeRuntime


def nearly_double(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
    """y = 2x, with a rounding of its own by which its answers are known."""
    return {"y": (feeds["x"] * np.float32(2.001)).astype(np.float32)}


class FakeCandidate:
    """Implements `Candidate`. Its sessions are of a fake runtime and share that one's gate."""

    def __init__(
        self,
        runtime: FakeRuntime | None = None,
        *,
        error: Exception | None = None,
        most_rows: int = 8,
        can_stop: bool = True,
    ) -> None:
        """`error` ends the build. It covers batches of up to `most_rows`. A build that cannot stop
        goes on until it is released."""
        self.runtime = runtime or FakeRuntime(FakeModel(compute=nearly_double))
        self.error = error
        self.most_rows = most_rows
        self.can_stop = can_stop
        self.allowed = 5e-3
        self.preparation = Preparation()
        self.kept = 0
        self.discarded = 0
        self.blamed = 0
        self.least = 0
        self.builders: list[str] = []
        """Names of the threads that built."""
        self._inside = threading.Event()
        self._may_go_on = threading.Event()
        self._may_go_on.set()

    # Implements Candidate

    @property
    def title(self) -> str:
        return "TensorRT"

    def tolerance(self, rounding: float) -> float:
        return max(self.allowed, rounding)

    def least_bytes(self) -> int:
        return self.least

    def corners(self) -> Sequence[Shapes]:
        return ({"x": (self.most_rows, 4)}, {"x": (1, 4)})

    def covers(self, shapes: Shapes) -> bool:
        return 1 <= shapes["x"][0] <= self.most_rows

    def open(self, placement: Placement, stop: Stop) -> Session:
        self.builders.append(threading.current_thread().name)
        if self.can_stop:
            stop.on_set(self._may_go_on.set)
        self._inside.set()
        if not self._may_go_on.wait(PATIENCE * 6):
            raise AssertionError("a held build was never released")
        if stop.is_set and self.can_stop:
            raise InterruptedError
        if self.error is not None:
            raise self.error
        self.preparation.misses += 1
        self.preparation.seconds += 1.5
        self.preparation.nbytes = 1000
        return self.runtime.open(Path("model.onnx"), _NO_CONFIG, placement)

    def keep(self) -> None:
        self.kept += 1

    def discard(self) -> None:
        self.discarded += 1

    def blame(self) -> None:
        self.blamed += 1

    # For tests

    def hold(self) -> None:
        """From now on a build stops in the middle."""
        self._may_go_on.clear()

    def release(self) -> None:
        """Lets builds go on."""
        self._may_go_on.set()

    def wait_for_build(self) -> None:
        """Blocks until a build has begun."""
        assert self._inside.wait(PATIENCE), "no build has begun"

    @property
    def sessions(self) -> list[bool]:
        """For each session that was opened, whether it is closed."""
        return [session.closed for session in self.runtime.sessions]


def failing(error: ServingError) -> FakeCandidate:
    """A candidate that cannot be built."""
    return FakeCandidate(error=error)


_NO_CONFIG = ModelConfig("m", 8, (), (), None)
