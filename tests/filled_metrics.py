"""A registry in which every metric of the table has a value, for the tests of its text."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from stoker.lifecycle.upgrade import UpgradeState
from stoker.telemetry import metric_table as table
from stoker.telemetry import tensorrt_table as tensorrt
from stoker.telemetry.demand import DemandMeter
from stoker.telemetry.gpu import show_gpus
from stoker.telemetry.gpu_reading import XID_CLASSES, Gpu, GpuCounts, GpuReading, figures
from stoker.telemetry.load_metrics import show_load
from stoker.telemetry.loop_lag import INTERVAL_S, LoopLag
from stoker.telemetry.machine import Machine
from stoker.telemetry.metric import Metric
from stoker.telemetry.metrics import MetricsRegistry
from stoker.telemetry.model_series import Facts
from stoker.telemetry.server_statistics import ServerStatistics, UnroutedReason
from stoker.telemetry.statistics import (
    BatchEnd,
    FailureReason,
    ModelStatistics,
    RefusalReason,
)

from tests.hand_loop import HandLoop

START = 1000.0

ON_A_GPU: Mapping[Metric, Facts] = {
    table.MODEL_INFO: {("cuda:0", "CUDAExecutionProvider", "cuda:0", "NVIDIA L4", "8.9"): 1.0},
    table.MODEL_NODES: {
        ("cuda:0", "CUDAExecutionProvider"): 118.0,
        ("cuda:0", "CPUExecutionProvider"): 2.0,
    },
    table.MODEL_COPIES: {("cuda:0",): 4.0},
    table.MODEL_CPU_NODES: {("cuda:0",): 1.0},
    table.MODEL_MEMORY: {
        ("weights",): 97_000_000.0,
        ("tensors",): 19_000_000.0,
        ("loaded",): 120_000_000.0,
        ("workspace",): 310_000_000.0,
    },
}


def write_machine(root: Path, *, busy: int = 100, idle: int = 300) -> Path:
    """A /proc and a control group of version 2 under `root`."""
    files = {
        "proc/stat": f"cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 0 0 1 0 0 0 0 0 0\n",
        "proc/meminfo": "MemTotal: 2000 kB\nMemFree: 10 kB\nMemAvailable: 500 kB\n",
        "proc/self/statm": "900 300 20 1 0 50 0\n",
        "proc/self/cgroup": "0::/pod7/box\n",
        "proc/self/fd/0": "",
        "proc/self/fd/1": "",
        "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
        "sys/fs/cgroup/memory.current": "70000\n",
        "sys/fs/cgroup/memory.max": "100000\n",
        "sys/fs/cgroup/memory.stat": "anon 40000\ninactive_file 20000\n",
        "sys/fs/cgroup/cpu.stat": "usage_usec 2500000\nnr_throttled 3\nthrottled_usec 250000\n",
        "sys/fs/cgroup/cpu.max": "150000 100000\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def serve_one(
    statistics: ModelStatistics, *, seconds: float = 0.002, rows: int = 4, requests: int = 2
) -> None:
    """One batch and its answers."""
    infer_ns = round(seconds * 1e9)
    statistics.record_run(
        rows=rows,
        requests=requests,
        input_ns=21_000,
        infer_ns=infer_ns,
        output_ns=7_500,
        end=BatchEnd.IDLE,
        now_ms=1_700_000_000_000,
    )
    for _ in range(requests):
        statistics.record_success(infer_ns + 400_000, 300_000)


def filled_statistics() -> ModelStatistics:
    """A model whose every number is over 0."""
    statistics = ModelStatistics("resnet", 3, tags={"team": 'a "b" \\ c\nd', "cost-unit": "x"})
    statistics.load_seconds = 1.25
    statistics.pending = 5
    statistics.in_flight = 9
    statistics.bisections = 1
    statistics.out_of_memory = 3
    statistics.device_retries = 1
    statistics.hung_runs = 1
    statistics.slow_loop_runs = 2
    statistics.wrong_refusals = 2
    for turn in range(40):
        serve_one(statistics, seconds=0.0002 * turn**2, rows=1 + turn * 9, requests=1 + turn % 3)
    serve_one(statistics, seconds=12_345.678)
    for number, seconds in enumerate((0.0102, 0.0104, 12_345.678)):
        statistics.note_exemplar(
            round(seconds * 1e9) + 400_000, f"{number + 10:032x}", 1_700_000_000.125 + number
        )
    for reason in FailureReason:
        statistics.record_failure(reason, 1_000_000)
    for refusal in RefusalReason:
        statistics.record_refusal(refusal)
    return statistics


GPU = Gpu("GPU-1b4e28ba-2fa1-11d2-883f-0016d3cca427", "cuda:0", "NVIDIA L4", False, "580.95")
READING = GpuReading(
    utilization=0.25,
    memory_busy=0.1,
    memory_total_bytes=24_000_000_000,
    memory_used_bytes=7_000_000_000,
    memory_free_bytes=16_500_000_000,
    memory_reserved_bytes=500_000_000,
    power_watts=61.5,
    power_limit_watts=72.0,
    energy_joules=5_250.0,
    temperature_celsius=61.0,
    sm_clock_hertz=2.04e9,
    memory_clock_hertz=6.25e9,
    clocks_event_reasons=0x24,
    ecc_corrected=7,
    ecc_uncorrected=2,
    remapped_corrected=4,
    remapped_uncorrected=1,
    remap_pending=True,
    remap_failed=False,
)
"""A GPU of which everything is known."""


def filled_metrics(root: Path) -> MetricsRegistry:
    """Every metric has a series; every clock stands still.

    The kernel's figures appear with the first `render`.
    """
    loop = HandLoop(START)
    server = ServerStatistics()
    server.record_unrouted(UnroutedReason.UNKNOWN_MODEL)
    machine = Machine(write_machine(root))
    write_machine(root, busy=200, idle=600)
    metrics = MetricsRegistry(server=server, machine=machine, clock=loop.clock)
    meter = DemandMeter()
    meter.begin(START)
    demand = meter.add_model(["cpu:0"])
    demand.add(2.5, START)
    lag = LoopLag(loop, clock=loop.clock)
    lag.start()
    for _ in range(40):
        loop.advance(INTERVAL_S)
    lag.stop()
    show_load(metrics, meter, lag, clock=loop.clock)
    metrics.add_model(
        filled_statistics(),
        {
            table.MODEL_DEMAND: lambda: demand.ratio(loop.clock()),
            table.MODEL_DEMAND_5S: lambda: demand.ratio(loop.clock(), 5.0),
            table.MODEL_DEMAND_1S: lambda: demand.ratio(loop.clock(), 1.0),
            table.MODEL_BATCH_LIMIT: lambda: 32,
            table.MODEL_SUSTAINED_BATCH_LIMIT: lambda: 64,
            table.MODEL_ROW_SECONDS: lambda: 0.00025,
        },
        facts=ON_A_GPU,
    )
    metrics.add_model(
        ModelStatistics("idle", 1),
        {
            table.MODEL_DEMAND: lambda: 0.0,
            table.MODEL_DEMAND_5S: lambda: 0.0,
            table.MODEL_DEMAND_1S: lambda: 0.0,
            table.MODEL_BATCH_LIMIT: lambda: 32,
            table.MODEL_SUSTAINED_BATCH_LIMIT: lambda: 32,
            table.MODEL_ROW_SECONDS: lambda: 0.00025,
        },
        facts=ON_A_GPU,
    )
    counts = GpuCounts(energy_joules=250.0, hears_xids=True)
    for number in (*XID_CLASSES, 13, 7):
        counts.note_xid(number)
    known = figures(GPU, READING, counts)
    show_gpus(metrics, lambda metric: known.get(metric, {}))
    metrics.register(table.READY, lambda: 1.0)
    metrics.register_labelled(
        table.MODEL_READY, lambda: {("resnet", "3"): 1, ("idle", "1"): 1, ("broken", "1"): 0}
    )
    metrics.register_labelled(
        tensorrt.STATE,
        lambda: {
            ("resnet", "3", state.value): float(state is UpgradeState.SERVING)
            for state in UpgradeState
        },
    )
    metrics.register_labelled(tensorrt.HITS, lambda: {("resnet", "3"): 1})
    metrics.register_labelled(tensorrt.MISSES, lambda: {("resnet", "3"): 2})
    metrics.register_labelled(tensorrt.BUILD_SECONDS, lambda: {("resnet", "3"): 93.25})
    metrics.register_labelled(tensorrt.ENGINE_BYTES, lambda: {("resnet", "3"): 123_456_789})
    metrics.register_labelled(table.HUNG_LOADS, lambda: {("resnet", "3"): 1})
    metrics.register_labelled(tensorrt.DEVICE_BYTES, lambda: {("resnet", "3"): 987_654_321})
    metrics.register_labelled(tensorrt.CRASHED_BUILDS, lambda: {("resnet", "3"): 1})
    metrics.register_labelled(table.CONNECTIONS, lambda: {("grpc",): 4, ("rest",): 1_234_567})
    metrics.register(table.CONNECTION_LIMIT, lambda: 16_384)
    metrics.register_labelled(
        table.TRACE_SPANS, lambda: {("exported",): 90, ("failed",): 2, ("dropped",): 1}
    )
    metrics.register_labelled(table.ACCESS_LOG_LINES, lambda: {("written",): 40, ("dropped",): 3})
    metrics.register_info(
        table.BUILD, {"version": "0.1.0", "onnxruntime_version": "1.31.1", "device": "cpu"}
    )
    return metrics


def filled_text(root: Path) -> str:
    """What a scrape of `filled_metrics` reads, as classic text."""
    return b"".join(asyncio.run(filled_metrics(root).render("text/plain"))[1]).decode()
