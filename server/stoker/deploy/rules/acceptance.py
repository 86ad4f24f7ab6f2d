"""Findings that an object accepts by an annotation, and annotations that accept nothing.

A misspelt id would leave its author believing that it is accepted, or that it was never found;
`--ignore` refuses one, so an annotation must not be silent.
"""

import re
from collections.abc import Iterator
from typing import Final

from stoker.config_sources import suggestion
from stoker.deploy.finding import Hit, Rule, Severity, Subject
from stoker.deploy.manifest import Manifest

_PREFIX: Final = "stoker/"
ACCEPTED: Final = f"{_PREFIX}lint-accept"
"""Annotation of an object: ids of rules whose findings on it are accepted, separated by commas."""


def accepted(manifest: Manifest) -> list[str]:
    """The ids that an object accepts."""
    return [each for each in re.split(r"[\s,]+", manifest.annotations.get(ACCEPTED, "")) if each]


def _unknown(subject: Subject) -> Iterator[Hit]:
    for manifest in subject.manifests:
        for rule in accepted(manifest):
            if rule not in subject.rules:
                found = f"{rule}{suggestion(rule, sorted(subject.rules))}"
                yield Hit(manifest, f"annotation {ACCEPTED}", found)
        for name in manifest.annotations:
            if name.startswith(_PREFIX) and name != ACCEPTED:
                yield Hit(manifest, f"annotation {name}", f"{name}{suggestion(name, [ACCEPTED])}")
    for workload in subject.workloads:
        is_own = workload.annotations.get(ACCEPTED) == workload.manifest.annotations.get(ACCEPTED)
        if ACCEPTED in workload.annotations and not is_own:
            found = f"{ACCEPTED} of the pods; it is read of the {workload.manifest.kind}"
            yield Hit(workload.manifest, f"annotation {ACCEPTED}", found)


RULES = (
    Rule(
        "acceptance-unknown",
        Severity.ERROR,
        f"An annotation `{ACCEPTED}` with a rule that does not exist, or of a template's pods, or "
        f"another annotation that begins with `{_PREFIX}`",
        "It accepts nothing, and whoever reads it believes that it does.",
        "The ids of docs/k8s-lint.md, in the annotation of the object that the finding names.",
        _unknown,
    ),
)
