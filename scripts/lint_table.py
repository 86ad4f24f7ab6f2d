"""Writes the tables of rules in docs/k8s-lint.md from their definitions.

    .venv/bin/python scripts/lint_table.py

tests/contract/test_lint_manifests.py fails when the tables and the code differ.
"""

from pathlib import Path
from typing import Final

from stoker.deploy.finding import Rule
from stoker.deploy.rule_table import SECTIONS

DOCUMENT: Final = Path(__file__).parent.parent / "docs" / "k8s-lint.md"
BEGIN: Final = "<!-- rules: written by scripts/lint_table.py -->\n"
END: Final = "<!-- end of rules -->\n"
HEAD: Final = "| Rule | Severity | What | Why | Mend |\n| --- | --- | --- | --- | --- |\n"


def row(rule: Rule) -> str:
    """One line of a table. A pipe would end its cell, so it is escaped."""
    cells = (f"`{rule.id}`", rule.severity.value, rule.what, rule.why, rule.mend)
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |\n"


def tables() -> str:
    """All tables, each under the heading of its section."""
    return "\n".join(
        f"### {title}\n\n{HEAD}{''.join(map(row, rules))}" for title, rules in SECTIONS.items()
    )


def main() -> None:
    """Replaces what stands between the two marks."""
    text = DOCUMENT.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{tables()}\n{END}{after}")


if __name__ == "__main__":
    main()
