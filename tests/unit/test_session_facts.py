"""What clients are told of the options that ONNX Runtime stores: no address of this process."""

from pathlib import Path
from typing import Any

from stoker.device import DeviceReport
from stoker.runtime.onnx import library
from stoker.runtime.providers import CPU_PROVIDER, CUDA_PROVIDER
from stoker.runtime.session_facts import assignment_of, report_of, reread, stored_options

from tests import models


class Stores:
    """A session of the CUDA provider as far as its options go."""

    def __init__(self, **options: str) -> None:
        self._options = options

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {CUDA_PROVIDER: self._options, CPU_PROVIDER: {}}


def test_addresses_are_told_to_be_set_and_not_where() -> None:
    session = Stores(user_compute_stream="94023155", gpu_external_alloc="0", use_tf32="1")
    assert stored_options(session, CUDA_PROVIDER) == {
        "user_compute_stream": "set",
        "gpu_external_alloc": "0",
        "use_tf32": "1",
    }
    assert stored_options(session, CPU_PROVIDER) == {}
    assert stored_options(session, "TensorrtExecutionProvider") == {}


def test_paths_of_engines_and_plug_ins_are_told_to_be_set_and_not_where() -> None:
    session = Stores(
        trt_engine_cache_path="/var/cache/stoker/x",
        trt_timing_cache_path="",
        trt_extra_plugin_lib_paths="/opt/plugin.so",
    )
    assert stored_options(session, CUDA_PROVIDER) == {
        "trt_engine_cache_path": "set",
        "trt_timing_cache_path": "",
        "trt_extra_plugin_lib_paths": "set",
    }


def test_a_session_in_anothers_place_is_told_by_its_own_options() -> None:
    before = DeviceReport(
        "cuda:0", "cuda:0", CUDA_PROVIDER, {CUDA_PROVIDER: 3}, options={"enable_cuda_graph": "1"}
    )
    after = reread(before, Stores(enable_cuda_graph="0"))
    assert after.options == {"enable_cuda_graph": "0"}
    assert after.nodes == before.nodes


def test_a_session_on_the_cpu_is_read_from_onnx_runtime_itself(tmp_path: Path) -> None:
    path = models.write_model(tmp_path / "model.onnx", models.double())
    ort: Any = library()
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(str(path), options, providers=[CPU_PROVIDER])
    assignment = assignment_of(session, path)
    assert assignment.operators == {CPU_PROVIDER: ("Add",)}
    assert report_of(session, assignment, "cpu", "cpu", CPU_PROVIDER) == DeviceReport(
        provider=CPU_PROVIDER, nodes={CPU_PROVIDER: 1}
    )
