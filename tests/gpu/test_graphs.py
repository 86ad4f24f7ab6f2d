"""CUDA graphs, one for each bucket: equality, memory, and the rule of one thread."""

import pytest

from tests.gpu.child import BUCKETS, run_child
from tests.gpu.conftest import Record

pytestmark = pytest.mark.gpu

ALLOWED = 1e-5


def test_a_graph_for_each_bucket_gives_what_a_plain_run_gives(record_property: Record) -> None:
    result = run_child("graphs")  # a wrong capture ends the process

    for name, value in result.facts.items():
        record_property(name, value)
    assert result.code == 0, result
    buckets = result.facts["buckets"]
    assert sorted(map(int, buckets)) == sorted(BUCKETS)
    for found in buckets.values():
        assert max(found["captured"], found["replayed"], found["uncaptured"]) <= ALLOWED
    assert result.facts["first_again"] <= ALLOWED


def test_a_run_on_another_thread_is_right_or_refused(record_property: Record) -> None:
    """Fact 11 of the reference: it may capture anew, and cost time and memory; never be wrong."""
    result = run_child("graphs")

    other = result.facts["other_thread"]
    for name, value in other.items():
        record_property(name, value)
    assert "error" in other or other["distance"] <= ALLOWED
