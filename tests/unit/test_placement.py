"""Instance groups on made-up machines."""

import pytest
from stoker.errors import InvalidRequest
from stoker.model import InstanceGroup, InstanceKind, ModelConfig
from stoker.runtime.placement import Assignment, DeviceWish, Machine, placements, settle
from stoker.runtime.providers import GpuProbe
from stoker.runtime.session import Placement

NO_GPU = Machine(GpuProbe(0, "no driver was found"), cpus=8)
TWO_GPUS = Machine(GpuProbe(2), cpus=8)
GPU, CPU, AUTO, MODEL = InstanceKind.GPU, InstanceKind.CPU, InstanceKind.AUTO, InstanceKind.MODEL


def placed(
    machine: Machine, *groups: InstanceGroup, wish: DeviceWish = "auto", **parameters: str
) -> tuple[Placement, ...]:
    config = ModelConfig("m", 0, (), (), None, instance_groups=groups, parameters=parameters)
    return placements(config, wish, machine)


def test_without_a_gpu_one_instance_uses_all_cpus() -> None:
    assert placed(NO_GPU) == (Placement("cpu", 1, 8),)


def test_without_a_group_each_gpu_gets_one_instance() -> None:
    assert placed(TWO_GPUS) == (Placement("cuda:0", 1, 1), Placement("cuda:1", 1, 1))


def test_instances_on_the_cpu_share_its_threads() -> None:
    assert placed(NO_GPU, InstanceGroup(kind=CPU, count=3)) == (Placement("cpu", 3, 2),)


def test_a_written_thread_count_is_obeyed() -> None:
    group = InstanceGroup(kind=CPU, count=4)
    assert placed(NO_GPU, group, intra_op_thread_count="1") == (Placement("cpu", 4, 1),)


def test_groups_on_one_device_share_a_session() -> None:
    groups = (InstanceGroup(kind=GPU, count=2, gpus=(1,)), InstanceGroup(kind=GPU, count=1))
    assert placed(TWO_GPUS, *groups) == (Placement("cuda:1", 3, 1), Placement("cuda:0", 1, 1))


def test_cpu_and_gpu_groups_stand_side_by_side() -> None:
    groups = (InstanceGroup(kind=CPU), InstanceGroup(kind=GPU, gpus=(0,)))
    assert placed(TWO_GPUS, *groups) == (Placement("cpu", 1, 8), Placement("cuda:0", 1, 1))


def test_auto_goes_to_the_cpu_when_a_listed_gpu_is_not_there() -> None:
    assert placed(TWO_GPUS, InstanceGroup(kind=AUTO, gpus=(5,))) == (Placement("cpu", 1, 8),)


def test_the_wish_for_the_cpu_is_obeyed_beside_gpus() -> None:
    assert placed(TWO_GPUS, wish="cpu") == (Placement("cpu", 1, 8),)
    assert placed(TWO_GPUS, InstanceGroup(kind=MODEL), wish="cpu") == (Placement("cpu", 1, 8),)


@pytest.mark.parametrize("kind", [AUTO, GPU, MODEL])
def test_the_wish_for_a_gpu_is_never_answered_by_a_cpu(kind: InstanceKind) -> None:
    with pytest.raises(InvalidRequest, match="there is no usable GPU: no driver was found"):
        placed(NO_GPU, InstanceGroup(kind=kind), wish="gpu")


def test_a_model_written_for_the_cpu_runs_there_also_beside_gpus() -> None:
    assert placed(TWO_GPUS, InstanceGroup(kind=CPU), wish="gpu") == (Placement("cpu", 1, 8),)


def test_a_gpu_group_without_gpu_is_refused_with_the_reason() -> None:
    with pytest.raises(InvalidRequest, match="it is KIND_GPU, and there is no usable GPU: no dri"):
        placed(NO_GPU, InstanceGroup("fast", kind=GPU))


def test_a_gpu_group_under_the_wish_for_the_cpu_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="instance group 'fast' is KIND_GPU and the server"):
        placed(TWO_GPUS, InstanceGroup("fast", kind=GPU), wish="cpu")


def test_a_gpu_that_is_not_there_is_refused_by_number() -> None:
    with pytest.raises(InvalidRequest, match=r"expected GPUs out of 0\.\.1, got \[2, -1\]"):
        placed(TWO_GPUS, InstanceGroup(kind=GPU, gpus=(0, 2, -1)))


def test_a_cpu_group_with_gpus_is_a_contradiction() -> None:
    with pytest.raises(InvalidRequest, match=r"is KIND_CPU and lists GPUs \[0\]"):
        placed(TWO_GPUS, InstanceGroup(kind=CPU, gpus=(0,)))


def test_a_session_with_nodes_on_the_gpu_is_there() -> None:
    assert settle("m", "cuda:1", Assignment(5, ("Shape",)), has_text=False) == "cuda:1"


def test_a_session_without_a_node_on_the_gpu_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"none of its nodes there \(on the CPU: NonZero\)"):
        settle("m", "cuda:0", Assignment(0, ("NonZero", "NonZero")), has_text=False)


def test_a_model_of_texts_is_told_to_be_on_the_cpu() -> None:
    assert settle("m", "cuda:0", Assignment(0, ("Identity",)), has_text=True) == "cpu"


def test_shape_operators_on_the_cpu_are_not_misplaced() -> None:
    assert Assignment(3, ("Shape", "Gather", "Concat")).misplaced == ()
    assert Assignment(3, ("Shape", "Conv", "Conv", "TopK")).misplaced == ("Conv", "TopK")
