"""Which of a model's versions are served: the file's `version_policy`, as a pure function.

Knows neither files nor protobuf.  Source: Triton's model configuration, "Version Policy".
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Latest:
    """The highest numbers."""

    count: int = 1


@dataclass(frozen=True, slots=True)
class All:
    """Every version there is."""


@dataclass(frozen=True, slots=True)
class Specific:
    """Exactly these."""

    versions: tuple[int, ...]


VersionPolicy: TypeAlias = Latest | All | Specific


def choose(policy: VersionPolicy, available: Iterable[int]) -> tuple[int, ...]:
    """The versions to serve out of those available, in rising order. Perhaps none."""
    versions = sorted(set(available))
    match policy:
        case All():
            return tuple(versions)
        case Specific(wanted):
            return tuple(version for version in versions if version in wanted)
        case Latest(count):
            return tuple(versions[-max(1, count) :])


def missing(policy: VersionPolicy, available: Iterable[int]) -> tuple[int, ...]:
    """The versions that the policy names and the repository lacks, in rising order."""
    if not isinstance(policy, Specific):
        return ()
    return tuple(sorted(set(policy.versions) - set(available)))
