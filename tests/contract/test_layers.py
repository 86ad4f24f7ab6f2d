"""The layers of docs/architecture.md, read from the imports themselves."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "server" / "stoker"

NOUNS = {"tensor", "request", "model", "device", "errors", "inference", "control"}
FREE = {"telemetry", "address", "stoker"}
"""Importable by all."""

MAY_IMPORT = {
    "transport": {"transport", "protocol"},
    "engine": {"engine", "runtime"},
    "runtime": {"runtime"},
    "repository": {"repository", "lifecycle", "runtime", "engine", "protocol"},
    "lifecycle": {"lifecycle", "runtime", "engine", "checking"},
    "telemetry": {"telemetry"},
    "protocol": {"protocol"},
    "client": {"client", "protocol", "units"},
    "deploy": {"deploy", "client", "arguments", "config", "config_sources", "settings", "units"},
}
"""What the modules of a folder may import beside nouns and telemetry."""

FOREIGN = {
    "onnxruntime": {"runtime"},
    "grpc": {"transport", "client"},
    "httptools": {"transport"},
    "pydantic": {"config"},
    "pydantic_settings": {"config"},
    "rich": {"check_output"},
    "opentelemetry": {"telemetry"},
}
"""Packages that only these folders or modules may import."""


def modules() -> Iterator[Path]:
    """All modules that were not generated."""
    for path in sorted(ROOT.rglob("*.py")):
        if not path.name.endswith("_pb2.py"):
            yield path


@cache  # Most tests read all of them.
def imports(path: Path) -> tuple[str, ...]:
    """Full names of the modules that a file imports, wherever the import stands."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports do not tell where to look"
            name = node.module or ""
            found += (f"{name}.{alias.name}" for alias in node.names)
    return tuple(found)


def place(path: Path) -> str:
    """The folder of a module below the package, or the module's own name."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_every_import_of_ours_points_down() -> None:
    wrong = []
    for path in modules():
        allowed = MAY_IMPORT.get(place(path))
        if allowed is None:
            continue
        for name in imports(path):
            parts = name.split(".")
            if parts[0] != "stoker" or len(parts) < 2:
                continue
            target = parts[1]
            if target in NOUNS | FREE | allowed or target == "__version__":
                continue
            wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_nouns_import_only_nouns_and_telemetry() -> None:
    wrong = [
        f"{path.name} imports {name}"
        for path in modules()
        if path.parent == ROOT and path.stem in NOUNS
        for name in imports(path)
        if name.startswith("stoker.") and name.split(".")[1] not in NOUNS | {"telemetry"}
    ]
    assert not wrong


def test_telemetry_imports_nothing_of_ours() -> None:
    wrong = [
        f"{path.name} imports {name}"
        for path in modules()
        if place(path) == "telemetry"
        for name in imports(path)
        if name.startswith("stoker.") and name.split(".")[1] not in {"telemetry", "__version__"}
    ]
    assert not wrong


@pytest.mark.parametrize("package", sorted(FOREIGN))
def test_a_foreign_package_stays_where_it_belongs(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules()
        if place(path) not in FOREIGN[package]
        for name in imports(path)
        if name.split(".")[0] == package
    ]
    assert not wrong


def test_init_files_are_empty() -> None:
    full = [
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("__init__.py")
        if path.parent != ROOT and path.read_text().strip()
    ]
    assert not full


def test_modules_stay_small() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {count} lines"
        for path in modules()
        if (count := len(path.read_text().splitlines())) > 500
    ]
    assert not long, "look for the second concept in these"


def test_no_module_is_a_drawer() -> None:
    drawers = {"utils", "helpers", "common", "misc", "base"}
    assert not [path for path in modules() if path.stem in drawers]


def test_only_the_configuration_reads_the_environment() -> None:
    allowed = {
        "config.py", "config_sources.py",
        "runtime/discovery.py", "runtime/installation.py", "runtime/onnx.py",
    }  # fmt: skip
    wrong = [
        str(path.relative_to(ROOT))
        for path in modules()
        if "os.environ" in path.read_text() and str(path.relative_to(ROOT)) not in allowed
    ]
    assert not wrong
