"""The demand meter at invented times."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.telemetry.demand import (
    SHORT_WINDOW_S,
    SHORTEST_WINDOW_S,
    WINDOW_S,
    DemandMeter,
    LateDemand,
    ModelDemand,
)

START = 1000.0


def begun() -> DemandMeter:
    meter = DemandMeter()
    meter.begin(START)
    return meter


def offer(
    model: ModelDemand, *, load: float, since: float, until: float, seconds: float = 0.005
) -> None:
    """Open loop: requests of `seconds` each at the even rate that makes `load`."""
    gap = seconds / load
    for number in range(round((until - since) / gap)):
        model.add(seconds, since + number * gap)


def test_open_loop_double_load_is_a_demand_of_2() -> None:
    meter = begun()
    model = meter.add_model(["gpu:0"])
    offer(model, load=2.0, since=START, until=START + 100)

    assert meter.ratio(START + 100) == pytest.approx(2.0, rel=0.01)
    assert meter.ratio(START + 100, SHORT_WINDOW_S) == pytest.approx(2.0, rel=0.01)
    assert model.ratio(START + 100) == pytest.approx(2.0, rel=0.01)


@given(
    load=st.floats(min_value=0.05, max_value=20),
    elapsed=st.floats(min_value=5.5, max_value=200),
    start=st.floats(min_value=0, max_value=1e7),
    window=st.sampled_from([SHORTEST_WINDOW_S, SHORT_WINDOW_S, WINDOW_S]),
)
def test_any_even_load_is_measured_at_any_moment_after_5_seconds(
    load: float, elapsed: float, start: float, window: float
) -> None:
    meter = DemandMeter()
    meter.begin(start)
    model = meter.add_model(["gpu:0"])
    seconds = load * elapsed / 400
    offer(model, load=load, since=start, until=start + elapsed, seconds=seconds)

    # One request more or less at the window's edges, and half a bucket's spread of the oldest.
    assert meter.ratio(start + elapsed, window) == pytest.approx(
        load, abs=2.5 * seconds / min(elapsed, window)
    )


@given(
    adds=st.lists(
        st.tuples(st.floats(min_value=0, max_value=90), st.floats(min_value=0, max_value=3)),
        max_size=60,
    ),
    after=st.floats(min_value=0, max_value=60),
)
def test_a_window_holds_what_was_added_in_it_to_half_a_second(
    adds: list[tuple[float, float]], after: float
) -> None:
    meter = DemandMeter()
    meter.begin(0.0)
    model = meter.add_model(["gpu:0"])
    moments = sorted(adds)
    for moment, seconds in moments:
        model.add(seconds, 100 + moment)
    now = 100 + max([moment for moment, _ in moments], default=0.0) + after

    total = model.ratio(now) * WINDOW_S

    inside = sum(s for moment, s in moments if 100 + moment > now - WINDOW_S + 0.5)
    touching = sum(s for moment, s in moments if 100 + moment >= now - WINDOW_S - 0.5)
    assert inside - 1e-6 <= total <= touching + 1e-6


def test_it_is_absent_before_a_cost_is_measured_and_0_when_idle() -> None:
    meter = begun()
    assert meter.ratio(START + 60) is None
    assert meter.ratio(START + 60, loop=0.7) is None
    meter.add_model(["gpu:0"])
    assert meter.ratio(START + 60) == 0.0


def test_load_that_ended_is_forgotten_after_one_window() -> None:
    meter = begun()
    model = meter.add_model(["gpu:0"])
    offer(model, load=1.0, since=START, until=START + 60)

    assert meter.ratio(START + 75) == pytest.approx(0.5, abs=0.02)
    assert meter.ratio(START + 75, SHORT_WINDOW_S) == 0.0
    assert meter.ratio(START + 91) == 0.0
    assert meter.ratio(START + 5000) == 0.0
    model.add(0.3, START + 5000)
    assert model.ratio(START + 5000) == pytest.approx(0.01)


def test_the_servers_demand_is_the_busiest_device_or_the_loop() -> None:
    meter = begun()
    first, second = meter.add_model(["gpu:0"]), meter.add_model(["gpu:1"])
    offer(first, load=0.4, since=START, until=START + 40)
    offer(second, load=0.8, since=START, until=START + 40)

    assert meter.ratio(START + 40) == pytest.approx(0.8, rel=0.02)
    assert meter.ratio(START + 40, loop=0.95) == 0.95
    assert meter.ratio(START + 40, loop=0.1) == pytest.approx(0.8, rel=0.02)


def test_models_of_one_device_add_up_and_overlap_divides() -> None:
    meter = begun()
    first, second = meter.add_model(["gpu:0"]), meter.add_model(["gpu:0"])
    for elapsed in range(40):
        since = START + elapsed
        offer(first, load=0.5, since=since, until=since + 1)
        offer(second, load=1.0, since=since, until=since + 1)
    assert meter.ratio(START + 40) == pytest.approx(1.5, rel=0.02)

    meter.set_overlap("gpu:0", 1.5)

    assert meter.ratio(START + 40) == pytest.approx(1.0, rel=0.02)
    assert first.ratio(START + 40) == pytest.approx(1 / 3, rel=0.02)


def test_a_model_on_two_devices_offers_half_to_each() -> None:
    meter = begun()
    both = meter.add_model(["gpu:0", "gpu:1"])
    alone = meter.add_model(["gpu:1"])
    offer(both, load=1.0, since=START, until=START + 40)
    offer(alone, load=0.2, since=START, until=START + 40)

    ratios = meter.device_ratios(START + 40)

    assert ratios["gpu:0"] == pytest.approx(0.5, rel=0.02)
    assert ratios["gpu:1"] == pytest.approx(0.7, rel=0.02)


def test_a_young_server_is_measured_by_its_age() -> None:
    meter = begun()
    model = meter.add_model(["gpu:0"])
    offer(model, load=1.5, since=START, until=START + 8)

    assert meter.ratio(START + 8) == pytest.approx(1.5, rel=0.02)


def test_the_first_request_of_a_young_server_is_no_overload() -> None:
    meter = begun()
    meter.add_model(["gpu:0"]).add(0.1, START + 0.01)

    assert meter.ratio(START + 0.02) == pytest.approx(0.02)


def test_a_swap_of_versions_under_steady_load_shows_neither_a_peak_nor_a_dip() -> None:
    meter = begun()
    old = meter.add_model(["gpu:0"])
    offer(old, load=0.6, since=START, until=START + 100)
    del old
    new = meter.add_model(["gpu:0"])
    for second in range(100, 140):
        offer(new, load=0.6, since=START + second, until=START + second + 1)
        assert meter.ratio(START + second + 1) == pytest.approx(0.6, rel=0.03)


def test_refused_load_counts_so_demand_does_not_saturate() -> None:
    meter = begun()
    model = meter.add_model(["gpu:0"])
    offer(model, load=7.0, since=START, until=START + 40)

    assert meter.ratio(START + 40) == pytest.approx(7.0, rel=0.01)


def test_a_late_clock_reading_is_counted_in_the_bucket_under_way() -> None:
    meter = begun()
    model = meter.add_model(["gpu:0"])
    model.add(1.0, START + 50.0)
    model.add(1.0, START + 49.0)

    assert model.ratio(START + 50.1) * WINDOW_S == pytest.approx(2.0)


def test_an_overlap_below_1_and_a_model_without_devices_are_refused() -> None:
    meter = begun()
    with pytest.raises(ValueError, match=r"at least 1, got 0\.5"):
        meter.set_overlap("gpu:0", 0.5)
    with pytest.raises(ValueError, match="at least one device"):
        meter.add_model([])


# --- envelopes ----------------------------------------------------------------------------------


def test_the_envelope_keeps_a_burst_for_30_seconds() -> None:
    meter = begun()
    model = meter.add_model(["gpu:0"])
    offer(model, load=0.2, since=START, until=START + 40)
    offer(model, load=3.0, since=START + 40, until=START + 42)
    offer(model, load=0.2, since=START + 42, until=START + 60)

    assert meter.ratio(START + 60, SHORTEST_WINDOW_S) == pytest.approx(0.2, abs=0.01)
    assert meter.peak(START + 60, SHORTEST_WINDOW_S) == pytest.approx(3.0, rel=0.01)
    assert meter.peak(START + 60, SHORT_WINDOW_S) == pytest.approx(
        (2 * 3.0 + 3 * 0.2) / 5, rel=0.01
    )
    offer(model, load=0.2, since=START + 60, until=START + 75)
    assert meter.peak(START + 75, SHORTEST_WINDOW_S) == pytest.approx(0.2, abs=0.01)


@given(
    adds=st.lists(
        st.tuples(st.floats(min_value=0, max_value=29), st.floats(min_value=0, max_value=3)),
        min_size=1,
        max_size=60,
    ),
    window=st.sampled_from([SHORTEST_WINDOW_S, SHORT_WINDOW_S]),
)
def test_no_window_of_whole_half_seconds_holds_more_than_the_envelope_and_one_holds_as_much(
    adds: list[tuple[float, float]], window: float
) -> None:
    meter = begun()
    model = meter.add_model(["gpu:0"])
    for moment, seconds in sorted(adds):
        model.add(seconds, START + moment)

    peak = meter.peak(START + 29.5, window)

    held = [
        sum(seconds for moment, seconds in adds if end - window <= moment < end)
        for end in [half / 2 for half in range(round(2 * window), 60)]
    ]
    assert peak == pytest.approx(max(held) / window, abs=1e-6)


def test_the_envelope_is_of_the_busiest_device_or_the_loop_and_overlap_divides() -> None:
    meter = begun()
    first, second = meter.add_model(["gpu:0"]), meter.add_model(["gpu:0"])
    other = meter.add_model(["gpu:1"])
    for model, seconds in ((first, 1.0), (second, 2.0), (other, 1.0)):
        model.add(seconds, START + 10)
    assert meter.peak(START + 11, SHORTEST_WINDOW_S) == pytest.approx(3.0)

    meter.set_overlap("gpu:0", 2.0)

    assert meter.peak(START + 11, SHORTEST_WINDOW_S) == pytest.approx(1.5)
    assert meter.peak(START + 11, SHORTEST_WINDOW_S, loop=1.75) == 1.75


def test_the_envelope_is_absent_before_a_cost_is_measured_and_0_when_idle() -> None:
    meter = begun()
    assert meter.peak(START + 60, SHORT_WINDOW_S) is None
    meter.add_model(["gpu:0"]).add(1.0, START)
    assert meter.peak(START + 5000, SHORT_WINDOW_S) == 0.0


def test_a_version_that_warm_up_did_not_measure_is_absent_until_a_cost_is_known() -> None:
    meter = begun()
    late = LateDemand(meter, ["gpu:0"])
    assert late.ratio(START + 10) is None
    assert meter.ratio(START + 10) is None

    late.add(1.5, START + 10)

    assert late.ratio(START + 11) == pytest.approx(1.5 / 11)
    assert meter.ratio(START + 11) == pytest.approx(1.5 / 11)
