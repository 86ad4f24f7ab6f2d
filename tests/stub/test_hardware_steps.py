"""The checks for the first GPU call the CUDA provider as it wants to be called."""

import json
from typing import Any

import pytest
from stoker.runtime.providers import CUDA_PROVIDER

from tests.stub.libraries import ONE_GPU, Libraries, run_python


@pytest.fixture(scope="module")
def found(libraries: Libraries) -> dict[str, Any]:
    environment = {**libraries.preloaded(runtime=True), **ONE_GPU, "STUB_CUDA_GRAPHS": "1"}
    done = run_python("-m", "tests.stub.step_probe", environment=environment)
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


def test_nodes_are_found_on_the_provider(found: dict[str, Any]) -> None:
    assert found["operators"] == {CUDA_PROVIDER: {"Identity": 1}}


def test_a_bound_host_array_is_copied_when_it_is_bound(found: dict[str, Any]) -> None:
    assert found["sees_changes"] is False


def test_fixed_buffers_on_our_stream_bring_the_rows_through(found: dict[str, Any]) -> None:
    assert found["fixed_is_equal"] is True


def test_a_graph_is_replayed_with_other_rows_and_left_out_where_it_is_not_wanted(
    found: dict[str, Any],
) -> None:
    assert (found["replay_is_equal"], found["uncaptured_is_equal"]) == (True, True)


def test_a_full_arena_is_read_as_out_of_memory(found: dict[str, Any]) -> None:
    assert (found["full_run"], found["full_binding"]) == ("memory", "memory")


def test_a_live_device_is_told_as_such(found: dict[str, Any]) -> None:
    assert found["query"] == 0
