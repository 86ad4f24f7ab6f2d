"""The checks on hardware that run in a process of their own, as far as they go without a GPU."""

from pathlib import Path

import pytest

from tests.driver_stubs import CUDART, build
from tests.gpu import checks
from tests.gpu.child import BUCKETS, CHILDREN, graph_facts, run_child
from tests.gpu.cudart import Cudart

pytestmark = pytest.mark.slow  # each starts a process, or many runs


def test_a_hidden_gpu_is_refused() -> None:
    result = run_child("hidden_gpu", {"CUDA_VISIBLE_DEVICES": ""})

    assert result.code == 0
    assert result.facts["refused"]
    assert "there is no usable GPU" in result.facts["server"]


@pytest.mark.parametrize("name", sorted(set(CHILDREN) - {"hidden_gpu"}))
def test_a_child_that_cannot_do_its_check_says_why_and_ends_with_1(name: str) -> None:
    if checks.CUDA in checks.runtime().get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")

    result = run_child(name)

    assert result.code == 1
    assert set(result.facts) == {"error"}


def test_the_steps_of_the_check_of_graphs_agree_with_a_plain_run(tmp_path: Path) -> None:
    """With the CPU's memory and no graphs: what is left are the steps."""
    cuda = Cudart(str(build(tmp_path, CUDART) / CUDART))

    facts = graph_facts(tmp_path, "cpu", cuda)

    assert sorted(map(int, facts["buckets"])) == sorted(BUCKETS)
    for found in facts["buckets"].values():
        assert found["captured"] == found["replayed"] == found["uncaptured"] == 0
        assert found["bytes"] == 0
    assert facts["first_again"] == facts["other_thread"]["distance"] == 0
