"""docs/gpu.md and the code say the same of options and GPUs."""

import re
from pathlib import Path

from stoker.device import DeviceReport
from stoker.runtime.cuda_options import CUDA_OPTIONS, CudaOption, OptionKind
from stoker.runtime.gpu_diagnosis import has_code_for

DOCUMENT = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text()


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
