"""Everyone can see where a model really runs: clients, scrapers, the log."""

import json
import logging
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton_grpc  # type: ignore[import-untyped]  # ships no types
import tritonclient.http as triton_http  # type: ignore[import-untyped]  # ships no types
from stoker.device import DeviceReport
from stoker.runtime.onnx import OnnxRuntime
from stoker.runtime.session import Placement

from tests import models
from tests.calls import RestClient, rows
from tests.conftest import FREE_PORTS, RunningServer, Serving
from tests.fake_runtime import FakeModel, FakeRuntime

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
PARTLY = DeviceReport(
    requested="cuda:0",
    device="cuda:0",
    provider=CUDA,
    nodes={CUDA: 8, CPU: 2},
    computing_on_cpu=("TopK", "Unique"),
    memcpy_nodes=4,
    options={"device_id": "0", "use_tf32": "0"},
    device_name="NVIDIA L4",
    compute_capability="8.9",
    memory_bytes=24 << 30,
)


@pytest.fixture
def on_a_gpu(serve: Serving, tmp_path: Path) -> RunningServer:
    """A model with two instances on a GPU, of which two nodes of ten compute on the CPU."""
    instance = Placement("cuda:0", 1, 1)
    runtime = FakeRuntime(FakeModel(report=PARTLY), placements=(instance, instance))
    return serve(models.write_repository(tmp_path, {"m": models.double()}), runtime=runtime)


def get(server: RunningServer, path: str) -> Any:
    with urllib.request.urlopen(server.at.url + path, timeout=30) as response:
        return json.load(response)


def test_rest_metadata_tell_where_each_session_runs(on_a_gpu: RunningServer) -> None:
    (first, second) = get(on_a_gpu, "/v2/models/m")["stoker_devices"]
    decided = {"batch_buckets": "1,2,4: powers of two, since no cost is measured"}
    assert first == second == PARTLY.facts() | decided


def test_the_configuration_tells_the_same_on_both_protocols(on_a_gpu: RunningServer) -> None:
    shown = get(on_a_gpu, "/v2/models/m/config")["parameters"]["stoker.devices"]["string_value"]
    assert json.loads(shown) == [PARTLY.facts(), PARTLY.facts()]
    with triton_grpc.InferenceServerClient(on_a_gpu.at.grpc) as client:
        config = client.get_model_config("m").config
        assert config.parameters["stoker.devices"].string_value == shown


def test_clients_that_know_nothing_of_it_read_the_metadata_as_ever(
    on_a_gpu: RunningServer,
) -> None:
    with triton_http.InferenceServerClient(on_a_gpu.at.http) as rest:
        assert rest.get_model_metadata("m")["inputs"][0]["name"] == "x"
    with triton_grpc.InferenceServerClient(on_a_gpu.at.grpc) as grpc:
        assert grpc.get_model_metadata("m").inputs[0].name == "x"


def test_metrics_tell_device_provider_and_nodes(on_a_gpu: RunningServer) -> None:
    labels = {"model": "m", "version": "1", "device": "cuda:0"}
    gpu = {"requested": "cuda:0", "device_name": "NVIDIA L4", "compute_capability": "8.9"}
    assert on_a_gpu.at.metric("stoker_model_info", **labels, **gpu, provider=CUDA) == 1
    assert on_a_gpu.at.metric("stoker_model_memcpy_nodes", **labels) == 4
    assert on_a_gpu.at.metric("stoker_model_cpu_compute_nodes", **labels) == 2
    assert on_a_gpu.at.metric("stoker_model_nodes", **labels, provider=CUDA) == 8
    assert on_a_gpu.at.metric("stoker_model_nodes", **labels, provider=CPU) == 2


def test_readiness_tells_what_computes_too_much_on_the_cpu_and_stays_true(
    on_a_gpu: RunningServer,
) -> None:
    status, said = on_a_gpu.at.probe("/readyz")
    assert status == 200
    (detail,) = json.loads(said)["details"]
    assert detail.startswith("model 'm' v1 on cuda:0, 2 of 10 nodes compute on the CPU (TopK, Uni")


def test_a_model_on_the_cpu_tells_that_too(serve: Serving, tmp_path: Path) -> None:
    server = serve(models.write_repository(tmp_path, {"m": models.double()}))
    assert get(server, "/v2/models/m")["stoker_devices"] == [
        {"requested": "cpu", "device": "cpu", "provider": CPU, "nodes": {CPU: 1}}
    ]
    assert server.at.metric("stoker_model_info", model="m", device="cpu", provider=CPU) == 1


def doubts(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING and "compute on the CPU" in record.getMessage()
    ]


def test_partial_placement_warns_once_and_the_log_has_the_facts(
    caplog: pytest.LogCaptureFixture, serve: Serving, tmp_path: Path
) -> None:
    with caplog.at_level(logging.INFO):
        instance = Placement("cuda:0", 1, 1)
        serve(
            models.write_repository(tmp_path, {"m": models.double()}),
            runtime=FakeRuntime(FakeModel(report=PARTLY), placements=(instance, instance)),
        )
    (doubt,) = doubts(caplog)
    assert doubt.startswith("on cuda:0, 2 of 10 nodes compute on the CPU (TopK, Unique), with 4 c")
    told = [
        record.__dict__["stoker_fields"]
        for record in caplog.records
        if record.__dict__.get("stoker_event") == "model_device"
    ]
    assert len(told) == 2
    assert told[0]["nodes"] == (f"{CPU}=2", f"{CUDA}=8")
    assert told[0]["options"] == ("device_id=0", "use_tf32=0")
    assert (told[0]["device_name"], told[0]["copies"]) == ("NVIDIA L4", 4)


def test_partial_placement_below_the_share_does_not_warn(
    serve: Serving, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        serve(
            models.write_repository(tmp_path, {"m": models.double()}),
            runtime=FakeRuntime(FakeModel(report=PARTLY), placements=(Placement("cuda:0", 1, 1),)),
            settings=replace(FREE_PORTS, cpu_node_warning_share=0.2),
        )
    assert doubts(caplog) == []


def test_a_gpu_that_is_required_and_not_there_is_told_by_readiness(
    serve: Serving, tmp_path: Path
) -> None:
    runtime = OnnxRuntime("gpu")
    if runtime.machine.gpus:
        pytest.skip("a GPU is here")
    server = serve(models.write_repository(tmp_path, {"m": models.double()}), runtime=runtime)
    status, reasons = server.at.probe("/readyz")
    assert status == 503
    assert "the server runs with --device gpu, and there is no usable GPU: " in reasons
    assert runtime.machine.absence in reasons


def test_two_instances_on_a_gpu_run_at_once_each_on_its_session_and_thread(
    serve: Serving, tmp_path: Path
) -> None:
    instance = Placement("cuda:0", 1, 1)
    runtime = FakeRuntime(FakeModel(report=PARTLY), placements=(instance, instance))
    one_by_one = models.ModelEntry(models.double(), "max_batch_size: 1")
    server = serve(models.write_repository(tmp_path, {"m": one_by_one}), runtime=runtime)
    runtime.forget()
    runtime.hold()
    with RestClient(server.at) as client:
        calls = [client.send("m", {"x": rows(value)}) for value in (1, 2)]
        try:
            runtime.wait_for_run(2)
        finally:
            runtime.release()
        for call in calls:
            call.answer().output()
    assert len({id(run.session) for run in runtime.runs}) == 2
    assert sorted(run.thread for run in runtime.runs) == ["m-1-0", "m-1-1"]
