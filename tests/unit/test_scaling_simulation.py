"""The simulated pods: the product's engine on invented time, and what autoscalers see of it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from stoker.errors import ServingError
from stoker.request import InferResponse

from benchmarks import autoscaling
from benchmarks.scaling import report
from benchmarks.scaling.balancing import PinnedClients, RoundRobin
from benchmarks.scaling.cases import (
    ALONE,
    RIVALS,
    SHIPPED,
    demand_signals,
    main_traces,
    models,
    other_traces,
    trace_named,
)
from benchmarks.scaling.deployment import START_S, Deployment, Phase
from benchmarks.scaling.device import SharedGpu
from benchmarks.scaling.hpa import Metric, Policy, Rules, Select
from benchmarks.scaling.manifest import shipped
from benchmarks.scaling.runs import Case, Runs
from benchmarks.scaling.search import Trial, best_target
from benchmarks.scaling.server import Model, SimulatedServer
from benchmarks.scaling.signals import DEMAND, GPU_BUSY, Signal
from benchmarks.scaling.simulation import Result, Simulation
from benchmarks.scaling.timeline import Timeline
from benchmarks.scaling.traces import Trace, row_seconds, step

LINEAR = Model("linear", tuple((1 << n, 0.05 + 0.05 * (1 << n)) for n in range(6)))
"""l(b) = 50 + 50 b ms."""


class Answers:
    """What came back, and when."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self.good: list[float] = []
        self.refused: list[float] = []

    def __call__(self, result: InferResponse | ServingError) -> None:
        at = self._timeline.now
        (self.good if isinstance(result, InferResponse) else self.refused).append(at)


# --- the server ---------------------------------------------------------------------------------


def test_what_comes_while_a_run_is_under_way_shares_the_next_one() -> None:
    timeline = Timeline()
    server, answers = SimulatedServer(timeline, [LINEAR]), Answers(timeline)
    for at in (0.0, 0.01, 0.02, 0.03):
        timeline.call_at(at, server.submit, LINEAR.kind(1), answers)

    timeline.run(1.0)

    assert answers.good == pytest.approx([0.1, 0.3, 0.3, 0.3])  # l(1), then l(3)
    assert server.busy_s() == pytest.approx(0.3)


def test_a_batch_is_no_larger_than_the_knee_and_shapes_do_not_mix() -> None:
    timeline = Timeline()
    server, answers = SimulatedServer(timeline, [LINEAR]), Answers(timeline)
    assert LINEAR.most_rows == 8
    for number in range(10):
        server.submit(LINEAR.kind(1, 16 + number % 2), answers)

    timeline.run(2.0)

    assert answers.good == pytest.approx([0.3] * 5 + [0.6] * 5)


def test_two_models_share_the_gpu_while_both_run() -> None:
    timeline = Timeline()
    gpu, ends = SharedGpu(timeline), list[tuple[str, float]]()
    gpu.start(1.0, lambda: ends.append(("long", timeline.now)))
    timeline.call_at(0.5, gpu.start, 0.2, lambda: ends.append(("short", timeline.now)))

    timeline.run(2.0)

    assert [name for name, _ in ends] == ["short", "long"]
    assert [at for _, at in ends] == pytest.approx([0.9, 1.2])
    assert gpu.busy_s == pytest.approx(1.2)


@pytest.mark.parametrize("load", [0.4, 2.5])
def test_demand_is_what_is_offered_whether_it_is_answered_or_refused(load: float) -> None:
    timeline = Timeline()
    server, answers = SimulatedServer(timeline, [LINEAR]), Answers(timeline)
    gap = row_seconds(LINEAR) * 2 / load
    for number in range(round(60 / gap)):
        at = number * gap
        timeline.call_at(at, server.submit, LINEAR.kind(2), answers, at + 1.0)

    timeline.run(59.9)

    assert server.demand() == pytest.approx(load, rel=0.03)
    assert bool(answers.refused) == (load > 1)
    assert server.busy_s() / 59.9 == pytest.approx(1.0 if load > 1 else 0.55, abs=0.06)


# --- pods ---------------------------------------------------------------------------------------


def deployment(timeline: Timeline, replicas: int = 2) -> Deployment:
    made = Deployment(timeline, [LINEAR], replicas=replicas, seed=7)
    made.begin()
    return made


def test_a_new_pod_takes_its_time_and_costs_from_the_first_second() -> None:
    timeline = Timeline()
    pods = deployment(timeline)

    pods.scale(3)

    timeline.run(START_S[0] - 1)
    assert len(pods.endpoints) == 2
    timeline.run(START_S[1] + 3)
    assert len(pods.endpoints) == 3
    assert pods.gpu_s == pytest.approx(3 * timeline.now)


