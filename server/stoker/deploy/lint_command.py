"""`stoker k8s lint`: from arguments to what is printed and an exit code."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from stoker.arguments import Parser, UsageError
from stoker.config_sources import suggestion
from stoker.deploy.finding import Severity
from stoker.deploy.lint import lint
from stoker.deploy.lint_output import FORMATS, print_findings
from stoker.deploy.manifest_files import read_manifests
from stoker.deploy.measurement import Measurement, read_measurement
from stoker.deploy.rule_table import RULES
from stoker.deploy.rules.acceptance import ACCEPTED
from stoker.units import parse_duration


def lint_parser() -> argparse.ArgumentParser:
    """The arguments of `stoker k8s lint`."""
    parser = Parser(
        prog="stoker k8s lint",
        usage="stoker k8s lint FILE|FOLDER|- ... [OPTION ...]",
        description="Reads manifests and reports what would hurt: each finding with why, and the "
        "mend. A folder with a kustomization is rendered by kubectl.",
        epilog="Exit codes: 0 no finding of severity error, 1 at least one, 2 the input cannot be "
        "read or runs no Stoker. A finding is accepted by the annotation "
        f"{ACCEPTED}: RULE of its object. docs/k8s-lint.md has every rule.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "places", metavar="FILE|FOLDER|-", nargs="+", help="manifests; - for standard input"
    )
    parser.add_argument(
        "--format", choices=FORMATS, default="text", help="how findings are printed (text)"
    )
    parser.add_argument(
        "--measured",
        metavar="FILE|TIME",
        help="measured.json of `stoker k8s init`, or how long a start takes, 90s say: manifests "
        "are compared with it",
    )
    parser.add_argument(
        "--ignore",
        metavar="RULE",
        action="append",
        default=[],
        help="a rule that is not asked; may be given several times",
    )
    parser.add_argument(
        "--strict", action="store_true", help="exit with 1 for warnings and notes too"
    )
    return parser


def run_lint(words: Sequence[str], stdin: TextIO, stdout: TextIO) -> bool:
    """Prints the findings; False where they fail the run.

    Raises UsageError for arguments, UnreadableManifests and UnreadableMeasurement for input.
    """
    parsed = lint_parser().parse_args(words)
    known = [rule.id for rule in RULES]
    for name in parsed.ignore:
        if name not in known:
            raise UsageError(f"--ignore: unknown rule {name}{suggestion(name, known)}")
    measured, start_s = _measured(parsed.measured) if parsed.measured else (None, None)
    manifests = read_manifests(parsed.places, stdin)
    findings = lint(manifests, measured=measured, start_s=start_s, ignored=parsed.ignore)
    print_findings(findings, manifests, parsed.format, stdout)
    if parsed.strict:
        return not findings
    return not any(each.rule.severity is Severity.ERROR for each in findings)


def _measured(written: str) -> tuple[Measurement | None, float | None]:
    try:
        return None, parse_duration(written)
    except ValueError:
        return read_measurement(Path(written)), None
