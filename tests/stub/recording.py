"""What the real provider said, kept for tests that run without it.

`tests/recorded/onnxruntime_gpu.json` holds, by the name of a situation, class and text of what
ONNX Runtime raised. The tests of this folder compare, those of `tests/unit/test_recorded.py` read.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).parents[1] / "recorded" / "onnxruntime_gpu.json"
RECORDS: Final = os.environ.get("RECORD_TEXTS") == "1"


def recorded() -> dict[str, dict[str, str]]:
    """Everything that was recorded."""
    texts: dict[str, dict[str, str]] = json.loads(FILE.read_text()) if FILE.exists() else {}
    return texts


def is_as_recorded(situation: str, answer: Mapping[str, Any]) -> bool:
    """Whether the provider raised what it did when it was recorded; records it when told to."""
    raised = {"class": answer["class"], "text": _anywhere(answer["text"])}
    known = recorded()
    if RECORDS:
        known[situation] = raised
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    return known.get(situation) == raised


def _anywhere(text: str) -> str:
    """Without what differs from machine to machine."""
    text = re.sub(r"hostname=\S+", "hostname=node-7.internal", text)
    return re.sub(r"/\S*/site-packages/", "/opt/venv/lib/python3.12/site-packages/", text)
