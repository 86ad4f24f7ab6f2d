"""What a rule of `stoker k8s lint` is, and what it finds.

A rule is a value: an id that never changes, how bad it is, the sentences of docs/k8s-lint.md, and a
pure function from the manifests to its hits. `rule_table.py` lists them; `lint.py` asks them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from stoker.deploy.manifest import Manifest
from stoker.deploy.measurement import Measurement
from stoker.deploy.workload import Scaler, Workload


class Severity(Enum):
    """How much a finding hurts."""

    ERROR = "error"
    """It fails, loses requests, or stands still."""
    WARNING = "warning"
    """It works until something happens, or not everywhere."""
    INFO = "info"
    """Worth knowing."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What the rules look at: the manifests, and what was found in them."""

    manifests: tuple[Manifest, ...]
    workloads: tuple[Workload, ...]
    scalers: tuple[Scaler, ...]
    measured: Measurement | None = None
    """Of these models, where somebody measured them."""
    start_s: float | None = None
    """How long a start takes, where somebody measured it."""
    rules: frozenset[str] = frozenset()
    """The ids of all rules there are."""

    def of_kind(self, *kinds: str) -> list[Manifest]:
        """The manifests of these kinds."""
        return [each for each in self.manifests if each.kind in kinds]


@dataclass(frozen=True, slots=True)
class Hit:
    """One place where a rule applies."""

    manifest: Manifest
    path: str
    """The field: `spec.template.spec.containers[0].livenessProbe`."""
    found: str
    """What stands there, with the numbers."""
    mend: str = ""
    """Where it can be said better than by the rule's own."""


Check: TypeAlias = Callable[[Subject], Iterator[Hit]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that hurts."""

    id: str
    severity: Severity
    what: str
    why: str
    mend: str
    check: Check = field(compare=False)


@dataclass(frozen=True, slots=True)
class Finding:
    """One hit of one rule."""

    rule: Rule
    hit: Hit

    @property
    def mend(self) -> str:
        """What to write instead."""
        return self.hit.mend or self.rule.mend


def counts(findings: Sequence[Finding]) -> dict[Severity, int]:
    """How many there are of each severity, in its order."""
    return {
        severity: sum(each.rule.severity is severity for each in findings) for severity in Severity
    }
