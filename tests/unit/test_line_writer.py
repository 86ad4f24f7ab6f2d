"""Lines that nobody waits for: a reader that stalls costs lines and no time."""

import os
import threading
from collections.abc import Iterator

import pytest
from stoker.telemetry.line_writer import LineWriter

PATIENCE = 10.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        try:
            os.close(descriptor)
        except OSError:  # the test has closed it
            pass


def read_all(descriptor: int) -> list[str]:
    with os.fdopen(os.dup(descriptor), "rb") as stream:
        return stream.read().decode().splitlines()


def test_lines_come_out_in_their_order(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    writer = LineWriter[int](writing, str)
    writer.start()
    for number in range(1000):
        writer.write(number)
    writer.close(PATIENCE)
    os.close(writing)
    assert read_all(reading) == [str(number) for number in range(1000)]
    assert (writer.written, writer.dropped) == (1000, 0)


def test_a_full_pipe_costs_lines_and_no_time(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    line = "x" * 1000
    inside = threading.Event()

    def line_of(value: int) -> str:
        inside.set()
        return f"{value} {line}"

    writer = LineWriter[int](writing, line_of, most_waiting=10)
    writer.start()
    for number in range(10_000):  # 10 MB, a pipe holds 64 KiB
        writer.write(number)
    assert inside.wait(PATIENCE)
    dropped = writer.dropped
    assert dropped > 8000  # a pipe's worth, two writes' and the queue's have found room
    reader = threading.Thread(target=lambda: lines.extend(read_all(reading)))
    lines: list[str] = []
    reader.start()
    writer.close(PATIENCE)
    os.close(writing)
    reader.join(PATIENCE)
    assert len(lines) == writer.written == 10_000 - dropped
    assert all(each.endswith(line) for each in lines)


def test_lines_that_are_left_at_the_end_are_told_and_counted(
    pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    reading, writing = pipe
    writer = LineWriter[str](writing, str, most_waiting=3)
    writer.write("x" * (1 << 20))  # more than a pipe holds
    writer.write("second")
    writer.write("third")
    writer.write("fourth")
    writer.insist("fifth")
    writer.start()
    writer.close(0.0)
    assert "4 lines of the access log were not written before the end" in caplog.text
    assert (writer.written, writer.dropped) == (0, 5)
    reader = threading.Thread(target=read_all, args=(reading,))  # ends the writer's thread
    reader.start()
    writer.close(PATIENCE)
    os.close(writing)
    reader.join(PATIENCE)


def test_a_pipe_without_a_reader_ends_the_log_and_is_told(
    pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    reading, writing = pipe
    os.close(reading)
    writer = LineWriter[int](writing, str)
    writer.start()
    writer.write(1)
    writer.close(PATIENCE)
    writer.write(2)
    assert (writer.written, writer.dropped) == (0, 2)
    assert "the access log ends here" in caplog.text


def test_a_descriptor_that_does_not_block_is_waited_for(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.set_blocking(writing, False)
    writer = LineWriter[str](writing, str)
    writer.start()
    sent = [f"{number} " + "y" * 5000 for number in range(100)]
    for each in sent:
        writer.write(each)
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(read_all(reading)))
    reader.start()
    writer.close(PATIENCE)
    os.close(writing)
    reader.join(PATIENCE)
    assert lines == sent


def test_a_line_that_cannot_be_made_costs_no_other(
    pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    reading, writing = pipe
    writer = LineWriter[int](writing, lambda value: str(1 // value))
    writer.start()
    for value in (1, 0, 1):
        writer.write(value)
    writer.close(PATIENCE)
    os.close(writing)
    assert read_all(reading) == ["1", "1"]
    assert "a line of the access log could not be made" in caplog.text
