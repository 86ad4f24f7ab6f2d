"""Instance groups on made-up machines."""

import pytest
from stoker.errors import InvalidRequest
from stoker.model import InstanceGroup, InstanceKind, ModelConfig
from stoker.runtime.placement import (
    DeviceWish,
    GpuPlacement,
    Machine,
    asks_for_spread,
    placements,
    spread,
)
from stoker.runtime.session import Placement

NO_GPU = Machine(0, 8, "no driver was found")
TWO_GPUS = Machine(2, 8)
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


def test_each_instance_on_a_gpu_is_a_session_of_its_own() -> None:
    groups = (InstanceGroup(kind=GPU, count=2, gpus=(1,)), InstanceGroup(kind=GPU, count=1))
    placed_there = placed(TWO_GPUS, *groups)
    assert [each.device for each in placed_there] == ["cuda:1", "cuda:1", "cuda:0", "cuda:1"]
    assert all(each.instances == 1 for each in placed_there)


def test_groups_on_the_cpu_share_a_session() -> None:
    groups = (InstanceGroup(kind=CPU, count=2), InstanceGroup(kind=CPU))
    assert placed(TWO_GPUS, *groups) == (Placement("cpu", 3, 2),)


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


def test_a_group_without_gpus_goes_to_those_that_were_chosen() -> None:
    config = ModelConfig("m", 0, (), (), None, instance_groups=(InstanceGroup(kind=GPU, count=2),))
    chosen = placements(config, "auto", TWO_GPUS, (1,))
    assert [each.device for each in chosen] == ["cuda:1", "cuda:1"]


def test_named_gpus_are_kept_whatever_was_chosen() -> None:
    config = ModelConfig("m", 0, (), (), None, instance_groups=(InstanceGroup(gpus=(0,)),))
    assert placements(config, "auto", TWO_GPUS, (1,)) == (Placement("cuda:0", 1, 1),)


@pytest.mark.parametrize(
    ("group", "wish", "asks"),
    [
        (InstanceGroup(), "auto", True),
        (InstanceGroup(kind=GPU), "auto", True),
        (InstanceGroup(kind=GPU, gpus=(0,)), "auto", False),
        (InstanceGroup(kind=CPU), "gpu", False),
        (InstanceGroup(), "cpu", False),
    ],
)
def test_only_models_that_name_no_gpu_take_a_turn(
    group: InstanceGroup, wish: DeviceWish, asks: bool
) -> None:
    config = ModelConfig("m", 0, (), (), None, instance_groups=(group,))
    assert asks_for_spread(config, wish, TWO_GPUS) is asks
    assert not asks_for_spread(config, wish, Machine(1, 8))


def test_each_puts_a_model_on_every_gpu() -> None:
    assert spread("each", 3, turn=1) == (0, 1, 2)
    assert spread("each", 0) == ()


def test_round_robin_gives_models_the_gpus_in_turn() -> None:
    assert [spread("round-robin", 3, turn=turn) for turn in range(4)] == [(0,), (1,), (2,), (0,)]


def test_free_memory_chooses_the_emptiest_gpu() -> None:
    assert spread("free-memory", 3, turn=0, free=(5, 9, 7)) == (1,)


def test_gpus_with_fewer_loads_under_way_come_first() -> None:
    assert spread("free-memory", 3, free=(5, 9, 7), loading=(0, 1, 0)) == (2,)
    assert spread("free-memory", 3, free=(5, 9, 7), loading=(1, 1, 1)) == (1,)


def test_equally_free_gpus_take_turns() -> None:
    assert [spread("free-memory", 2, turn=turn, free=(4, 4)) for turn in range(3)] == [
        (0,),
        (1,),
        (0,),
    ]


@pytest.mark.parametrize("free", [(), (None, None), (9, None)])
def test_gpus_take_turns_where_free_memory_is_unknown(free: tuple[int | None, ...]) -> None:
    assert [spread("free-memory", 2, turn=turn, free=free) for turn in range(2)] == [(0,), (1,)]


@pytest.mark.parametrize("policy", ["round-robin", "free-memory"])
def test_the_only_gpu_is_always_the_one(policy: GpuPlacement) -> None:
    assert spread(policy, 1, turn=5, free=(1,)) == (0,)
