"""The HPA's algorithm: the examples of Kubernetes' documentation and of its controller's tests."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from benchmarks.scaling.hpa import (
    DEFAULT_DOWN,
    DEFAULT_UP,
    Autoscaler,
    Metric,
    NoMetric,
    PodView,
    Policy,
    Rules,
    Sample,
    Select,
    Spec,
    proposal,
)
from benchmarks.scaling.manifest import shipped, thousandths

LOAD = Metric("load", 100)
CPU = Metric("cpu", 30, is_resource=True)
FREE = Rules((Policy("Percent", 1000, 15),))
AT_ONCE = Rules((Policy("Percent", 100, 15),))


def pods(count: int, *, ready: Sequence[bool] | None = None) -> list[PodView]:
    """Running pods that began long ago, or at 0 where readiness is given."""
    return [
        PodView(f"p{number}", is_running=True, is_ready=ready[number] if ready else True)
        for number in range(count)
    ]


def values(*each: int | None) -> dict[str, Sample]:
    """A sample for each pod; None: it has none."""
    return {
        f"p{number}": Sample(value, at=60.0)
        for number, value in enumerate(each)
        if value is not None
    }


def asked(
    metric: Metric, samples: Mapping[str, Sample], of: Sequence[PodView], *, now: float = 60.0
) -> int:
    return proposal(metric, samples, of, len(of), now=now)


def spec(*, up: Rules = FREE, down: Rules = AT_ONCE, least: int = 1, most: int = 1000) -> Spec:
    return Spec((LOAD,), up, down, least, most)


def play(hpa: Autoscaler, current: int, loads: Sequence[int], *, every: float = 60.0) -> list[int]:
    """The replicas after each turn, while the load of all pods together is so many thousandths."""
    found = []
    for turn, load in enumerate(loads):
        samples = {"load": values(*[load // current] * current)}
        current = hpa.sync(turn * every, current, pods(current), samples)
        found.append(current)
    return found


# --- what one metric proposes -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "replicas"), [(200, 8), (50, 2), (109, 4), (91, 4), (112, 5), (74, 3)]
)
def test_replicas_go_with_the_ratio_of_value_to_target_outside_of_the_tolerance(
    value: int, replicas: int
) -> None:
    assert asked(LOAD, values(*[value] * 4), pods(4)) == replicas


def test_fifty_replicas_at_90_per_cent_of_a_75_per_cent_target_become_60() -> None:
    cpu = Metric("cpu", 75, is_resource=True)
    of = [replace(pod, started=-1000.0, ready_changed=-900.0) for pod in pods(50)]

    assert asked(cpu, values(*[900] * 50), of) == 60


def test_missing_pods_count_as_idle_when_growing_and_as_on_target_when_shrinking() -> None:
    assert asked(LOAD, values(300, 300, None), pods(3)) == 6
    assert asked(LOAD, values(190, None), pods(2)) == 2  # 0.95 is within the tolerance
    assert asked(LOAD, values(20, 20, None, None), pods(4)) == 3  # 0.6 of four


def test_a_missing_pod_never_turns_the_direction() -> None:
    assert asked(LOAD, values(150, None, None), pods(3)) == 3


def test_pending_pods_count_as_idle_when_growing_and_not_at_all_otherwise() -> None:
    pending = [replace(pod, is_running=False) for pod in pods(4)[2:]]
    of = [*pods(2), *pending]

    assert asked(LOAD, values(400, 400), of) == 8
    assert asked(LOAD, values(60, 60), of) == 2


def test_terminating_pods_are_no_part_of_it() -> None:
    leaving = replace(pods(3)[2], is_terminating=True)

    assert proposal(LOAD, values(200, 200, 900), [*pods(2), leaving], 2, now=60.0) == 4


def test_cpu_of_pods_that_are_not_ready_dampens_growth() -> None:
    of = pods(3, ready=[False, True, True])  # TestReplicaCalcScaleUpUnreadyLessScale
    of = [replace(pod, ready_changed=0.0) for pod in of]

    assert asked(CPU, values(300, 500, 700), of) == 4


def test_cpu_that_was_burnt_before_a_pod_was_ready_says_nothing_of_its_load() -> None:
    fresh = [replace(pod, ready_changed=50.0) for pod in pods(3)]
    of = [*pods(2), fresh[2]]

    assert asked(CPU, values(300, 300, 1000), of) == 3
    later = {name: replace(sample, at=66.0) for name, sample in values(300, 300, 1000).items()}
    assert asked(CPU, later, of, now=66.0) == 6


def test_no_value_at_all_is_an_error() -> None:
    with pytest.raises(NoMetric, match="load"):
        asked(LOAD, {}, pods(2))


# --- several metrics, bounds --------------------------------------------------------------------


def test_the_largest_proposal_of_several_metrics_holds() -> None:
    other = Metric("other", 10)
    hpa = Autoscaler(Spec((LOAD, other), FREE, AT_ONCE, 1, 100))
    samples = {"load": values(50, 50), "other": values(30, 30)}

    assert hpa.sync(0.0, 2, pods(2), samples) == 6


def test_a_metric_without_a_value_stops_shrinking_and_not_growing() -> None:
    hpa = Autoscaler(Spec((LOAD, Metric("other", 10)), FREE, AT_ONCE, 1, 100))

    assert hpa.sync(0.0, 4, pods(4), {"load": values(10, 10, 10, 10)}) == 4
    assert hpa.sync(15.0, 4, pods(4), {"load": values(200, 200, 200, 200)}) == 8
    assert hpa.sync(30.0, 8, pods(8), {}) == 8


def test_minimum_and_maximum_hold() -> None:
    hpa = Autoscaler(spec(least=2, most=5))

    assert play(hpa, 4, [4000, 0, 0]) == [5, 2, 2]
    assert hpa.sync(200.0, 9, pods(9), {}) == 5


# --- behaviour ----------------------------------------------------------------------------------


def test_growth_by_default_is_the_larger_of_doubling_and_four_pods() -> None:
    hpa = Autoscaler(spec(up=DEFAULT_UP, down=DEFAULT_DOWN))

    assert play(hpa, 1, [100_000] * 5, every=15.0) == [5, 10, 20, 40, 80]


def test_the_documents_scale_down_from_80_to_10() -> None:
    down = Rules((Policy("Pods", 4, 60), Policy("Percent", 10, 60)))
    hpa = Autoscaler(spec(down=down))

    found = play(hpa, 80, [1000] * 16, every=60.0)

    assert found[:3] == [72, 64, 57]
    below_40 = [number for number in found if number < 40]
    assert [before - after for before, after in pairwise(below_40)][:5] == [4] * 5
    assert found[-1] == 10


def test_policies_look_back_on_their_period() -> None:
    hpa = Autoscaler(spec(up=Rules((Policy("Pods", 4, 60),))))

    assert play(hpa, 2, [100_000] * 9, every=15.0) == [6, 6, 6, 6, 10, 10, 10, 10, 14]


def test_select_policy_min_takes_the_smallest_change_and_disabled_none() -> None:
    both = (Policy("Percent", 10, 60), Policy("Pods", 5, 60))
    least = Autoscaler(spec(down=Rules(both, select=Select.MIN)))
    none = Autoscaler(spec(down=Rules(both, select=Select.DISABLED)))

    assert play(least, 80, [100, 100]) == [75, 70]
    assert play(none, 80, [100, 100]) == [80, 80]


def test_the_scale_down_window_keeps_the_highest_recommendation_of_the_last_5_minutes() -> None:
    hpa = Autoscaler(spec(down=replace(AT_ONCE, stabilization_s=300)))

    assert play(hpa, 2, [800, *[200] * 7]) == [8, 8, 8, 8, 8, 2, 2, 2]


def test_the_scale_up_window_keeps_the_lowest_recommendation() -> None:
    hpa = Autoscaler(spec(up=replace(FREE, stabilization_s=120)))

    assert play(hpa, 2, [200, 1000, 1000, 1000]) == [2, 2, 10, 10]


def test_a_tolerance_can_be_set_for_each_direction() -> None:
    hpa = Autoscaler(spec(up=replace(FREE, tolerance=0.0), down=replace(AT_ONCE, tolerance=0.5)))

    assert play(hpa, 10, [1050, 600]) == [11, 11]


# --- what is shipped ----------------------------------------------------------------------------


def test_the_shipped_hpa_is_read_from_its_manifest() -> None:
    hpa = shipped()

    assert [metric.name for metric in hpa.metrics] == [
        "stoker_demand_ratio",
        "stoker_queue_delay_seconds",
    ]
    assert all(metric.target > 0 for metric in hpa.metrics)
    assert hpa.down.stabilization_s >= 300
    assert 1 <= hpa.min_replicas < hpa.max_replicas


def test_quantities_are_read_as_kubernetes_means_them() -> None:
    assert [thousandths(each) for each in ("650m", "2", 3, "0.5")] == [650, 2000, 3000, 500]
