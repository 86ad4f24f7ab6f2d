"""All cases of `stoker k8s lint`, in the order of docs/k8s-lint.md."""

from typing import Final

from tests.lint_cases import (
    acceptance,
    autoscaling,
    gpus,
    life_cycle,
    models,
    monitoring,
    never_run,
    probes,
    resources,
    security,
    services,
    settings,
)
from tests.lint_cases.case import Case

CASES: Final[tuple[Case, ...]] = (
    *settings.CASES,
    *never_run.CASES,
    *models.CASES,
    *probes.CASES,
    *life_cycle.CASES,
    *gpus.CASES,
    *resources.CASES,
    *autoscaling.CASES,
    *services.CASES,
    *monitoring.CASES,
    *security.CASES,
    *acceptance.CASES,
)
