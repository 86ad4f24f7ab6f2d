"""Work in steps: taken in turns, ended once, and reserved for before it holds anything."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from stoker.errors import Cancelled, Overloaded
from stoker.transport.steps import Steps, StepThread


def play(scenario: Callable[[StepThread], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        thread = StepThread("steps")
        try:
            await scenario(thread)
        finally:
            thread.close()

    uvloop.run(main())


def nothing(size: int) -> None:
    raise AssertionError(f"{size} bytes were reserved")


class Outcomes(list[object]):
    """What `done` was called with."""

    def __init__(self, count: int = 1) -> None:
        super().__init__()
        self._count = count
        self._are_here = asyncio.Event()

    def __call__(self, outcome: object) -> None:
        self.append(outcome)
        if len(self) >= self._count:
            self._are_here.set()

    async def all(self) -> list[object]:
        async with asyncio.timeout(10):
            await self._are_here.wait()
        await asyncio.sleep(0)
        return list(self)


def endless(entered: threading.Event) -> Steps[str]:
    while True:
        entered.set()
        yield 0


def counting(steps: int) -> Steps[int]:
    for _ in range(steps):
        yield 0
    return steps


def test_the_outcome_comes_on_the_loop_once() -> None:
    async def scenario(thread: StepThread) -> None:
        seen: list[str] = []
        outcomes = Outcomes()

        def done(outcome: object) -> None:
            seen.append(threading.current_thread().name)
            outcomes(outcome)

        thread.run(counting(3), done, nothing)
        assert await outcomes.all() == [3]
        assert seen == [threading.current_thread().name]

    play(scenario)


def test_an_error_is_an_outcome() -> None:
    def fails() -> Steps[None]:
        yield 0
        raise ValueError("no")

    async def scenario(thread: StepThread) -> None:
        outcomes = Outcomes()
        thread.run(fails(), outcomes, nothing)
        (error,) = await outcomes.all()
        assert isinstance(error, ValueError)

    play(scenario)


def test_small_work_does_not_wait_for_the_end_of_large_work() -> None:
    async def scenario(thread: StepThread) -> None:
        entered = threading.Event()
        large, small = Outcomes(), Outcomes()
        job = thread.run(endless(entered), large, nothing)
        await asyncio.to_thread(entered.wait, 10)
        thread.run(counting(1), small, nothing)
        assert await small.all() == [1]
        assert not large
        job.cancel()
        (error,) = await large.all()
        assert isinstance(error, Cancelled)

    play(scenario)


def test_bytes_are_reserved_before_the_step_that_holds_them_and_a_refusal_ends_the_work() -> None:
    async def scenario(thread: StepThread) -> None:
        events: list[str] = []

        def work() -> Steps[None]:
            for size in (10, 20, 30):
                yield size
                events.append(f"held {size}")

        def reserve(size: int) -> None:
            if size == 30:
                raise Overloaded("full")
            events.append(f"reserved {size}")

        outcomes = Outcomes()
        thread.run(work(), outcomes, reserve)
        (error,) = await outcomes.all()
        assert isinstance(error, Overloaded)
        assert events == ["reserved 10", "held 10", "reserved 20", "held 20"]

    play(scenario)


def test_work_that_the_end_interrupts_is_cancelled_and_later_work_refused() -> None:
    async def scenario(thread: StepThread) -> None:
        entered = threading.Event()
        outcomes = Outcomes(2)
        for _ in range(2):
            thread.run(endless(entered), outcomes, nothing)
        await asyncio.to_thread(entered.wait, 10)
        thread.close()
        assert [type(each) for each in await outcomes.all()] == [Cancelled, Cancelled]
        with pytest.raises(RuntimeError):
            thread.run(counting(1), outcomes, nothing)

    play(scenario)
