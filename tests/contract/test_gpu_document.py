"""docs/gpu.md and the code say the same of options, GPUs and Xid errors."""

import ast
import re
from pathlib import Path

from stoker.device import DeviceReport
from stoker.runtime.cuda_options import CUDA_OPTIONS, CudaOption, OptionKind
from stoker.runtime.gpu_diagnosis import has_code_for
from stoker.runtime.tensorrt_options import TOLERANCE
from stoker.runtime.tensorrt_parameters import KNOWN, REFUSED
from stoker.telemetry.gpu_reading import XID_CLASSES, XidClass

DOCUMENTS = Path(__file__).parents[2] / "docs"
DOCUMENT = (DOCUMENTS / "gpu.md").read_text()


def row(option: CudaOption) -> str:
    if option.kind is OptionKind.SERVER:
        values = "set by the server"
    elif option.kind is OptionKind.FLAG:
        values = "`0`, `1`"
    elif option.names:
        values = ", ".join(f"`{name}`" for name in option.names)
    else:
        values = f"0 to {option.most}"
    cells = (f"`{option.key}`", values, option.default, option.ours or "-", option.meaning)
    return f"| {' | '.join(cells)} |"


def section(title: str) -> list[str]:
    return DOCUMENT.split(f"\n## {title}\n")[1].split("\n## ")[0].splitlines()


def test_the_documents_table_of_options_is_the_codes() -> None:
    rows = [line for line in section("Options of the CUDA provider") if line.startswith("| `")]
    assert rows == [row(option) for option in CUDA_OPTIONS]


def parameters_of(lines: list[str]) -> set[str]:
    """The names in the first cells of a table's rows."""
    cells = [line.split("|")[1] for line in lines if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_the_documents_parameters_of_tensorrt_are_those_that_the_code_knows() -> None:
    lines = "\n".join(section("TensorRT")).split("\n### Parameters\n")[1].splitlines()
    middle = next(at for at, line in enumerate(lines) if line.startswith("What a model may not"))
    end = next(at for at, line in enumerate(lines) if line.startswith("### "))
    assert parameters_of(lines[:middle]) == set(KNOWN)
    assert parameters_of(lines[middle:end]) == set(REFUSED)


def test_the_documents_tolerances_are_the_codes() -> None:
    lines = "\n".join(section("TensorRT"))
    told = dict(re.findall(r"^\| (FP32|FP16|BF16|INT8) \| ([\d.]+) \|", lines, re.MULTILINE))
    assert {name: float(part) for name, part in told.items()} == {
        precision.value: part for precision, part in TOLERANCE.items()
    }


def test_the_documents_gpus_are_those_that_the_code_accepts() -> None:
    told = 0
    for line in section("Supported GPUs and drivers"):
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) != 3 or not re.match(r"\d", cells[0]):
            continue
        for major, minor in re.findall(r"(\d+)\.(\d+)", cells[0]):
            told += 1
            capability = (int(major), int(minor))
            assert has_code_for(capability) == cells[2].startswith("supported"), line
    assert told >= 9


def test_the_document_explains_every_fact_of_a_report() -> None:
    full = DeviceReport("cuda:0", "cuda:0", "P", memcpy_nodes=0, device_name="x",
                        compute_capability="9.0", memory_bytes=1)  # fmt: skip
    explained = re.findall(r"`(\w+)`", "\n".join(section("What really runs")))
    assert set(full.facts()) <= set(explained)


def documented() -> dict[int, str]:
    """The class of each number, from the lines `| `class` | numbers | ...`."""
    text = "\n".join(path.read_text() for path in sorted(DOCUMENTS.glob("gpu*.md")))
    classes = "|".join(each.value for each in XidClass)
    rows = re.findall(rf"^\| `({classes})` \| ([^|]*) \|", text, re.MULTILINE)
    return {int(number): name for name, cell in rows for number in re.findall(r"\d+", cell)}


def test_every_xid_error_with_a_class_stands_in_the_table() -> None:
    assert documented() == {number: each.value for number, each in XID_CLASSES.items()}


def test_the_table_of_checks_has_every_file_of_checks() -> None:
    """Whoever reads a report finds each of its checks explained, and no check that is not there."""
    lines = section("Checking on hardware")
    told = {
        name
        for line in lines
        if line.startswith("|")
        for name in re.findall(r"`(test_\w+\.py)`", line)
    }
    assert told == {each.name for each in (DOCUMENTS.parent / "tests" / "gpu").glob("test_*.py")}


def sentences_of_the_code() -> str:
    """All texts in the server's modules, a line each; what is filled in at run time is `...`."""
    found = []
    for module in (DOCUMENTS.parent / "server" / "stoker").rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [
                    each.value if isinstance(each, ast.Constant) else "..." for each in node.values
                ]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_the_sentences_that_troubleshooting_quotes_are_the_codes() -> None:
    """Who copies an error into a search finds its row. Names and numbers are filled in."""
    said = sentences_of_the_code()
    quoted = [
        sentence
        for line in section("Troubleshooting")
        if line.startswith(('| "', "| warning"))
        for sentence in re.findall(r'"([^"]+)"', line.split("|")[1])
    ]
    assert len(quoted) >= 20
    for sentence in quoted:
        longest = max(
            re.split(r"\.\.\.|'|\d+(?:\.\d+)*|lib\w+|\(NVIDIA \w+\)", sentence), key=len
        ).strip(" .:;")
        assert len(longest.split()) >= 2, sentence
        assert longest in said, sentence
