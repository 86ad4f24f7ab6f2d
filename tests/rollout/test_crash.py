"""A replica that is killed outright loses what it had in flight; clients may send that again."""

from pathlib import Path

import pytest

from tests.calls import wait_until
from tests.rollout.fleet import CLEARLY_IN_FLIGHT, Replica
from tests.rollout.report import Report
from tests.rollout.scene import Form, Scene, scene

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

THREADS_OF_A_CONNECTION = 4
"""The most calls at once on a gRPC connection of the load."""

GRPC_BACK_OFF_S = 1.2
"""A gRPC client whose connection was refused waits 1 s and jitter before it opens the next one, and
fails its calls meanwhile. Source: grpc/grpc, doc/connection-backoff.md."""


def busy_replica(on: Scene) -> Replica:
    """One with plenty of requests in flight."""
    replica = on.fleet.oldest
    wait_until(
        lambda: replica.process.at.metric("stoker_requests_in_flight") >= CLEARLY_IN_FLIGHT,
        "requests in flight",
    )
    return replica


def test_a_killed_replica_that_gets_nothing_new_loses_at_most_what_its_connections_had_under_way(
    form: Form, report: Report, tmp_path: Path
) -> None:
    with scene(tmp_path, 3, checks=form.checks, flags=form.flags) as on:
        victim = busy_replica(on)
        # As where its endpoint is gone: connections stay, none is added, so the bound only falls.
        on.balancer.withhold(victim.name)
        under_way = on.balancer.connections(victim.name)
        under_way["l4_grpc"] *= THREADS_OF_A_CONNECTION
        on.fleet.crash(victim, on.load)
    bound = sum(under_way.values())
    failures = on.load.failures
    report.add(
        "SIGKILL of 1 of 3, which gets nothing new",
        on,
        f"at most {bound} requests under way on its connections, {len(failures)} failed",
    )
    assert 0 < len(failures) <= bound
    assert [each for each in failures if not each.is_retryable] == []


@pytest.mark.rollout
def test_a_killed_replica_costs_retryable_failures_until_the_balancer_notices_and_none_after(
    form: Form, report: Report, tmp_path: Path
) -> None:
    with scene(tmp_path, 3, checks=form.checks, flags=form.flags) as on:
        victim = busy_replica(on)
        kill = on.fleet.crash(victim, on.load)
        on.wait_until_down(victim.name)
        noticed = on.load.now
        wait_until(lambda: on.load.now > noticed + 2 * GRPC_BACK_OFF_S, "clients to try again")
    failures = on.load.failures
    later = [each for each in failures if each.began > kill.moment]
    report.add(
        "SIGKILL of 1 of 3, which the balancer notices by its checks",
        on,
        f"noticed after {noticed - kill.moment:.1f} s; {len(failures) - len(later)} failed that "
        f"had begun before, {len(later)} that were sent to it meanwhile",
    )
    assert failures
    assert [each for each in failures if not each.is_retryable] == []
    assert [each for each in failures if each.began > noticed + GRPC_BACK_OFF_S] == []
