"""What a model asks to be prepared once it serves, and the answers that it must agree with.

Part of a load: the candidate is made, and what it will be compared with is recorded in the thread
that opened the sessions, before anybody else runs them. A refusal costs the model nothing but the
candidate.
"""

from pathlib import Path

from stoker.engine.cost_curve import CostCurve
from stoker.engine.opened_version import FasterWay, Profile, RefusedWay
from stoker.engine.policy import batch_policy
from stoker.errors import InvalidRequest
from stoker.model import ModelConfig
from stoker.runtime.agreement import record
from stoker.runtime.candidate import CandidateRefused
from stoker.runtime.independence import Independence
from stoker.runtime.session import Runtime, Session


def largest_batch(config: ModelConfig, independence: Independence, profile: Profile) -> int:
    """The most rows that one run of the version may have."""
    policy = batch_policy(config, independence, CostCurve(profile.costs))
    return max(1, config.max_batch_size, policy.max_rows)


def faster_way(
    runtime: Runtime, path: Path, folder: Path, config: ModelConfig, session: Session, max_rows: int
) -> FasterWay | RefusedWay | None:
    """The candidate of a model that is open as `session`, or why it has none; None where none is
    asked for. Raises InvalidRequest for a configuration that asks for what is unknown."""
    try:
        found = runtime.candidate(path, folder, config, session, max_rows=max_rows)
    except CandidateRefused as error:
        return RefusedWay(error.title, error.message)
    if found is None:
        return None
    try:
        return FasterWay(found, record(session, config, folder, found.corners()))
    except InvalidRequest as error:
        return RefusedWay(found.title, error.message)
