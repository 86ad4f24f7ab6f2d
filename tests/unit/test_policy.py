"""How a model is batched: what its file says, what was measured and what was proved of it."""

from dataclasses import replace

import pytest
from stoker.engine.cost_curve import CostCurve
from stoker.engine.policy import (
    EXCLUSIVE_SECONDS,
    batch_policy,
    needs_own_threads,
    splits_oversized,
)
from stoker.engine.scheduler import BatchPolicy
from stoker.model import DynamicBatching, ModelConfig
from stoker.runtime.independence import Independence

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


def test_a_short_run_shares_the_thread_of_its_device() -> None:
    short = CostCurve([(1, EXCLUSIVE_SECONDS / 4), (8, EXCLUSIVE_SECONDS / 2)])
    assert not needs_own_threads(short, BatchPolicy(8), "cpu")
    assert needs_own_threads(CURVE, BatchPolicy(8), "cpu")
    assert needs_own_threads(CostCurve(), BatchPolicy(8), "cpu")
    assert needs_own_threads(short, BatchPolicy(8), "cuda:0")
