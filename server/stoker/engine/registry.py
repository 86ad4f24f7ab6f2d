"""Which models and versions there are, the state of each, and which one serves a request.

The loader changes states, the engine looks models up; all on the event loop. Legal ways of a state:

    UNKNOWN -> LOADING -> READY -> UNLOADING -> UNAVAILABLE
               LOADING -> UNAVAILABLE                          the load failed
                          READY -> UNAVAILABLE                 the device or the queue broke
                                              UNAVAILABLE -> LOADING
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from stoker.control import IndexEntry
from stoker.engine.served_model import ServedModel
from stoker.errors import InvalidRequest, ModelNotFound, ModelNotReady, ServingError
from stoker.model import ModelVersion, VersionState

_WAYS: Final[Mapping[VersionState, frozenset[VersionState]]] = {
    VersionState.UNKNOWN: frozenset({VersionState.LOADING}),
    VersionState.LOADING: frozenset({VersionState.READY, VersionState.UNAVAILABLE}),
    VersionState.READY: frozenset({VersionState.UNLOADING, VersionState.UNAVAILABLE}),
    VersionState.UNLOADING: frozenset({VersionState.UNAVAILABLE}),
    VersionState.UNAVAILABLE: frozenset({VersionState.LOADING}),
}


@dataclass(slots=True)
class VersionRecord:
    """One version as the registry knows it."""

    identity: ModelVersion
    state: VersionState = VersionState.UNKNOWN
    reason: str = ""
    served: ServedModel | None = None
    """Set while READY or UNLOADING."""


class ModelRegistry:
    """All known models. A model may be known without any version: its folder cannot be read."""

    def __init__(self) -> None:
        self._models: dict[str, dict[int, VersionRecord]] = {}
        self._reasons: dict[str, str] = {}
        self._serving: dict[tuple[str, str], ServedModel] = {}
        self.changes = 0
        """Grows with each change of a state: what was derived from them may be kept until then."""

    def declare(self, name: str, *, reason: str = "") -> None:
        """Makes a model known. `reason`: why it has no version that could be loaded."""
        self._models.setdefault(name, {})
        self._reasons[name] = reason

    def set_state(
        self,
        identity: ModelVersion,
        state: VersionState,
        *,
        reason: str = "",
        served: ServedModel | None = None,
    ) -> None:
        """Moves a version to a state. Raises ValueError for an illegal way."""
        versions = self._models.setdefault(identity.name, {})
        record = versions.setdefault(identity.version, VersionRecord(identity))
        if state not in _WAYS[record.state]:
            raise ValueError(f"{identity} cannot go from {record.state.value} to {state.value}")
        record.state = state
        record.reason = reason
        if state is VersionState.READY:
            record.served = served
        elif state is not VersionState.UNLOADING:
            record.served = None
        self.changes += 1
        self._index_serving(identity.name)

    def serving(self, name: str, version: str) -> ServedModel | None:
        """The version that serves such a request, if any: one look-up, for the hot path."""
        return self._serving.get((name, version))

    def resolve(self, name: str, version: str = "") -> ServedModel:
        """As `serving`. Raises InvalidRequest, ModelNotFound or ModelNotReady instead of None."""
        served = self._serving.get((name, version))
        if served is not None:
            return served
        raise self._absence(name, version)

    def names(self) -> list[str]:
        """All known models, in order."""
        return sorted(self._models)

    def records(self, name: str) -> list[VersionRecord]:
        """All versions of a model, in order; empty for an unknown one."""
        return [record for _, record in sorted(self._models.get(name, {}).items())]

    def state(self, identity: ModelVersion) -> VersionState:
        """The state of a version; UNKNOWN for one that nobody declared."""
        record = self._models.get(identity.name, {}).get(identity.version)
        return VersionState.UNKNOWN if record is None else record.state

    def reason(self, name: str) -> str:
        """Why a model has no version that could be loaded; empty if it has."""
        return self._reasons.get(name, "")

    def served(self) -> Iterator[ServedModel]:
        """Every version that is ready, in order."""
        for name in self.names():
            for record in self.records(name):
                if record.state is VersionState.READY and record.served is not None:
                    yield record.served

    def index(self, *, ready_only: bool = False) -> list[IndexEntry]:
        """One entry per version, or one for a model without any."""
        entries: list[IndexEntry] = []
        for name in self.names():
            records = self.records(name)
            if not records and not ready_only:
                reason = self.reason(name)
                state = VersionState.UNAVAILABLE if reason else None
                entries.append(IndexEntry(name, "", state, reason))
            entries.extend(
                IndexEntry(name, str(record.identity.version), record.state, record.reason)
                for record in records
                if not ready_only or record.state is VersionState.READY
            )
        return entries

    def _index_serving(self, name: str) -> None:
        for key in [key for key in self._serving if key[0] == name]:
            del self._serving[key]
        for record in self.records(name):
            if record.state is VersionState.READY and record.served is not None:
                self._serving[name, str(record.identity.version)] = record.served
                self._serving[name, ""] = record.served  # ascending: the highest one stays

    def _absence(self, name: str, version: str) -> ServingError:
        number = version_number(version, model=name)
        if name not in self._models:
            return ModelNotFound(f"Request for unknown model: '{name}' is not found")
        if number is None:
            records = self.records(name)
            if not records:
                reason = self.reason(name) or "it has no version"
                return ModelNotReady(f"model '{name}' is not ready: {reason}")
            states = "; ".join(_state_text(record) for record in records)
            return ModelNotReady(f"model '{name}' has no version that is ready: {states}")
        record = self._models[name].get(number)
        if record is None:
            return ModelNotFound(
                f"Request for unknown model: '{name}' version {number} is not found"
            )
        served = self._serving.get((name, str(number)))
        if served is not None:  # `007` and the like
            return InvalidRequest(
                f"model '{name}': expected the version as {number}, got '{version}'"
            )
        return ModelNotReady(f"model '{name}' is not ready: {_state_text(record)}")


def version_number(text: str, *, model: str) -> int | None:
    """The number that a request's version means, None for the server's choice.

    Raises InvalidRequest for anything but decimal digits.
    """
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise InvalidRequest(f"model '{model}': expected a version number, got '{text[:40]}'")
    return int(text)


def _state_text(record: VersionRecord) -> str:
    reason = f" ({record.reason})" if record.reason else ""
    return f"version {record.identity.version} is {record.state.value}{reason}"
