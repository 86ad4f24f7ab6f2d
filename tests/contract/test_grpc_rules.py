"""docs/grpc.md names a test for each rule: those tests exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = {
    "native": "tests/server/test_native_grpc.py",
    "codings": "tests/server/test_native_grpc_compression.py",
    "streams": "tests/server/test_native_grpc_streams.py",
    "connections": "tests/server/test_native_grpc_connections.py",
    "both": "tests/server/test_grpc_transports.py",
    "parts": "tests/unit/test_grpc_native_parts.py",
    "calls": "tests/unit/test_grpc_native_session.py",
    "memory": "tests/unit/test_grpc_native_memory.py",
    "heads": "tests/unit/test_wire_http2_heads.py",
}

NAMED = re.compile(rf"\b(?:{'|'.join(FILES)})\b|`test_\w+`")


def test_every_test_that_is_named_exists() -> None:
    document = (ROOT / "docs" / "grpc.md").read_text()
    tests = {
        name: set(re.findall(r"^def (test_\w+)", (ROOT / path).read_text(), re.MULTILINE))
        for name, path in FILES.items()
    }
    named = 0
    for line in document.splitlines():
        cells = line.split("|")
        if len(cells) != 5 or "test_" not in cells[-2]:
            continue
        file = ""
        for word in NAMED.findall(cells[-2]):
            if word in FILES:
                file = word
            else:
                assert word.strip("`") in tests[file], f"{word} is not in {FILES[file]}"
                named += 1
    assert named > 30
