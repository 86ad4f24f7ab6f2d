"""One version's faster way: where it is between being asked for and serving.

    WAITING -> BUILDING -> COMPARING -> SERVING
      any of the first three -> FAILED    with the reason; the version serves on as it did
      any of the first three -> STOPPED   the version is unloaded, or the server drains
                             SERVING -> FAILED    a run showed that it is not as good
                             SERVING -> STOPPED   the version itself broke

`upgrades.py` moves it. Knows no thread and no loop, and may be read by any.
"""

import threading
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final

from stoker.device import DeviceReport
from stoker.engine.opened_version import FasterWay, OpenedVersion
from stoker.engine.served_model import ServedModel
from stoker.errors import DeviceFailed
from stoker.model import ModelVersion
from stoker.runtime.candidate import Candidate, Preparation, Stop
from stoker.runtime.session import Placement, Session


class UpgradeState(Enum):
    """Where one version's candidate is."""

    WAITING = "waiting"
    """For the start-up loads, or for the device's earlier preparations."""
    BUILDING = "building"
    COMPARING = "comparing"
    SERVING = "serving"
    FAILED = "failed"
    STOPPED = "stopped"


_WAYS: Final[Mapping[UpgradeState, frozenset[UpgradeState]]] = {
    UpgradeState.WAITING: frozenset(
        {UpgradeState.BUILDING, UpgradeState.FAILED, UpgradeState.STOPPED}
    ),
    UpgradeState.BUILDING: frozenset(
        {UpgradeState.COMPARING, UpgradeState.FAILED, UpgradeState.STOPPED}
    ),
    UpgradeState.COMPARING: frozenset(
        {UpgradeState.SERVING, UpgradeState.FAILED, UpgradeState.STOPPED}
    ),
    UpgradeState.SERVING: frozenset({UpgradeState.FAILED, UpgradeState.STOPPED}),
    UpgradeState.FAILED: frozenset(),
    UpgradeState.STOPPED: frozenset(),
}


class Upgrade:
    """One version's candidate on its way. Its state is moved by the thread that prepares, then by
    the event loop, then by the executor whose run closes the route; `cancel` may come any time."""

    def __init__(
        self, served: ServedModel, opened: OpenedVersion, way: FasterWay, clock: Callable[[], float]
    ) -> None:
        self.served = served
        self.opened = opened
        self.way = way
        self.stop = Stop()
        self.state = UpgradeState.WAITING
        self.reason = ""
        self.difference = 0.0
        self.device_failed: DeviceFailed | None = None
        """Preparing it broke the device for the whole process."""
        self.sessions: list[tuple[Placement, Session]] = []
        """The candidate's, for as long as nobody else closes them."""
        self.abandoned: list[tuple[Placement, Session]] = []
        """Those in a dead context. Held to the end of the process: to free them may hang."""
        self.memory_before: dict[str, int | None] = {}
        """Bytes that were used of each of its devices before it was opened there."""
        self.devices_before: tuple[DeviceReport, ...] = ()
        """Where the version ran when the candidate began to serve."""
        self._clock = clock
        self._since = clock()
        self._beginning = threading.Lock()

    @property
    def identity(self) -> ModelVersion:
        """The version that it is for."""
        return self.opened.identity

    @property
    def candidate(self) -> Candidate:
        """What is prepared."""
        return self.way.candidate

    @property
    def preparation(self) -> Preparation:
        """What preparing took so far."""
        return self.candidate.preparation

    def move(self, state: UpgradeState, reason: str = "") -> None:
        """To another state. Raises ValueError for an illegal way."""
        if state not in _WAYS[self.state]:
            raise ValueError(f"{self.identity} cannot go from {self.state} to {state}")
        self.reason = reason
        self.state = state
        self._since = self._clock()

    def begin(self) -> bool:
        """Preparing begins; False where it was cancelled before."""
        with self._beginning:
            if self.stop.is_set:
                return False
            self.move(UpgradeState.BUILDING)
            return True

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        with self._beginning:
            self.stop.set()
            if self.state is UpgradeState.WAITING:
                self.move(UpgradeState.STOPPED)

    def end_serving(self, state: UpgradeState, reason: str) -> bool:
        """It serves no more. False where it did not, or another thread was first."""
        with self._beginning:
            if self.state is not UpgradeState.SERVING:
                return False
            self.move(state, reason)
            return True

    def _circumstances(self) -> str:
        preparation = self.preparation
        if preparation.doing:
            return f" ({preparation.doing})"
        if preparation.crashes:
            return f" (an earlier attempt ended with its process: {preparation.crashes})"
        return ""

    def sentence(self) -> str:
        """For whoever looks at readiness: `'m' v1: TensorRT: building 40 s`."""
        text = self.state.value
        if self.state in (UpgradeState.BUILDING, UpgradeState.COMPARING, UpgradeState.WAITING):
            text = f"{text} {self._clock() - self._since:.0f} s{self._circumstances()}"
        elif self.state is UpgradeState.SERVING:
            text = f"ready, differs by {self.difference:.2g}"
        if self.reason:
            text = f"{text}: {self.reason}"
        return f"{self.candidate.title}: {text}"
