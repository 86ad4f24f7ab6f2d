"""The loop's share of a CPU, from readings at invented times; and the one real reader."""

import time

import pytest
from stoker.telemetry.loop_load import LoopLoad, ThreadClock, parse_schedstat


def test_the_share_is_that_of_the_window() -> None:
    load = LoopLoad()
    busy = 0.0
    for step in range(200):
        load.observe(step * 0.5, busy)
        busy += 0.5 * (0.2 if step < 180 else 0.9)

    assert load.fraction(5.0) == pytest.approx(0.9)
    assert load.fraction(30.0) == pytest.approx((20.5 * 0.2 + 9.5 * 0.9) / 30, abs=0.01)


def test_a_young_loop_is_measured_since_its_start_and_not_in_its_first_second() -> None:
    load = LoopLoad()
    assert load.fraction(30.0) is None
    load.observe(10.0, 0.0)
    load.observe(10.5, 0.25)
    assert load.fraction(30.0) is None
    load.observe(12.0, 1.0)

    assert load.fraction(30.0) == pytest.approx(0.5)
    assert load.busy_s == 1.0


def test_the_largest_share_is_remembered_for_30_seconds() -> None:
    load = LoopLoad()
    assert load.peak(1.0) is None
    busy = 0.0
    for step in range(100):
        load.observe(step * 0.5, busy)
        busy += 0.5 * (0.9 if 40 <= step < 44 else 0.1)
    assert load.peak(1.0) == pytest.approx(0.9)
    assert load.peak(5.0) == pytest.approx((2 * 0.9 + 3 * 0.1) / 5)

    for step in range(100, 150):
        load.observe(step * 0.5, busy)
        busy += 0.05

    assert load.peak(1.0) == pytest.approx(0.1)


def test_running_and_waiting_for_a_cpu_both_count() -> None:
    assert parse_schedstat(b"1500000000 500000000 77\n") == 2.0


def test_another_file_is_an_error_not_a_number() -> None:
    with pytest.raises(ValueError, match="unpack"):
        parse_schedstat(b"1 2")


def test_the_threads_clock_moves_while_the_thread_works() -> None:
    clock = ThreadClock()
    before = clock.read()
    until = time.thread_time() + 0.02
    while time.thread_time() < until:
        pass

    assert clock.read() - before >= 0.01
    clock.close()
    assert clock.read() > 0.0
