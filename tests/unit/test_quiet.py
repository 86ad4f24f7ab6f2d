"""Many work at once, one measures alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

from stoker.lifecycle.quiet import Quiet


def test_work_goes_on_beside_other_work() -> None:
    quiet = Quiet()
    together = threading.Barrier(3)

    def work() -> None:
        with quiet.work():
            together.wait(10)

    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(work) for _ in range(3)]:
            future.result(10)


def test_a_measurement_waits_for_the_work_under_way_and_keeps_out_later_work() -> None:
    quiet = Quiet()
    events: list[str] = []
    begun, ends = threading.Event(), threading.Event()

    def measure() -> None:
        begun.set()
        with quiet.measurement():
            events.append("measured")

    def late() -> None:
        with quiet.work():
            events.append("late work")
            ends.set()

    with ThreadPoolExecutor(2) as pool:
        with quiet.work():
            measuring = pool.submit(measure)
            begun.wait(10)
            events.append("work")
        measuring.result(10)
        with quiet.measurement():
            working = pool.submit(late)
            assert not ends.is_set()
            events.append("measured again")
        working.result(10)
    assert events == ["work", "measured", "measured again", "late work"]


def test_nobody_is_locked_out_when_many_open_and_measure() -> None:
    quiet = Quiet()
    inside: list[int] = []
    most: list[int] = []

    def load() -> None:
        for _ in range(50):
            with quiet.work():
                pass
            with quiet.measurement():
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(load) for _ in range(4)]:
            future.result(30)
    assert len(most) == 200
    assert set(most) == {1}
