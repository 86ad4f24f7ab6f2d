"""How patient probes are: with a busy server, and with a slow start.

Source: reference, Kubernetes production practice, section 3.
"""

from collections.abc import Iterator
from typing import Final

from stoker.deploy.container import flag_or_variable
from stoker.deploy.finding import Hit, Rule, Severity, Subject
from stoker.deploy.rules.probes import given, probes
from stoker.deploy.workload import has_gpu

LEAST_TIMEOUT_S: Final = 2
LEAST_FAILURES: Final = 3
LEAST_PATIENCE_S: Final = 20
"""Of a liveness probe: a server that is busy, not dead, must get over it."""
LEAST_STARTUP_S: Final = 30
"""The demo models alone take 2 s on a quiet machine; a node that starts ten pods is not quiet."""
STARTUP_FACTOR: Final = 2
"""Least startup budget over what was measured: another node is slower, and shares its disk."""


def _too_tight(subject: Subject) -> Iterator[Hit]:
    for probe in probes(subject, "livenessProbe"):
        timeout = given(probe.value, "timeoutSeconds", 1)
        failures = given(probe.value, "failureThreshold", 3)
        found = f"timeout {timeout} s, {failures} failures, {probe.patience_s} s in all"
        if (
            timeout < LEAST_TIMEOUT_S
            or failures < LEAST_FAILURES
            or probe.patience_s < LEAST_PATIENCE_S
        ):
            yield Hit(probe.manifest, probe.path, found)


def _hasty(subject: Subject) -> Iterator[Hit]:
    for probe in probes(subject, "readinessProbe"):
        timeout = given(probe.value, "timeoutSeconds", 1)
        if timeout < LEAST_TIMEOUT_S and given(probe.value, "failureThreshold", 3) < 2:
            yield Hit(probe.manifest, probe.path, f"timeout {timeout} s, 1 failure")


def _short_startup(subject: Subject) -> Iterator[Hit]:
    for probe in probes(subject, "startupProbe"):
        if subject.start_s is None and probe.budget_s < LEAST_STARTUP_S:
            yield Hit(probe.manifest, probe.path, f"{probe.budget_s} s")


def _below_measured(subject: Subject) -> Iterator[Hit]:
    start_s = subject.start_s
    for probe in probes(subject, "startupProbe"):
        if start_s is None or probe.budget_s >= STARTUP_FACTOR * start_s:
            continue
        where = f", {subject.measured.machine}" if subject.measured is not None else ""
        found = f"{probe.budget_s} s; a start took {start_s:.1f} s{where}"
        mend = f"Allow {STARTUP_FACTOR * start_s:.0f} s or more, better {3 * start_s:.0f} s."
        yield Hit(probe.manifest, probe.path, found, mend)


def _hides_hung_load(subject: Subject) -> Iterator[Hit]:
    for probe in probes(subject, "startupProbe"):
        allowed = probe.server.settings.hung_load_timeout_s
        if has_gpu(probe.workload) and allowed and probe.budget_s <= allowed:
            found = f"{probe.budget_s} s; hung_load_timeout {allowed:g} s"
            yield Hit(probe.manifest, probe.path, found)


RULES = (
    Rule(
        "liveness-too-tight",
        Severity.WARNING,
        f"A liveness probe with a timeout under {LEAST_TIMEOUT_S} s, fewer than {LEAST_FAILURES} "
        f"failures, or less than {LEAST_PATIENCE_S} s in all",
        "A saturated server is busy, not dead; killing it sends its load to the others.",
        "timeoutSeconds: 5, periodSeconds: 10, failureThreshold: 3.",
        _too_tight,
    ),
    Rule(
        "readiness-too-tight",
        Severity.WARNING,
        f"A readiness probe with a timeout under {LEAST_TIMEOUT_S} s of which one failure counts",
        "One late answer under load takes the pod out of its Services, and its load goes to "
        "the others: they follow.",
        "timeoutSeconds: 3, failureThreshold: 2, as base/ has them.",
        _hasty,
    ),
    Rule(
        "startup-budget-short",
        Severity.WARNING,
        f"A startup probe that bears less than {LEAST_STARTUP_S} s",
        "Models are loaded, warmed up and measured before the server is ready; a node that starts "
        "many pods is slow.",
        "periodSeconds x failureThreshold about three times the measured start.",
        _short_startup,
    ),
    Rule(
        "startup-budget-below-measured",
        Severity.ERROR,
        f"A startup probe that bears less than {STARTUP_FACTOR} times the measured start",
        "Another node is slower and its disk is shared: the pod is killed before it is ready, and "
        "begins anew.",
        "periodSeconds x failureThreshold about three times the measured start.",
        _below_measured,
    ),
    Rule(
        "startup-hides-hung-load",
        Severity.INFO,
        "A startup probe of a pod with a GPU that bears no longer than hung_load_timeout",
        "A run that hangs during a load is ended by the kubelet before the server can say which "
        "model's it was.",
        "A budget above hung_load_timeout (5m), or a shorter "
        f"{flag_or_variable('hung_load_timeout')}.",
        _hides_hung_load,
    ),
)
