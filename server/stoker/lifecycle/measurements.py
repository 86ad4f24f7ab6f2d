"""What a load finds out by running the model: whether its rows are independent, what runs cost.

The order, and who else may work meanwhile, are `opening.py`'s.
"""

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from math import prod
from pathlib import Path
from typing import Final

from stoker.device import CPU
from stoker.engine.load_watch import NextRun
from stoker.engine.opened_version import Profile
from stoker.engine.policy import KNEE_LIMIT
from stoker.lifecycle.watched_session import WatchedSession
from stoker.model import ModelConfig, ModelVersion
from stoker.runtime.independence import Independence, prove
from stoker.runtime.overlap import measure_overlap
from stoker.runtime.profile import measure
from stoker.runtime.rows import find
from stoker.runtime.session import Placement, Session
from stoker.runtime.warmup import samples, zeros
from stoker.telemetry.log import event

logger: Final = logging.getLogger(__name__)


def prove_rows(
    identity: ModelVersion, session: Session, config: ModelConfig, folder: Path
) -> Independence:
    """Whether rows of different requests may share a batch, which the log tells as well."""
    verdict = prove(session, config, folder)
    event(
        logger,
        "batching_proof",
        f"{identity}: {verdict}",
        level=logging.WARNING if verdict.is_doubt else logging.DEBUG,
        model=identity.name,
        version=identity.version,
        verdict=verdict.independence.value,
        difference=verdict.difference,
    )
    return verdict.independence


def measure_costs(
    sessions: Sequence[tuple[Placement, Session]],
    config: ModelConfig,
    independence: Independence,
    folder: Path,
    *,
    budget_s: float,
    next_run: NextRun = lambda: None,
) -> Profile:
    """What runs of the first session cost by their rows, and how many runs its device does at once.
    `budget_s` 0 measures nothing. `next_run` is called between runs."""

    def begins() -> AbstractContextManager[None]:
        next_run()
        return nullcontext()

    def clock() -> float:  # looked at before and after each run that is timed
        next_run()
        return time.perf_counter()

    _, session = sessions[0]
    watched = WatchedSession(session, begins)
    source = find(watched, config, samples(config, session, folder))
    if source is not None:
        elements = sum(prod(item) for _, item in source.items.values())
    else:
        elements = sum(array.size for array in zeros(config, session, 1).values())
    if budget_s <= 0:
        return Profile((), elements)
    max_rows = max(1, config.max_batch_size)
    if independence is Independence.INDEPENDENT and not config.batch_size_is_explicit:
        max_rows = max(max_rows, KNEE_LIMIT)
    costs = measure(
        session,
        config,
        max_rows=max_rows,
        budget_s=budget_s,
        clock=clock,
        source=source,
        fills_up=session.device != CPU,
    )
    if source is None or not costs:
        return Profile(costs, elements)
    rows, seconds = costs[-1]
    overlap = measure_overlap(
        [
            each
            for placement, each in sessions
            if each.device == session.device
            for _ in range(placement.instances)
        ],
        source.feeds(rows),
        [output.name for output in config.outputs],
        alone_s=seconds,
        clock=clock,
    )
    return Profile(costs, elements, overlap)


def log_profile(identity: ModelVersion, profile: Profile) -> None:
    """Tells the cost curve of one version."""
    event(
        logger,
        "cost_curve",
        f"what a run of {identity} costs by its rows",
        level=logging.DEBUG,
        model=identity.name,
        version=identity.version,
        costs=tuple(f"{rows} rows {seconds * 1e3:.3f} ms" for rows, seconds in profile.costs),
        overlap=profile.overlap,
    )
