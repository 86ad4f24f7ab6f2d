"""Whether the server as a whole is started, ready, draining: one owner of these states.

    STARTING -> STARTED -> DRAINING
    any of them -> BROKEN

Readiness follows from the state and the required models; liveness is not decided here. Owned by the
event loop.  Source: design, sections "Models" and "Operating it".
"""

from collections.abc import Callable
from enum import Enum
from typing import Final

from stoker.engine.registry import ModelRegistry, VersionRecord
from stoker.model import Readiness, VersionState


class ServerState(Enum):
    """The server's own state."""

    STARTING = "starting"
    """Start-up loads are under way."""
    STARTED = "started"
    """Every start-up load has ended, well or not."""
    DRAINING = "draining"
    BROKEN = "broken"
    """A device broke that only a new process can use again. Nothing follows."""


_DRAINING: Final = Readiness(False, ("the server is draining",))


class ServerHealth:
    """The server's state, and its readiness with the reasons."""

    def __init__(self, registry: ModelRegistry, *, is_strict: bool) -> None:
        self._registry = registry
        self._is_strict = is_strict
        self._required: tuple[str, ...] = ()
        self._problems: tuple[str, ...] = ()
        self._watchers: list[Callable[[], None]] = []
        self._broken = Readiness(False)
        self._complete_at = -1
        """The count of the registry's changes at which nothing was missing."""
        self.state = ServerState.STARTING

    def require(self, names: tuple[str, ...], *, problems: tuple[str, ...] = ()) -> None:
        """The models without which the server is not ready, and what else is in the way: sources
        that were asked for and hold nothing."""
        self._required = names
        self._problems = problems
        self._complete_at = -1

    def watch(self, callback: Callable[[], None]) -> None:
        """Calls back, on the loop, whenever readiness may have changed."""
        self._watchers.append(callback)

    def changed(self) -> None:
        """A model's state changed."""
        for callback in self._watchers:
            callback()

    def become(self, state: ServerState) -> None:
        """Moves the server to a state; a broken one stays broken."""
        if self.state is not ServerState.BROKEN:
            self.state = state
            self.changed()

    def break_down(self, reason: str) -> None:
        """The process cannot serve its models any more, strict or not: `reason` is a sentence."""
        self._broken = Readiness(False, (reason,))
        self.become(ServerState.BROKEN)

    def readiness(self) -> Readiness:
        """Ready, or every reason why not."""
        if self.state is ServerState.BROKEN:
            return self._broken
        if self.state is ServerState.DRAINING:
            return _DRAINING
        if not self._is_strict:
            if self.state is ServerState.STARTED:
                return Readiness(True)
            return Readiness(False, ("the server is starting",))
        reasons = self.missing()
        return Readiness(not reasons, reasons)

    def startup(self) -> Readiness:
        """Whether every start-up load has ended, well or not."""
        if self.state is ServerState.STARTING:
            return Readiness(False, ("models are being loaded", *self.missing()))
        return Readiness(True)

    def missing(self) -> tuple[str, ...]:
        """One sentence for each thing that keeps a strict server from being ready."""
        changes = self._registry.changes
        if self._complete_at == changes:  # probes and scrapes ask for a thousand models
            return ()
        reasons = list(self._problems)
        if not self._required and not reasons:
            reasons.append("no model was found in the repositories")
        for name in self._required:
            if self._registry.serving(name, "") is not None:
                continue
            records = self._registry.records(name)
            if any(record.state is VersionState.READY for record in records):
                continue
            if records:
                reasons.extend(_sentence(record) for record in records)
            else:
                why = self._registry.reason(name) or "it is in none of the repositories"
                reasons.append(f"model '{name}' is not ready: {why}")
        if not reasons:
            self._complete_at = changes
        return tuple(reasons)


def _sentence(record: VersionRecord) -> str:
    why = f": {record.reason}" if record.reason else ""
    return f"model {record.identity} is {record.state.value}{why}"
