"""CUDA graphs, one for each bucket: equality, memory, and the rule of one thread."""

import pytest

from tests.gpu.child import BUCKETS, ChildResult, run_child
from tests.gpu.conftest import Record

pytestmark = pytest.mark.gpu

ALLOWED = 1e-5


@pytest.fixture(scope="module")
def result() -> ChildResult:
    """In a process of its own: a wrong capture ends it. Runs after `gpu` had its say."""
    return run_child("graphs")


def test_a_graph_for_each_bucket_gives_what_a_plain_run_gives(
    request: pytest.FixtureRequest, record_property: Record
) -> None:
    result: ChildResult = request.getfixturevalue("result")

    for name, value in result.facts.items():
        record_property(name, value)
    assert result.code == 0, result
    buckets = result.facts["buckets"]
    assert sorted(map(int, buckets)) == sorted(BUCKETS)
    for found in buckets.values():
        assert max(found["captured"], found["replayed"], found["uncaptured"]) <= ALLOWED
    assert result.facts["first_again"] <= ALLOWED


def test_a_run_on_another_thread_is_right_or_refused(
    request: pytest.FixtureRequest, record_property: Record
) -> None:
    """Fact 11 of the reference: it may capture anew, and cost time and memory; never be wrong."""
    result: ChildResult = request.getfixturevalue("result")

    assert result.code == 0, result
    other = result.facts["other_thread"]
    for name, value in other.items():
        record_property(name, value)
    assert "error" in other or other["distance"] <= ALLOWED
