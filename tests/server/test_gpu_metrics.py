"""The GPUs' metrics of a whole server, on a machine whose driver is a stand-in."""

from pathlib import Path

import pytest
from stoker.telemetry.gpu_table import GPU_METRICS

from tests.calls import wait_until
from tests.conftest import Endpoints, run_stoker
from tests.driver_stubs import NVML
from tests.stub.libraries import build_driver

FIRST = "GPU-00000000-0000-0000-0000-000000000000"
SECOND = "GPU-00000000-0000-0000-0000-000000000001"
FAMILIES = {metric.name for metric in GPU_METRICS}


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("driver")
    build_driver(folder)
    return folder


def machine(drivers: Path, nvml: str) -> dict[str, str]:
    """Two GPUs, in whose order CUDA and NVML differ."""
    return {
        "LD_LIBRARY_PATH": str(drivers),
        "STUB_CUDA_DEVICES": "2",
        "NVML_STUB": f"gpus={SECOND},{FIRST};{nvml}",
    }


def shown(at: Endpoints) -> set[str]:
    """The GPU metrics that have a series."""
    lines = [line for line in at.metrics().splitlines() if not line.startswith("#")]
    return {line.partition("{")[0].split()[0] for line in lines} & FAMILIES


def test_a_server_shows_every_gpu_metric_of_the_gpus_that_cuda_sees(drivers: Path) -> None:
    with run_stoker(environment=machine(drivers, "xids=0:79")) as server:
        wait_until(lambda: shown(server.at) == FAMILIES, "a reading of the GPUs")
        scraped = server.at.metrics()
        info = [line for line in scraped.splitlines() if line.startswith("stoker_gpu_info")]
        assert [f'device="cuda:0",driver_version="580.95",gpu_uuid="{FIRST}"' in line
                for line in info] == [True, False]  # fmt: skip
        assert server.at.metric("nv_gpu_utilization", gpu_uuid=FIRST) == 0.25
        assert server.at.metric("stoker_gpu_last_xid", gpu_uuid=SECOND) == 79
        server.terminate()
        assert server.wait() == 0


def test_a_lost_gpu_changes_no_readiness(drivers: Path) -> None:
    lost = "nvmlDeviceGetUtilizationRates=!15;nvmlDeviceGetPowerUsage=!15;xids=0:79,1:79"
    with run_stoker(environment=machine(drivers, lost)) as server:
        wait_until(lambda: "stoker_gpu_last_xid" in shown(server.at), "a reading of the GPUs")
        assert not {"nv_gpu_utilization", "nv_gpu_power_usage"} & shown(server.at)
        assert server.at.probe("/readyz")[0] == 200


@pytest.mark.parametrize("flags", [["--device", "cpu"], ["--gpu-metrics-interval", "0"]])
def test_a_server_that_shall_not_look_shows_none(drivers: Path, flags: list[str]) -> None:
    with run_stoker(*flags, environment=machine(drivers, "")) as server:
        assert shown(server.at) == set()
        assert NVML not in Path(f"/proc/{server.process.pid}/maps").read_text()


def test_without_a_driver_a_server_shows_none(drivers: Path) -> None:
    hidden = machine(drivers, "") | {"LD_LIBRARY_PATH": ""}
    with run_stoker(environment=hidden) as server:
        assert shown(server.at) == set()
        assert server.at.probe("/readyz")[0] == 200