def test_pods_that_are_not_ready_go_first_and_at_once() -> None:
    timeline = Timeline()
    pods = deployment(timeline)
    pods.scale(4)
    timeline.run(10.0)

    pods.scale(2)

    assert [pod.phase for pod in pods.pods] == [Phase.READY, Phase.READY]
    assert pods.gpu_s == pytest.approx(4 * 10.0)


def test_a_pod_that_is_taken_away_answers_what_it_has_before_it_ends() -> None:
    timeline = Timeline()
    pods, answers = deployment(timeline), Answers(timeline)
    (leaving,) = [pod for pod in pods.pods if pod.name == "pod-1"]
    assert leaving.server is not None
    pods.scale(1)
    timeline.run(4.9)
    for _ in range(40):
        leaving.server.submit(LINEAR.kind(1), answers)

    timeline.run(6.0)
    assert leaving in pods.pods
    timeline.run(20.0)

    assert len(answers.good) == 40
    assert pods.pods == pods.endpoints
    assert leaving not in pods.pods


def test_a_balancer_takes_turns_and_a_pinned_client_stays_until_its_connection_is_old() -> None:
    timeline = Timeline()
    pods = deployment(timeline, replicas=4)
    balanced = RoundRobin(pods)
    assert len({balanced.choose() for _ in range(4)}) == 4
    pinned = PinnedClients(timeline, pods, seed=3)
    for _ in range(500):
        pinned.choose()
    pods.scale(5)
    timeline.run(250.0)
    (fresh,) = [pod for pod in pods.endpoints if pod.name == "pod-5"]
    assert fresh not in {pinned.choose() for _ in range(500)}

    timeline.run(700.0)

    assert fresh in {pinned.choose() for _ in range(500)}


def test_pinned_clients_leave_a_pod_that_drains() -> None:
    timeline = Timeline()
    pods = deployment(timeline, replicas=3)
    pinned = PinnedClients(timeline, pods, seed=3)
    before = {pinned.choose() for _ in range(500)}
    assert len(before) == 3
    pods.scale(1)

    timeline.run(5.0)

    assert {pinned.choose() for _ in range(500)} == set(pods.endpoints)


# --- runs ---------------------------------------------------------------------------------------


SLOW = Model("slow", tuple((rows, 4 * seconds) for rows, seconds in LINEAR.costs))
SECONDS = 300.0


def a_step() -> Trace:
    return Trace("a step", SECONDS, (SLOW,), step(0.5, 6.0, 30.0, 250.0))


def test_a_run_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    signal = Signal("demand", (Metric(DEMAND, 650),))
    one, again, other = (Simulation(a_step(), signal, shipped(), seed).run() for seed in (1, 1, 2))

    assert one == again
    assert one.requests != other.requests


def test_every_request_is_answered_in_time_or_counted_as_late() -> None:
    signal = Signal("demand", (Metric(DEMAND, 650),))
    fixed = replace(shipped(), up=Rules((), select=Select.DISABLED))
    grown = Simulation(a_step(), signal, shipped(), 1).run()
    stuck = Simulation(a_step(), signal, fixed, 1).run()

    assert stuck.most_replicas == 2
    assert stuck.gpu_hours == pytest.approx(2 * SECONDS / 3600)
    assert grown.most_replicas > 2
    assert grown.gpu_hours > stuck.gpu_hours
    assert 0 < grown.late < stuck.late
    assert stuck.refused <= stuck.late
    assert sum(moment.requests for moment in grown.moments) <= grown.requests


def test_an_idle_service_stays_at_its_minimum_and_serves_all() -> None:
    quiet = Trace("quiet", 300.0, (LINEAR,), lambda random: (lambda at: 0.05,))
    result = Simulation(quiet, Signal("demand", (Metric(DEMAND, 650),)), shipped(), 1).run()

    assert (result.late, result.changes) == (0, 0)
    assert result.gpu_hours == pytest.approx(shipped().min_replicas * 300 / 3600)


def test_traces_offer_what_they_say() -> None:
    for trace in main_traces():
        row_s = row_seconds(trace.models[0])
        arrivals = trace.arrivals(5)
        assert [one.at for one in arrivals] == sorted(one.at for one in arrivals)
        assert 0.5 < sum(one.rows for one in arrivals) * row_s / trace.seconds < 4.0
    trace = trace_named("step x10")
    begin, end = 0.2 * trace.seconds, 0.7 * trace.seconds
    rows = [(one.rows, begin <= one.at < end) for one in trace.arrivals(5)]
    during = sum(count for count, is_high in rows if is_high) / 0.5
    outside = sum(count for count, is_high in rows if not is_high) / 0.5
    assert during == pytest.approx(10 * outside, rel=0.1)


