"""Replicas are replaced under load and no request fails: the proof, and that it can fail.

The short form is part of `make test`; `make test-rollout` replaces replicas for minutes, with the
drain delay that is shipped and a balancer that takes nearly as long to notice.

It fails, the short form too, where readiness stays true and there is no drain delay (a test below
holds that), and where a drain announces itself to no connection, or to those of one protocol alone:
then nothing may be lost, but clients stay on a replica until it closes its ports.
"""

from pathlib import Path

import pytest

from tests.calls import wait_until
from tests.rollout.balancer import Checks
from tests.rollout.fleet import AT_LEAST_IN_FLIGHT, Strategy
from tests.rollout.report import Report
from tests.rollout.scene import Form, Scene, scene

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

only_long = pytest.mark.rollout


def check_kills(on: Scene) -> None:
    """Every replica that got SIGTERM had requests in flight, ended well and left none."""
    assert on.fleet.kills
    for kill in on.fleet.kills:
        assert kill.in_flight >= AT_LEAST_IN_FLIGHT, kill
        assert (kill.code, kill.unanswered) == (0, 0), kill


def check_streams(on: Scene) -> None:
    """A stream that its replica's drain ended told its client to open another one; of its
    requests, one at a time, at most one each was left."""
    for each in on.stream_ends:
        assert each.is_retryable, each
        assert "open another stream" in each.text, each
    assert len(on.stream_ends) <= on.streams * len(on.fleet.kills)


def check_clients_were_told(on: Scene) -> None:
    """GOAWAY and `Connection: close` moved the clients of every replica that got SIGTERM to others
    while it still served. Streams stay until they end; their connection takes nothing else, so
    that no client of a stream is refused twice in a row."""
    looked = [kill for kill in on.fleet.kills if kill.stayed is not None]
    assert sum(kill.clients for kill in looked) > on.streams * len(looked)
    for kill in looked:
        assert kill.stayed is not None
        assert kill.stayed <= on.streams, kill
    refusals = [(each.caller, each.answers) for each in on.stream_ends]
    assert len(set(refusals)) == len(refusals), on.stream_ends


@pytest.mark.parametrize(
    ("replicas", "strategy"),
    [
        (2, "surge"),
        pytest.param(2, "unavailable", marks=only_long),
        pytest.param(3, "surge", marks=only_long),
        (3, "unavailable"),
    ],
)
def test_a_rollout_under_load_loses_no_request(
    replicas: int, strategy: Strategy, form: Form, report: Report, tmp_path: Path
) -> None:
    with scene(tmp_path, replicas, checks=form.checks, flags=form.flags) as on:
        on.roll(strategy, form.seconds)
    report.add(f"{replicas} replicas, {strategy}", on)
    assert on.lost == []
    check_kills(on)
    check_streams(on)
    check_clients_were_told(on)


def test_without_a_drain_delay_and_with_readiness_left_true_a_rollout_loses_requests(
    form: Form, report: Report, tmp_path: Path
) -> None:
    """Liveness stays true in a drain: a balancer that asks for it sees what one sees whose server
    leaves readiness true."""
    checks = Checks("/livez", form.checks.interval_ms)
    with scene(tmp_path, 2, checks=checks, flags=("--drain-delay", "0s")) as on:
        on.roll("surge", 0)
    report.add("control: no drain delay, readiness left true", on)
    assert on.lost
    assert len(on.fleet.kills) == 2


@only_long
def test_a_rollout_with_grpcio_loses_only_calls_that_cross_the_close_of_its_port(
    form: Form, report: Report, tmp_path: Path
) -> None:
    flags = (*form.flags, "--grpc-transport", "grpcio")
    with scene(tmp_path, 2, checks=form.checks, flags=flags) as on:
        on.roll("surge", form.seconds)
    report.add("2 replicas, surge, --grpc-transport grpcio", on)
    ends = [kill.moment + form.drain_delay_s for kill in on.fleet.kills]
    for each in on.lost:
        assert each.text.startswith("[StatusCode.CANCELLED]"), each
        assert any(abs(each.ended - end) < 1 for end in ends), each
    check_kills(on)
    check_streams(on)


@only_long
def test_a_lone_replica_is_replaced_without_a_gap_when_the_new_one_comes_first(
    form: Form, report: Report, tmp_path: Path
) -> None:
    with scene(tmp_path, 1, checks=form.checks, flags=form.flags) as on:
        on.roll("surge", form.seconds / 4)
    report.add("1 replica, surge", on)
    assert on.lost == []
    check_kills(on)
    check_streams(on)
    check_clients_were_told(on)


@only_long
def test_a_lone_replica_without_surge_leaves_a_gap_and_loses_nothing_that_it_had(
    form: Form, report: Report, tmp_path: Path
) -> None:
    with scene(tmp_path, 1, checks=form.checks, flags=form.flags) as on:
        on.roll("unavailable", 0)
    (kill,) = on.fleet.kills
    began = min(each.began for each in on.lost)
    gap_s = max(each.ended for each in on.lost) - began
    report.add("1 replica, unavailable: the gap", on, f"the gap lasts {gap_s:.1f} s")
    assert all(each.is_retryable for each in on.lost)
    assert began > kill.moment
    check_kills(on)


def test_a_scale_down_loses_nothing_while_slow_proxies_still_send_to_the_pod_that_leaves(
    form: Form, report: Report, tmp_path: Path
) -> None:
    with scene(tmp_path, 3, checks=form.slow_checks, flags=form.flags) as on:
        leaver = on.fleet.oldest
        wait_until(
            lambda: len(on.balancer.clients(leaver.name)) > on.streams, "clients to be settled"
        )
        on.fleet.terminate(leaver, on.load)
        before = on.balancer.connections_made(leaver.name)
        on.wait_until_down(leaver.name)
        late = on.balancer.connections_made(leaver.name) - before
    report.add(
        "3 replicas to 2, slow proxies", on, f"{late} new connections after its SIGTERM were served"
    )
    assert on.lost == []
    assert late > 0
    check_kills(on)
    check_streams(on)
    check_clients_were_told(on)
