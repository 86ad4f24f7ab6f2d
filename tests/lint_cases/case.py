"""One way to break a rule of `stoker k8s lint`, and what looks like it and is not."""

from collections.abc import Sequence
from dataclasses import dataclass

from stoker.deploy.measurement import Measurement

from tests.broken_manifests import Edit


@dataclass(frozen=True, slots=True)
class Case:
    """One way to break a rule, and a near miss."""

    rule: str
    fires: Sequence[Edit]
    found: str
    """What the finding says stands there, in part."""
    misses: Sequence[Edit]
    measured: Measurement | None = None
    start_s: float | None = None
