"""The table of Xid errors in docs/gpu.md is the code's."""

import re
from pathlib import Path

from stoker.telemetry.gpu_reading import XID_CLASSES, XidClass

DOCUMENTS = Path(__file__).parents[2] / "docs"


def documented() -> dict[int, str]:
    """The class of each number, from the lines `| `class` | numbers | ...`."""
    text = "\n".join(path.read_text() for path in sorted(DOCUMENTS.glob("gpu*.md")))
    classes = "|".join(each.value for each in XidClass)
    rows = re.findall(rf"^\| `({classes})` \| ([^|]*) \|", text, re.MULTILINE)
    return {int(number): name for name, cell in rows for number in re.findall(r"\d+", cell)}


def test_every_xid_error_with_a_class_stands_in_the_table() -> None:
    assert documented() == {number: each.value for number, each in XID_CLASSES.items()}
