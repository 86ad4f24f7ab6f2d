"""The lag probe, driven by a loop and a clock that the test moves; and once by a real loop."""

import asyncio
import time
from collections.abc import Callable, Coroutine

import pytest
import uvloop
from stoker.telemetry.loop_lag import INTERVAL_S, LoopLag

from tests.hand_loop import HandLoop


def probe(loop: HandLoop) -> LoopLag:
    lag = LoopLag(loop, clock=loop.clock)
    lag.start()
    return lag


def test_an_idle_loop_has_no_lag() -> None:
    loop = HandLoop(5.0)
    lag = probe(loop)
    loop.advance(1.0)
    lag.stop()

    assert sum(lag.histogram.counts) == 20
    assert lag.quantile(1.0) == pytest.approx(0.0)


def test_a_callback_that_blocks_shows_as_lag() -> None:
    loop = HandLoop(5.0)
    lag = probe(loop)
    loop.advance(0.5)
    loop.advance(INTERVAL_S, blocked=0.2)
    lag.stop()

    assert lag.quantile(1.0) == pytest.approx(0.199)
    assert lag.histogram.total == pytest.approx(199_000_000, abs=1000)


def test_a_long_turn_shows_as_lag_and_the_timers_own_rounding_does_not() -> None:
    loop = HandLoop(5.0)
    loop.turn_s = 0.003
    lag = probe(loop)
    loop.advance(INTERVAL_S, blocked=0.0009)
    loop.advance(0.01)
    lag.stop()

    assert lag.quantile(0.99) == pytest.approx(0.003)


def test_the_99th_percentile_passes_over_the_worst_probe_in_200() -> None:
    loop = HandLoop(5.0)
    lag = probe(loop)
    loop.advance(INTERVAL_S, blocked=1.0)
    loop.advance(199 * INTERVAL_S)
    lag.stop()

    assert lag.quantile(0.99) == pytest.approx(0.0)
    assert lag.quantile(1.0) == pytest.approx(0.999)


def test_after_stop_no_timer_is_left() -> None:
    loop = HandLoop(5.0)
    lag = probe(loop)
    loop.advance(0.2)
    lag.stop()
    counted = sum(lag.histogram.counts)
    loop.advance(1.0)

    assert sum(lag.histogram.counts) == counted
    assert [timer for timer in loop.timers if not timer.cancelled] == []


def test_it_cannot_be_started_twice() -> None:
    lag = probe(HandLoop())
    with pytest.raises(RuntimeError, match="stopped"):
        lag.start()
    lag.stop()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_real_loop_that_is_blocked_for_30_ms_shows_at_least_25(
    run: Callable[[Coroutine[None, None, LoopLag]], LoopLag],
) -> None:
    async def block() -> LoopLag:
        lag = LoopLag(asyncio.get_running_loop())
        lag.start()
        until = time.monotonic() + INTERVAL_S + 0.03
        while time.monotonic() < until:
            pass
        for _turn in range(5):
            await asyncio.sleep(0)
        lag.stop()
        return lag

    assert run(block()).quantile(1.0) >= 0.025
