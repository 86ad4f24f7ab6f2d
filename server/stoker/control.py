"""The second of the two interfaces: load, unload, list. All methods run on the event loop."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from stoker.model import VersionState


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One line of the repository index. `version` is empty for a model that never loaded."""

    name: str
    version: str = ""
    state: VersionState | None = None
    reason: str = ""


class ModelControl(Protocol):
    """Decides which versions are served."""

    def index(self, ready_only: bool = False) -> Sequence[IndexEntry]:
        """Every model of the repositories with the state of each of its versions."""
