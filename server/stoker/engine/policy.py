"""From a model's configuration and what was measured of it to how it is batched. Pure.

Source: design, section "Batching", "Limits" and "Proof of independence".
"""

import math
from dataclasses import replace
from typing import Final

from stoker.device import CPU
from stoker.engine.cost_curve import CostCurve
from stoker.engine.opened_version import OpenedVersion
from stoker.engine.plan import parameter_is_off
from stoker.engine.scheduler import BatchPolicy
from stoker.model import ModelConfig
from stoker.runtime.buckets import buckets
from stoker.runtime.independence import Independence

KNEE_LIMIT: Final = 128
"""Rows: beyond it a batch's latency grows and no measured model gains."""

EXCLUSIVE_SECONDS: Final = 0.001
"""A model whose run holds its device for more than this owns a thread per instance."""


def batch_policy(config: ModelConfig, verdict: Independence, curve: CostCurve) -> BatchPolicy:
    """How requests of this model become batches.

    max_rows 1 means that every request runs alone, whatever rows it has.
    """
    batching = config.batching
    if not config.batches or batching is None or verdict is Independence.DEPENDENT:
        return BatchPolicy(max_rows=1)
    if config.batching_is_explicit:
        return BatchPolicy(
            max_rows=config.max_batch_size,
            preferred_rows=tuple(sorted(batching.preferred_batch_sizes)),
            max_delay=batching.max_queue_delay_us / 1e6,
        )
    if _follows_curve(config, verdict, curve):
        return BatchPolicy(max_rows=curve.knee(KNEE_LIMIT))
    return BatchPolicy(max_rows=config.max_batch_size)


def with_sustained_limit(
    policy: BatchPolicy, opened: OpenedVersion, curve: CostCurve
) -> BatchPolicy:
    """The policy with a larger limit for a backlog that lasts, where the curve shows one.

    None where the file sets a limit, nor where batches are filled up to sizes that exist before the
    model serves: on a GPU, and where the file writes buckets. A model that shares its device's
    thread keeps within its turn.
    """
    config, sessions = opened.config, opened.sessions
    if (
        not _follows_curve(config, opened.independence, curve)
        or any(session.device != CPU for _, session in sessions)
        or buckets(config, policy.max_rows, on_gpu=False).sizes
    ):
        return policy
    longest_s = math.inf if needs_own_threads(curve, policy, CPU) else EXCLUSIVE_SECONDS
    rows = curve.sustained(KNEE_LIMIT, longest_s)
    if rows <= policy.max_rows:
        return policy
    instances = sum(placement.instances for placement, _ in sessions)
    return replace(policy, sustained_rows=rows, instances=instances)


def _follows_curve(config: ModelConfig, verdict: Independence, curve: CostCurve) -> bool:
    """Whether the batch limits follow from the cost curve alone."""
    return (
        config.batches
        and config.batching is not None
        and verdict is Independence.INDEPENDENT
        and not config.batching_is_explicit
        and not config.batch_size_is_explicit
        and curve.is_measured
    )


def splits_oversized(config: ModelConfig, verdict: Independence) -> bool:
    """Whether requests of more rows than max_batch_size are run in parts."""
    return (
        config.batches
        and verdict in (Independence.INDEPENDENT, Independence.APPROXIMATE)
        and not parameter_is_off(config.parameters, "split_oversized")
    )


def needs_own_threads(curve: CostCurve, policy: BatchPolicy, device: str) -> bool:
    """Whether the model's instances get a thread each, instead of sharing the device's one."""
    seconds = curve.seconds(policy.max_rows)
    return device != "cpu" or seconds is None or seconds > EXCLUSIVE_SECONDS
