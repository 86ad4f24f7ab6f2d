"""Writes the table of settings in docs/configuration.md from their definitions.

    .venv/bin/python scripts/configuration_table.py

tests/contract/test_configuration.py fails when the table and the code differ.
"""

from pathlib import Path
from typing import Final

from stoker.settings import Definition, definitions

DOCUMENT: Final = Path(__file__).parent.parent / "docs" / "configuration.md"
BEGIN: Final = "<!-- settings: written by scripts/configuration_table.py -->\n"
END: Final = "<!-- end of settings -->\n"


def row(definition: Definition) -> str:
    """One line of the table. A pipe would end its cell, so it is escaped."""
    flag = definition.flag
    if definition.field != "sources":
        flag += f" {definition.kind.metavar}"
    cells = (
        f"`{flag}`",
        f"`{definition.variable}`",
        f"`{definition.key}`" if definition.in_file else "-",
        definition.default or "-",
        definition.meaning,
    )
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |\n"


def main() -> None:
    """Replaces what stands between the two marks."""
    text = DOCUMENT.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    head = "| Flag | Variable | YAML key | Default | Meaning |\n| --- | --- | --- | --- | --- |\n"
    table = head + "".join(map(row, definitions()))
    DOCUMENT.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")


if __name__ == "__main__":
    main()
