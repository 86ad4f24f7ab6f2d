"""What a load makes of a model that asks for a faster way, and what `stoker check` says of it."""

from pathlib import Path

import pytest
from stoker.engine.opened_version import FasterWay, RefusedWay
from stoker.errors import InvalidRequest
from stoker.lifecycle.opening import ModelDefinition, Opener
from stoker.model import ModelConfig
from stoker.repository.local import scan
from stoker.runtime.candidate import Candidate, CandidateRefused
from stoker.runtime.session import Session

from tests.fake_candidate import FakeCandidate
from tests.fake_runtime import FakeRuntime
from tests.models import ModelEntry, double, write_repository


class Asked(FakeRuntime):
    """Gives a candidate, or an error, and notes what it was asked."""

    def __init__(self, given: Candidate | Exception | None) -> None:
        super().__init__()
        self.given = given
        self.asked: list[tuple[Path, Path, int]] = []

    def candidate(
        self, path: Path, folder: Path, config: ModelConfig, session: Session, *, max_rows: int
    ) -> Candidate | None:
        self.asked.append((path, folder, max_rows))
        if isinstance(self.given, Exception):
            raise self.given
        return self.given


def definition(folder: Path) -> ModelDefinition:
    entry = ModelEntry(double(), "max_batch_size: 8")
    repository = scan([write_repository(folder, {"m": entry})], default_max_batch_size=4)
    return repository.models["m"]


def opened(runtime: Asked, folder: Path) -> FasterWay | RefusedWay | None:
    return Opener(runtime, profile_seconds=0).open(definition(folder), 1).faster


def test_a_model_that_asks_for_nothing_has_no_faster_way(tmp_path: Path) -> None:
    assert opened(Asked(None), tmp_path) is None


def test_the_candidate_is_asked_for_by_file_folder_and_largest_batch(tmp_path: Path) -> None:
    runtime = Asked(None)
    opened(runtime, tmp_path)
    assert runtime.asked == [(tmp_path / "m" / "1" / "model.onnx", tmp_path / "m", 8)]


def test_what_is_served_is_recorded_at_the_candidates_corners_in_the_thread_of_the_load(
    tmp_path: Path,
) -> None:
    candidate = FakeCandidate(most_rows=8)
    way = opened(Asked(candidate), tmp_path)
    assert isinstance(way, FasterWay)
    assert way.candidate is candidate
    assert sorted({run.outputs["y"].shape for run in way.record.runs}) == [(1, 4), (8, 4)]
    assert not candidate.builders


def test_a_refused_candidate_costs_the_model_nothing_and_check_warns_of_it(
    tmp_path: Path,
) -> None:
    runtime = Asked(CandidateRefused("TensorRT", "declare the sizes of sequence"))
    assert opened(runtime, tmp_path) == RefusedWay("TensorRT", "declare the sizes of sequence")
    found = Opener(runtime, profile_seconds=0).inspect(definition(tmp_path), 1)
    assert found.config is not None
    assert "TensorRT: declare the sizes of sequence" in found.warnings


def test_a_wrong_parameter_fails_the_load_and_leaves_no_session_open(tmp_path: Path) -> None:
    runtime = Asked(InvalidRequest("parameter 'trt_fp16' is unknown"))
    with pytest.raises(InvalidRequest, match="trt_fp16"):
        opened(runtime, tmp_path)
    assert [session.closed for session in runtime.sessions] == [True]
    found = Opener(runtime, profile_seconds=0).inspect(definition(tmp_path), 1)
    assert "parameter 'trt_fp16' is unknown" in found.problems
    assert all(session.closed for session in runtime.sessions)
