"""`stoker k8s lint`: manifests in, findings out. Pure: reads nothing, prints nothing."""

from collections.abc import Collection, Sequence
from typing import Final

from stoker.deploy.finding import Finding, Severity, Subject
from stoker.deploy.manifest import EXPECTED, Manifest, UnreadableManifests
from stoker.deploy.measurement import Measurement
from stoker.deploy.rule_table import RULES
from stoker.deploy.rules.acceptance import accepted
from stoker.deploy.workload import find_scalers, find_workloads, without_copies

_ORDER: Final = {severity: place for place, severity in enumerate(Severity)}


def lint(
    manifests: Sequence[Manifest],
    *,
    measured: Measurement | None = None,
    start_s: float | None = None,
    ignored: Collection[str] = (),
) -> tuple[Finding, ...]:
    """Every finding, the worst first, but those of `ignored` rules and those that the object
    itself accepts by the annotation ACCEPTED. `start_s` is how long a start takes; None: as
    `measured` has it.

    Raises UnreadableManifests where nothing runs Stoker: a check of nothing must not pass.
    """
    judged = without_copies(manifests)
    workloads = find_workloads(judged)
    if not workloads:
        raise UnreadableManifests(
            f"{EXPECTED}, with a workload that runs Stoker; got {len(manifests)} "
            f"manifest{'' if len(manifests) == 1 else 's'} without one (a container is known by "
            "its image's name, the program `stoker`, or the label app.kubernetes.io/name)"
        )
    if start_s is None and measured is not None:
        start_s = measured.start_s
    subject = Subject(
        tuple(judged),
        workloads,
        tuple(find_scalers(judged)),
        measured,
        start_s,
        frozenset(rule.id for rule in RULES),
    )
    findings = [
        Finding(rule, hit)
        for rule in RULES
        if rule.id not in ignored
        for hit in rule.check(subject)
        if rule.id not in accepted(hit.manifest)
    ]
    return tuple(sorted(findings, key=lambda each: _ORDER[each.rule.severity]))
