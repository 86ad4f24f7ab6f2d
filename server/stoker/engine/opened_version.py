"""A version that is open and warm: all that the engine needs to serve it.

A load makes one (`lifecycle/opening.py`); the engine hosts it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from stoker.model import ModelConfig, ModelVersion
from stoker.runtime.agreement import Record
from stoker.runtime.candidate import Candidate
from stoker.runtime.independence import Independence
from stoker.runtime.memory import MemoryUse
from stoker.runtime.session import Placement, Session


@dataclass(frozen=True, slots=True)
class Profile:
    """What warm-up measured of a model."""

    costs: Sequence[tuple[int, float]]
    """(rows, seconds) of a run; empty if nothing was measured."""
    elements: int
    """Elements of one row over all inputs, in these runs."""
    overlap: float | None = None
    """How many runs of the model its device truly does at once; None if that was not measured."""


@dataclass(frozen=True, slots=True)
class FasterWay:
    """A candidate, and what the present sessions answer: the candidate must answer the same."""

    candidate: Candidate
    record: Record


@dataclass(frozen=True, slots=True)
class RefusedWay:
    """A faster way that the model asks for and that cannot be had, with the reason."""

    title: str
    reason: str


@dataclass(frozen=True, slots=True)
class OpenedVersion:
    """A version that is open and warm: all that the engine needs to serve it."""

    identity: ModelVersion
    config: ModelConfig
    sessions: Sequence[tuple[Placement, Session]]
    profile: Profile
    independence: Independence
    load_seconds: float = 0.0
    memory: MemoryUse | None = None
    """What it takes of its devices; None: nobody looked."""
    faster: FasterWay | RefusedWay | None = None
    """A way to run it faster that is prepared once it serves."""
