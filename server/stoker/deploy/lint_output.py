"""Prints what `stoker k8s lint` found: for people, or as JSON for pipelines."""

import json
from collections.abc import Sequence
from typing import Final, Literal, TextIO, TypeAlias

from stoker.deploy.finding import Finding, counts
from stoker.deploy.manifest import Manifest

Format: TypeAlias = Literal["text", "json"]
FORMATS: Final = ("text", "json")


def print_findings(
    findings: Sequence[Finding], manifests: Sequence[Manifest], form: Format, stream: TextIO
) -> None:
    """Writes all findings and how many there are."""
    if form == "json":
        value = {
            "manifests": len(manifests),
            "counts": {severity.value: count for severity, count in counts(findings).items()},
            "findings": [_json(each) for each in findings],
        }
        stream.write(json.dumps(value, indent=2) + "\n")
        return
    stream.writelines(f"{_text(each)}\n\n" for each in findings)
    stream.write(summary(findings, len(manifests)) + "\n")


def summary(findings: Sequence[Finding], manifests: int) -> str:
    """`2 errors, 1 warning, 0 notes in 8 manifests`."""
    words = [
        f"{count} {severity.value.replace('info', 'note')}{'' if count == 1 else 's'}"
        for severity, count in counts(findings).items()
    ]
    return f"{', '.join(words)} in {manifests} manifest{'' if manifests == 1 else 's'}"


def _text(finding: Finding) -> str:
    rule, hit = finding.rule, finding.hit
    return (
        f"{rule.severity.value}  {rule.id}  {hit.manifest}  {hit.path}\n"
        f"  found: {hit.found}\n"
        f"  why:   {rule.why}\n"
        f"  mend:  {finding.mend}"
    )


def _json(finding: Finding) -> dict[str, str]:
    rule, hit = finding.rule, finding.hit
    return {
        "rule": rule.id,
        "severity": rule.severity.value,
        "kind": hit.manifest.kind,
        "namespace": hit.manifest.namespace,
        "name": hit.manifest.name,
        "path": hit.path,
        "source": hit.manifest.source,
        "found": hit.found,
        "why": rule.why,
        "mend": finding.mend,
    }
