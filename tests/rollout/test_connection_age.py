"""A replica that is added gets its share of clients that never close their connections."""

from pathlib import Path

import pytest

from tests import models
from tests.calls import wait_until
from tests.rollout.balancer import Checks
from tests.rollout.clients import Kind, RawHttp, TritonHttp, open_triton_grpc
from tests.rollout.fleet import Replica
from tests.rollout.load import waiting_config
from tests.rollout.report import Report
from tests.rollout.scene import Scene, scene

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

AGE_S = 3.0
FIRST_S = 1.1 * AGE_S + 1
"""By then all connections that were there are of age, jitter included, and told to leave."""

LATEST_S = 4 * FIRST_S
"""By then each kind of client has reached the new replica, if ever: a busy machine takes longer."""

MODELS = {"gRPC": "by-grpc", "tritonclient HTTP": "by-triton-http", "raw HTTP/1.1": "by-raw-http"}
"""By which client: the replicas' own counters tell who called."""

CLIENTS = (
    Kind("gRPC", "l4_grpc", 12, 1, open_triton_grpc, MODELS["gRPC"]),
    Kind(
        "tritonclient HTTP", "l4_http", 12, 1, lambda at, _: [TritonHttp(at)],
        MODELS["tritonclient HTTP"],
    ),
    Kind("raw HTTP/1.1", "l4_http", 12, 1, lambda at, _: [RawHttp(at)], MODELS["raw HTTP/1.1"]),
)  # fmt: skip


def write_models(folder: Path) -> Path:
    entry = models.ModelEntry(models.double(), waiting_config(50))
    return models.write_repository(folder, dict.fromkeys(MODELS.values(), entry))


def answered(replica: Replica, client: str) -> float:
    return replica.process.at.metric("nv_inference_request_success", model=MODELS[client])


def shares_of_a_third(on: Scene) -> tuple[dict[str, float], dict[str, float]]:
    """Adds a replica. Gives when each kind of client reached it, in seconds, and its share of each
    kind's requests in FIRST_S after all connections that were there before are older than their
    age and each kind has reached it."""
    third = on.fleet.start()
    added = on.load.now
    reached: dict[str, float] = {}

    def counts() -> dict[str, list[float]]:
        return {
            client: [answered(replica, client) for replica in on.fleet.serving] for client in MODELS
        }

    def look(until: float) -> bool:
        for client in MODELS.keys() - reached.keys():
            if answered(third, client) > 0:
                reached[client] = on.load.now - added
        return on.load.now - added >= until

    wait_until(
        lambda: look(FIRST_S) and (reached.keys() == MODELS.keys() or look(LATEST_S)),
        "all connections to be of age",
    )
    before, begin = counts(), on.load.now - added
    wait_until(lambda: look(begin + FIRST_S), "the next ones to be of age")
    after = counts()
    shares = {}
    for client in MODELS:
        each = [late - early for early, late in zip(before[client], after[client], strict=True)]
        shares[client] = each[-1] / sum(each)
    return reached, shares


def test_clients_reach_a_third_replica_within_the_connection_age(
    report: Report, tmp_path: Path
) -> None:
    with scene(
        tmp_path,
        2,
        checks=Checks(),
        flags=("--max-connection-age", f"{AGE_S}s"),
        clients=CLIENTS,
        repository=write_models(tmp_path / "repository"),
    ) as on:
        reached, shares = shares_of_a_third(on)
    assert reached.keys() == MODELS.keys()
    notes = [
        f"{client}: reached it after {reached[client]:.1f} s, its share is {shares[client]:.0%}"
        for client in MODELS
    ]
    report.add(f"a third replica, --max-connection-age {AGE_S:.0f}s", on, *notes)
    assert on.load.failures == []
    assert max(reached.values()) <= LATEST_S
    assert min(shares.values()) >= 0.15


@pytest.mark.rollout
def test_without_a_connection_age_clients_never_reach_a_third_replica(
    report: Report, tmp_path: Path
) -> None:
    with scene(
        tmp_path,
        2,
        checks=Checks(),
        flags=("--max-connection-age", "0"),
        clients=CLIENTS,
        repository=write_models(tmp_path / "repository"),
    ) as on:
        reached, shares = shares_of_a_third(on)
    report.add("control: a third replica without a connection age", on)
    assert reached == {}
    assert set(shares.values()) == {0.0}
