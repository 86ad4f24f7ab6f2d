"""The real runtime with a real candidate on the CPU: another session of the same or another file.

What TensorRT is on a GPU, this is where there is none: all of ONNX Runtime is real, and so is the
way from the first request to the swapped session. A test holds the opening, or gives a file that
computes something else.
"""

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stoker.model import ModelConfig, Optimization
from stoker.runtime.candidate import Candidate, CandidateRefused, Preparation, Shapes, Stop
from stoker.runtime.onnx import OnnxRuntime
from stoker.runtime.session import Placement, Session

PATIENCE = 60.0
NO_OPTIMISATION = 2
MOST_ROWS = 4


class UpgradingRuntime(OnnxRuntime):
    """Every model has a candidate: its own file without graph optimisation, or `other`."""

    def __init__(self, other: Path | None = None, *, refusal: str = "") -> None:
        super().__init__("cpu")
        self.other = other
        self.refusal = refusal
        self.may_open = threading.Event()
        self.may_open.set()
        self.is_opening = threading.Event()

    def candidate(
        self, path: Path, folder: Path, config: ModelConfig, session: Session, *, max_rows: int
    ) -> Candidate | None:
        if self.refusal:
            raise CandidateRefused("TensorRT", self.refusal)
        return CpuCandidate(self, self.other or path, config)


class CpuCandidate:
    """Implements `Candidate`, for batches of up to MOST_ROWS rows of [4]."""

    def __init__(self, runtime: UpgradingRuntime, path: Path, config: ModelConfig) -> None:
        self._runtime = runtime
        self._path = path
        self._config = replace(config, optimization=Optimization(graph_level=NO_OPTIMISATION))
        self.preparation = Preparation()

    @property
    def title(self) -> str:
        return "TensorRT"

    def tolerance(self, rounding: float) -> float:
        return max(5e-3, rounding)

    def least_bytes(self) -> int:
        return 0

    def corners(self) -> Sequence[Shapes]:
        return ({"x": (MOST_ROWS, 4)}, {"x": (1, 4)})

    def covers(self, shapes: Shapes) -> bool:
        return shapes["x"][0] <= MOST_ROWS

    def open(self, placement: Placement, stop: Stop) -> Session:
        self._runtime.is_opening.set()
        assert self._runtime.may_open.wait(PATIENCE), "a held opening was never released"
        self.preparation.misses += 1
        return self._runtime.open(self._path, self._config, placement)

    def keep(self) -> None:
        pass

    def discard(self) -> None:
        pass

    def blame(self) -> None:
        pass
