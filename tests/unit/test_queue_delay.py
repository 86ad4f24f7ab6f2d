"""The mean queue delay over a window that no timer moves."""

import pytest
from stoker.telemetry.queue_delay import QueueDelay


def test_it_is_0_when_nothing_was_answered() -> None:
    assert QueueDelay(0.0).mean(waited_ns=0, answered=0, now=5.0) == 0.0


def test_only_the_last_window_counts() -> None:
    delay = QueueDelay(0.0)
    for second in range(1, 101):
        slow = second > 70
        waited = second * 1_000_000 + (second - 70) * 9_000_000 * slow
        value = delay.mean(waited_ns=waited, answered=second, now=float(second))

    assert value == pytest.approx(0.010)


def test_many_scrapers_see_the_same_mean() -> None:
    delay = QueueDelay(0.0)
    for step in range(1, 6000):
        value = delay.mean(waited_ns=step * 2_000_000, answered=step, now=step / 100)
        assert value == pytest.approx(0.002)


def test_after_a_long_pause_it_is_the_mean_since_the_last_scrape() -> None:
    delay = QueueDelay(0.0)
    delay.mean(waited_ns=4_000_000_000, answered=4, now=10.0)

    assert delay.mean(waited_ns=4_500_000_000, answered=5, now=500.0) == 0.5