def test_kept_results_are_those_of_the_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    kept = tmp_path_factory.mktemp("kept") / "results.jsonl"
    case = Case("step x10", demand_signals(shipped())[1], shipped(), 1, scale=0.05)
    said: list[str] = []
    (made,) = Runs(kept=kept, say=said.append).of([case])
    (read,) = Runs(kept=kept, say=said.append).of([case])

    assert made == read
    assert made.signal == ALONE
    assert len(said) == 1


# --- the search ---------------------------------------------------------------------------------


def trials(late: Callable[[float], float]) -> Callable[[float, bool], Trial]:
    """GPU hours fall with the target."""
    return lambda target, smoothed: Trial(target, smoothed, late(target), 1 / target)


def test_the_search_finds_the_cheapest_target_that_serves_no_worse() -> None:
    in_flight = RIVALS[3]

    best = best_target(in_flight, trials(lambda target: target / 100), 0.05, steps=12)

    assert best.serves
    assert best.trial.target == pytest.approx(5.0, rel=0.05)


def test_where_no_target_serves_as_well_the_one_that_serves_best_is_taken() -> None:
    best = best_target(RIVALS[1], trials(lambda target: 0.5 + target), 0.05, steps=6)

    assert not best.serves
    assert best.trial.target == pytest.approx(RIVALS[1].low, rel=0.1)


def test_a_rivals_signal_has_its_target_in_its_unit() -> None:
    cpu, busy, *_ = RIVALS
    assert cpu.signal(0.55, smoothed=True).metrics == (Metric("cpu", 55, is_resource=True),)
    assert busy.signal(0.55, smoothed=True).metrics == (Metric(GPU_BUSY + "_1m", 550),)
    assert busy.signal(0.55, smoothed=False).metrics == (Metric(GPU_BUSY, 550),)


def test_the_models_are_batched_as_their_curves_say() -> None:
    assert {name: model.most_rows for name, model in models().items()} == {
        "gaining": 4,
        "little": 4,
        "cheap": 4,
        "dear": 4,
        "assumed": 32,
    }


def names(signals: Sequence[Signal]) -> list[str]:
    return [signal.name for signal in signals]


def test_our_own_signals_have_the_targets_that_are_shipped() -> None:
    hpa = shipped()
    both, alone, short = demand_signals(hpa)

    assert both.metrics == hpa.metrics
    assert [metric.target for metric in (*alone.metrics, *short.metrics)] == [
        hpa.metrics[0].target
    ] * 2
    assert len(set(names((both, alone, short)))) == 3


# --- what it is for -----------------------------------------------------------------------------


def first_growth_to(result: Result, replicas: int) -> float:
    """When so many pods were asked for; the end where they never were."""
    reached = [moment.at for moment in result.moments if moment.replicas >= replicas]
    return reached[0] if reached else math.inf


def test_demand_asks_for_all_pods_of_a_step_and_what_stops_at_1_goes_by_and_by() -> None:
    at_once = replace(shipped(), up=Rules((Policy("Pods", 10, 15),)))
    demand = Signal("demand", (Metric(DEMAND, 650),))
    busy = Signal("busy", (Metric(GPU_BUSY, 900),))

    found = [Simulation(a_step(), signal, at_once, 1).run() for signal in (demand, busy)]

    asked = [first_growth_to(result, 5) for result in found]  # 3 GPUs of work, 0.65 each: 4.6
    assert asked[0] <= 30.0 + 60.0  # the window, a scrape and a turn of the HPA after the step
    assert asked[1] > asked[0] + 60.0


@pytest.mark.slow
def test_the_whole_comparison_runs_and_tells_where_our_signal_loses(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    picture = tmp_path / "autoscaling.png"
    autoscaling.main(["--quick", "--jobs", "1", "--plot", str(picture)])

    printed = capsys.readouterr().out
    for trace in (*main_traces(), *other_traces()):
        assert f"\n## {trace.name}\n" in printed
    for rival in RIVALS:
        assert printed.count(f"\n| {rival.name} | ") == 1 + len(main_traces()) + len(other_traces())
    assert "\n## Where 'demand + queue delay' loses\n\n- " in printed
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_losses_are_told_only_where_another_signal_is_cheaper_or_better() -> None:
    def made(signal: str, hours: float, late: int) -> Result:
        return Result("t", signal, 1, hours, 1000, late, 0, 5, 1)

    ours, others = made(SHIPPED, 10.0, 20), [made("dear", 12.0, 10), made("cheap", 8.0, 60)]
    assert report.losses({"t": {each.signal: [each] for each in (ours, *others)}}) == "- none"

    better = [made("cheaper", 9.0, 20), made("quicker", 10.0, 5)]
    told = report.losses({"t": {each.signal: [each] for each in (ours, *better)}})

    assert [line.split()[2] for line in told.splitlines()] == ["cheaper", "quicker"]
