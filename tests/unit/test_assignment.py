"""Nodes that ONNX Runtime assigned, and what becomes of a session by them."""

import pytest
from stoker.device import DeviceReport
from stoker.errors import InvalidRequest
from stoker.model import ModelConfig
from stoker.runtime.assignment import Assignment, placement_doubt, settle
from stoker.runtime.node_data import AssignedNode, NodeData
from stoker.runtime.providers import CPU_PROVIDER, CUDA_PROVIDER


def config(**parameters: str) -> ModelConfig:
    return ModelConfig("m", 0, (), (), None, parameters=parameters)


def assigned(on_gpu: int, *on_cpu: str) -> Assignment:
    return Assignment.of(
        [(CUDA_PROVIDER, nodes(*["Relu"] * on_gpu)), (CPU_PROVIDER, nodes(*on_cpu))]
    )


def nodes(*operators: str) -> list[AssignedNode]:
    return [AssignedNode(each) for each in operators]


def report(
    on_gpu: int, *computing: str, shapes: int = 0, copies: int | None = None
) -> DeviceReport:
    nodes = {CUDA_PROVIDER: on_gpu, CPU_PROVIDER: len(computing) + shapes}
    return DeviceReport("cuda:0", "cuda:0", CUDA_PROVIDER, nodes, computing, copies)


def test_parts_of_one_provider_are_added_up() -> None:
    parts = [
        (CUDA_PROVIDER, nodes("Relu")),
        (CPU_PROVIDER, nodes("Shape")),
        (CUDA_PROVIDER, nodes("Conv")),
    ]
    found = Assignment.of(parts)
    assert found.nodes == {CUDA_PROVIDER: 2, CPU_PROVIDER: 1}
    assert (found.on_gpu, found.on_cpu) == (2, ("Shape",))


def test_a_session_with_nodes_on_the_gpu_is_there() -> None:
    assert settle(config(), "cuda:1", assigned(5, "Shape"), has_text=False) == "cuda:1"


def test_a_session_without_a_node_on_the_gpu_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"none of its nodes there \(on the CPU: NonZero\)"):
        settle(config(), "cuda:0", assigned(0, "NonZero", "NonZero"), has_text=False)


def test_a_model_of_texts_is_told_to_be_on_the_cpu() -> None:
    assert settle(config(), "cuda:0", assigned(0, "Identity"), has_text=True) == "cpu"


def test_shape_operators_on_the_cpu_do_not_compute() -> None:
    assert assigned(3, "Shape", "Gather", "Concat").computing_on_cpu == ()
    assert assigned(3, "Shape", "TopK", "Conv", "Conv").computing_on_cpu == ("Conv", "Conv", "TopK")


def test_a_shape_operator_that_works_on_data_computes() -> None:
    data = NodeData({"sum": True, "index": False})
    on_cpu = [AssignedNode("Add", "sum"), AssignedNode("Add", "index"), AssignedNode("TopK", "t")]
    parts = [(CUDA_PROVIDER, nodes("Relu")), (CPU_PROVIDER, on_cpu)]
    assert Assignment.of(parts, lambda: data).computing_on_cpu == ("Add", "TopK")
    unreadable = Assignment.of(parts, lambda: None)
    assert unreadable.computing_on_cpu == ("TopK",)


def test_the_models_file_is_read_only_where_it_decides_something() -> None:
    def never() -> NodeData:
        raise AssertionError("the file was read")

    Assignment.of([(CUDA_PROVIDER, nodes("Relu")), (CPU_PROVIDER, nodes("TopK"))], never)
    Assignment.of([(CPU_PROVIDER, nodes("Add"))], never)


def test_strict_placement_refuses_what_computes_on_the_cpu_and_no_shapes() -> None:
    strict = config(strict_placement="1")
    assert settle(strict, "cuda:0", assigned(5, "Shape"), has_text=False) == "cuda:0"
    with pytest.raises(InvalidRequest, match="m' on cuda:0: TopK would compute on the CPU"):
        settle(strict, "cuda:0", assigned(5, "TopK", "TopK"), has_text=False)


def test_the_share_on_the_cpu_counts_what_computes_there() -> None:
    assert report(18, "TopK", shapes=1).cpu_share == 0.05
    assert report(5, shapes=5).cpu_share == 0.0
    assert DeviceReport().cpu_share == 0.0


def test_a_doubt_begins_above_the_share() -> None:
    assert placement_doubt(report(19, "TopK"), 0.05) is None
    doubt = placement_doubt(report(18, "TopK", "Unique", copies=4), 0.05)
    assert doubt == (
        "on cuda:0, 2 of 20 nodes compute on the CPU (TopK, Unique), with 4 copies between CPU and "
        "GPU in each run; each such place stops the GPU until the CPU has its answer"
    )
    assert "copies" not in (placement_doubt(report(1, "TopK"), 0.05) or "copies")


def test_a_session_on_the_cpu_that_asked_for_a_gpu_is_always_doubted() -> None:
    text = DeviceReport("cuda:0", "cpu", CPU_PROVIDER, {CPU_PROVIDER: 3})
    assert "asked for cuda:0 and runs on the CPU" in (placement_doubt(text, 1.0) or "")
    assert placement_doubt(DeviceReport(nodes={CPU_PROVIDER: 3}), 0.0) is None
