"""docs/tracing.md has every attribute of ours that a span can carry, and no other."""

import ast
import re
from pathlib import Path
from typing import Final

from stoker.telemetry import spans

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "tracing.md"


def attributes_in(source: str) -> set[str]:
    """The texts of a module that name an attribute."""
    texts = (each.value for each in ast.walk(ast.parse(source)) if isinstance(each, ast.Constant))
    return {each for each in texts if isinstance(each, str) and re.match(r"stoker\.[a-z]", each)}


def test_the_document_lists_the_attributes_of_the_code() -> None:
    (table,) = re.findall(
        r"^\| Attribute \| on \|.*?(?=\n\n)", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL
    )
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    listed = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    assert len(listed) == len(set(listed))
    assert set(listed) == attributes_in(Path(spans.__file__).read_text())
