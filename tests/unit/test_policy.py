"""How a model is batched: what its file says, what was measured and what was proved of it."""

from dataclasses import replace
from pathlib import Path

import pytest
from stoker.engine.cost_curve import CostCurve
from stoker.engine.opened_version import OpenedVersion, Profile
from stoker.engine.policy import (
    EXCLUSIVE_SECONDS,
    batch_policy,
    needs_own_threads,
    splits_oversized,
    with_sustained_limit,
)
from stoker.engine.scheduler import BatchPolicy
from stoker.model import DynamicBatching, ModelConfig, ModelVersion
from stoker.runtime.independence import Independence
from stoker.runtime.session import Placement

from tests.fake_runtime import FakeRuntime

CURVE = CostCurve((rows, (2 + rows) / 1000) for rows in (1, 2, 4, 8, 16, 32, 64, 128))
SILENT = ModelConfig("m", 4, (), (), DynamicBatching())
EXPLICIT = replace(
    SILENT,
    max_batch_size=8,
    batching=DynamicBatching(preferred_batch_sizes=(4, 2), max_queue_delay_us=500),
    batching_is_explicit=True,
    batch_size_is_explicit=True,
)
SIZED = replace(SILENT, max_batch_size=8, batch_size_is_explicit=True)
INDEPENDENT, DEPENDENT = Independence.INDEPENDENT, Independence.DEPENDENT
APPROXIMATE, UNPROVEN = Independence.APPROXIMATE, Independence.UNPROVEN


def test_an_independent_model_that_configures_nothing_is_batched_up_to_its_knee() -> None:
    assert batch_policy(SILENT, INDEPENDENT, CURVE) == BatchPolicy(max_rows=16)


@pytest.mark.parametrize("verdict", [APPROXIMATE, UNPROVEN])
def test_what_is_not_proved_is_batched_to_its_advertised_size(verdict: Independence) -> None:
    assert batch_policy(SILENT, verdict, CURVE) == BatchPolicy(max_rows=4)


def test_without_a_curve_the_advertised_size_is_the_limit() -> None:
    assert batch_policy(SILENT, INDEPENDENT, CostCurve()) == BatchPolicy(max_rows=4)


def test_a_size_in_the_file_is_the_limit() -> None:
    assert batch_policy(SIZED, INDEPENDENT, CURVE) == BatchPolicy(max_rows=8)


@pytest.mark.parametrize("verdict", [INDEPENDENT, APPROXIMATE, UNPROVEN])
def test_batching_in_the_file_is_obeyed(verdict: Independence) -> None:
    assert batch_policy(EXPLICIT, verdict, CURVE) == BatchPolicy(8, (2, 4), 500e-6)


@pytest.mark.parametrize("config", [SILENT, EXPLICIT, SIZED])
def test_a_dependent_model_is_never_batched(config: ModelConfig) -> None:
    assert batch_policy(config, DEPENDENT, CURVE) == BatchPolicy(max_rows=1)
    assert not splits_oversized(config, DEPENDENT)


def test_a_model_without_batching_runs_each_request_alone() -> None:
    assert batch_policy(replace(SILENT, batching=None), INDEPENDENT, CURVE).max_rows == 1
    assert batch_policy(replace(SILENT, max_batch_size=0), INDEPENDENT, CURVE).max_rows == 1
    assert not splits_oversized(replace(SILENT, max_batch_size=0), INDEPENDENT)


def test_only_models_proved_independent_are_split_and_the_file_can_forbid_it() -> None:
    assert splits_oversized(SILENT, INDEPENDENT)
    assert not splits_oversized(SILENT, UNPROVEN)
    off = replace(SILENT, parameters={"split_oversized": "off"})
    assert not splits_oversized(off, INDEPENDENT)


def opened(
    config: ModelConfig = SILENT,
    verdict: Independence = INDEPENDENT,
    *,
    placements: tuple[Placement, ...] = (Placement("cpu", 1, 1),),
) -> OpenedVersion:
    runtime = FakeRuntime(placements=placements)
    sessions = [(each, runtime.open(Path("m.onnx"), config, each)) for each in placements]
    return OpenedVersion(ModelVersion("m", 1), config, sessions, Profile((), 4), verdict)


def limited(version: OpenedVersion, curve: CostCurve = CURVE) -> BatchPolicy:
    policy = batch_policy(version.config, version.independence, curve)
    return with_sustained_limit(policy, version, curve)


def test_what_is_batched_up_to_its_knee_has_a_larger_limit_where_a_backlog_lasts() -> None:
    assert limited(opened()) == BatchPolicy(16, sustained_rows=64)


def test_the_backlog_is_looked_at_for_all_instances() -> None:
    two = (Placement("cpu", 2, 1), Placement("cpu", 1, 1))
    assert limited(opened(placements=two)).instances == 3


@pytest.mark.parametrize(
    "version",
    [
        opened(EXPLICIT),
        opened(SIZED),
        opened(verdict=DEPENDENT),
        opened(verdict=APPROXIMATE),
        opened(verdict=UNPROVEN),
        opened(replace(SILENT, batching=None)),
        opened(replace(SILENT, max_batch_size=0)),
        opened(placements=(Placement("cuda:0", 1, 1),)),
        opened(placements=(Placement("cpu", 1, 1), Placement("cuda:0", 1, 1))),
        opened(replace(SILENT, parameters={"batch_buckets": "1,4,16"})),
    ],
    ids=[
        "batching in the file",
        "a size in the file",
        "dependent",
        "approximate",
        "unproven",
        "no batching",
        "no batch dimension",
        "a GPU",
        "a GPU as well",
        "buckets in the file",
    ],
)
def test_there_is_one_limit_where_it_was_chosen_or_sizes_are_prepared(
    version: OpenedVersion,
) -> None:
    policy = batch_policy(version.config, version.independence, CURVE)
    assert limited(version) == policy
    assert policy.most_rows == policy.max_rows


def test_there_is_one_limit_where_nothing_is_gained_or_known() -> None:
    assert limited(opened(), CostCurve()).sustained_rows == 0
    even = CostCurve((rows, rows / 1000) for rows in (1, 2, 4, 8))
    assert limited(opened(), even) == BatchPolicy(1)


def test_buckets_that_are_off_forbid_nothing() -> None:
    off = replace(SILENT, parameters={"batch_buckets": "off"})
    assert limited(opened(off)).most_rows == 64


def test_a_model_that_shares_a_thread_keeps_within_its_turn() -> None:
    short = CostCurve((rows, (20 + 10 * rows) / 1e6) for rows in (1, 2, 4, 8, 16, 32, 64, 128))
    policy = limited(opened(), short)
    assert (policy.max_rows, policy.sustained_rows) == (16, 64)  # 660 us; 128 rows take 1.3 ms
    slower = CostCurve((rows, (40 + 20 * rows) / 1e6) for rows in (1, 2, 4, 8, 16, 32, 64, 128))
    policy = limited(opened(), slower)
    assert (policy.max_rows, policy.sustained_rows) == (16, 32)  # 680 us; 64 rows take 1.3 ms
    assert not needs_own_threads(slower, policy, "cpu")


def test_a_short_run_shares_the_thread_of_its_device() -> None:
    short = CostCurve([(1, EXCLUSIVE_SECONDS / 4), (8, EXCLUSIVE_SECONDS / 2)])
    assert not needs_own_threads(short, BatchPolicy(8), "cpu")
    assert needs_own_threads(CURVE, BatchPolicy(8), "cpu")
    assert needs_own_threads(CostCurve(), BatchPolicy(8), "cpu")
    assert needs_own_threads(short, BatchPolicy(8), "cuda:0")
