"""The report of `stoker check`: plain text for pipes, a table for terminals."""

import io
from dataclasses import replace

from stoker.check_output import COLUMNS, print_report
from stoker.checking import CheckedModel, CheckReport
from stoker.device import DeviceReport
from stoker.lifecycle.check import device_lines
from stoker.tensor import DataType, TensorSpec

GOOD = CheckedModel(
    name="digits",
    version="1",
    inputs=(TensorSpec("image", DataType.FP32, (-1, 64)),),
    outputs=(TensorSpec("label", DataType.INT64, (-1,)),),
    max_batch_size=8,
    batching="dynamic",
    instances="1 on CPU",
    device="cpu",
    config='name: "digits"\n',
    warnings=("its outputs [red] differ",),
)
BAD = CheckedModel(name="broken", problems=("config.pbtxt:3: unknown field 'x'",))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_columns_separated_by_tabs() -> None:
    stream = io.StringIO()
    print_report(CheckReport((GOOD, BAD), ("no such folder",)), stream)
    lines = stream.getvalue().splitlines()
    assert lines[0].split("\t") == list(COLUMNS)
    assert lines[1] == (
        "digits\t1\tok\t8\tdynamic\t1 on CPU\tcpu\timage FP32 [-1,64]\tlabel INT64 [-1]"
    )
    assert lines[2].split("\t")[:3] == ["broken", "-", "problem"]


def test_configurations_and_problems_follow_and_are_counted() -> None:
    stream = io.StringIO()
    print_report(CheckReport((GOOD, BAD), ("no such folder",)), stream)
    assert stream.getvalue().split("\n\n")[1:] == [
        '# digits version 1\nname: "digits"',
        "warning: digits version 1: its outputs [red] differ\n"
        "problem: broken: config.pbtxt:3: unknown field 'x'\n"
        "problem: no such folder",
        "1 of 2 would be served; 2 problems\n",
    ]


def test_a_terminal_gets_a_drawn_table_with_the_same_words() -> None:
    stream = Terminal()
    print_report(CheckReport((GOOD, BAD)), stream, width=200)
    text = stream.getvalue()
    assert "┃" in text
    assert "image FP32 [-1,64]" in text
    assert "1 of 2 would be served; 1 problem\n" in text


def test_a_report_is_clean_without_problems_of_models_or_sources() -> None:
    assert CheckReport((GOOD,)).is_clean
    assert not CheckReport((GOOD, BAD)).is_clean
    assert not CheckReport((GOOD,), ("x",)).is_clean


def test_what_is_known_of_a_gpu_stands_above_the_configuration() -> None:
    on_gpu = replace(GOOD, details=("cuda:0: nodes: 7 CUDAExecutionProvider",))
    stream = io.StringIO()
    print_report(CheckReport((on_gpu,)), stream)
    assert stream.getvalue().split("\n\n")[1] == (
        '# digits version 1\n# cuda:0: nodes: 7 CUDAExecutionProvider\nname: "digits"'
    )


def test_a_session_on_a_gpu_is_told_in_three_lines_and_one_on_the_cpu_in_none() -> None:
    report = DeviceReport(
        requested="cuda:0",
        device="cuda:0",
        provider="CUDAExecutionProvider",
        nodes={"CUDAExecutionProvider": 7, "CPUExecutionProvider": 3},
        memcpy_nodes=4,
        options={"use_tf32": "0", "device_id": "0"},
        compute_capability="8.9",
        memory_bytes=24 << 30,
    )
    assert device_lines(report) == (
        "cuda:0: compute capability 8.9, 25769803776 bytes of memory",
        "cuda:0: nodes: 7 CUDAExecutionProvider, 3 CPUExecutionProvider; "
        "copies between CPU and GPU: 4",
        "cuda:0: options: device_id=0 use_tf32=0",
    )
    assert (
        "copies between CPU and GPU: not counted"
        in (device_lines(replace(report, memcpy_nodes=None))[1])
    )
    assert device_lines(DeviceReport()) == ()
