"""The truth about a session, as JSON and in words."""

from stoker.device import DeviceReport

ON_GPU = DeviceReport(
    requested="cuda:1",
    device="cuda:1",
    provider="CUDAExecutionProvider",
    nodes={"CUDAExecutionProvider": 7, "CPUExecutionProvider": 3},
    computing_on_cpu=("TopK", "TopK", "Unique"),
    memcpy_nodes=4,
    options={"use_tf32": "0", "device_id": "1"},
    device_name="NVIDIA L4",
    compute_capability="8.9",
    memory_bytes=24 << 30,
)


def test_a_session_on_a_gpu_tells_everything() -> None:
    assert ON_GPU.facts() == {
        "requested": "cuda:1",
        "device": "cuda:1",
        "provider": "CUDAExecutionProvider",
        "nodes": {"CUDAExecutionProvider": 7, "CPUExecutionProvider": 3},
        "computing_on_cpu": ["TopK", "Unique"],
        "memcpy_nodes": 4,
        "options": {"device_id": "1", "use_tf32": "0"},
        "device_name": "NVIDIA L4",
        "compute_capability": "8.9",
        "memory_bytes": 24 << 30,
    }


def test_what_is_unknown_is_left_out_and_zero_copies_are_told() -> None:
    bare = DeviceReport("cuda:0", "cuda:0", "CUDAExecutionProvider")
    assert {"memcpy_nodes", "device_name", "memory_bytes"}.isdisjoint(bare.facts())
    counted = DeviceReport("cuda:0", "cuda:0", "CUDAExecutionProvider", memcpy_nodes=0)
    assert counted.facts()["memcpy_nodes"] == 0


def test_a_session_on_the_cpu_has_no_facts_of_a_gpu() -> None:
    on_cpu = DeviceReport(provider="CPUExecutionProvider", nodes={"CPUExecutionProvider": 2})
    assert on_cpu.facts() == {
        "requested": "cpu",
        "device": "cpu",
        "provider": "CPUExecutionProvider",
        "nodes": {"CPUExecutionProvider": 2},
    }
    assert str(on_cpu) == "cpu"


def test_words_name_device_nodes_and_copies() -> None:
    assert str(ON_GPU) == (
        "cuda:1 NVIDIA L4 (10 nodes, 3 computing on the CPU: TopK, Unique; 4 copies between CPU "
        "and GPU)"
    )
    assert str(DeviceReport("cuda:0", "cuda:0", nodes={"CUDAExecutionProvider": 1})) == (
        "cuda:0 (1 node)"
    )
