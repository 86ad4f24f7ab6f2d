"""What an autoscaler can look at, and how old it is when it does.

Each pod is scraped every 15 s, at a moment of its own; the adapter answers the HPA with the newest
sample, or with the mean of the last minute where a signal says so. A metric of the server exists
when the real server has it: demand from the moment at which a cost is measured, gauges that start
at 0 as soon as the process runs, the GPU's and the CPU's figures as long as the container runs.

CPU is the metrics server's: the mean of 15 s, in thousandths of a request of one core. GPU busy is
DCGM's: the share of the last second in which any kernel ran, 0 to 1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from stoker.telemetry.demand import SHORT_WINDOW_S, WINDOW_S

from benchmarks.scaling.deployment import Phase, Pod
from benchmarks.scaling.hpa import Metric, Sample
from benchmarks.scaling.server import SimulatedServer
from benchmarks.scaling.timeline import Timeline

SCRAPE_S: Final = 15.0
SMOOTHED_S: Final = 60.0
GPU_PERIOD_S: Final = 1.0
WARM_CPU_S: Final = 1.0
"""CPU seconds a second while models are loaded and measured."""

DEMAND: Final = "stoker_demand_ratio"
DEMAND_5S: Final = "stoker_demand_ratio_5s"
DEMAND_PEAK: Final = "stoker_demand_peak_ratio"
QUEUE_DELAY: Final = "stoker_queue_delay_seconds"
QUEUE_LENGTH: Final = "stoker_requests_pending"
IN_FLIGHT: Final = "stoker_requests_in_flight"
GPU_BUSY: Final = "gpu_busy"
CPU: Final = "cpu"
SMOOTHED: Final = "_1m"
"""Behind a metric's name: the mean of the last minute."""

_READERS: Final[Mapping[str, Callable[[SimulatedServer], float]]] = {
    DEMAND: lambda server: server.demand(WINDOW_S),
    DEMAND_5S: lambda server: server.demand(SHORT_WINDOW_S),
    DEMAND_PEAK: lambda server: server.demand_peak(),
    QUEUE_DELAY: lambda server: server.queue_delay(),
    QUEUE_LENGTH: lambda server: server.pending(),
    IN_FLIGHT: lambda server: server.in_flight(),
}
_FROM_THE_START: Final = frozenset({QUEUE_DELAY, QUEUE_LENGTH, IN_FLIGHT})
"""Gauges that the server shows before it is ready."""


@dataclass(frozen=True)
class Signal:
    """One way to scale."""

    name: str
    metrics: tuple[Metric, ...]


class Scraper:
    """One pod's target in Prometheus, the metrics server and DCGM's exporter."""

    def __init__(self, timeline: Timeline, pod: Pod, names: frozenset[str], seed: int) -> None:
        self.pod = pod
        self._timeline = timeline
        self._names = names
        self._kept: dict[str, list[tuple[float, float]]] = {}
        self._cpu_s = 0.0
        self._busy_s = 0.0
        first = Random(f"{seed}/{pod.name}/scrape").uniform(GPU_PERIOD_S, SCRAPE_S)
        timeline.call_later(first - GPU_PERIOD_S, self._note_busy)
        timeline.call_later(first, self._scrape)

    def sample(self, name: str, now: float) -> Sample | None:
        """What the adapter says, in thousandths; None: the pod has no such metric."""
        kept = self._kept.get(name.removesuffix(SMOOTHED))
        if not kept:
            return None
        if name.endswith(SMOOTHED):
            values = [value for at, value in kept if at > now - SMOOTHED_S]
            return Sample(round(1000 * sum(values) / len(values)), kept[-1][0]) if values else None
        return Sample(round(1000 * kept[-1][1]), kept[-1][0])

    def _note_busy(self) -> None:
        if self.pod.server is not None:
            self._busy_s = self.pod.server.busy_s()

    def _scrape(self) -> None:
        pod, now = self.pod, self._timeline.now
        if pod.phase is Phase.DRAINING:
            return  # what it says no longer counts: the HPA leaves it out
        server = pod.server
        for name in self._names:
            value = self._read(name, server)
            if value is not None:
                kept = self._kept.setdefault(name, [])
                kept.append((now, value))
                while kept[0][0] <= now - SMOOTHED_S:
                    kept.pop(0)
        self._timeline.call_later(SCRAPE_S - GPU_PERIOD_S, self._note_busy)
        self._timeline.call_later(SCRAPE_S, self._scrape)

    def _read(self, name: str, server: SimulatedServer | None) -> float | None:
        if name == CPU:
            spent = server.cpu_s() if server is not None else 0.0
            since = self._cpu_s
            self._cpu_s = spent
            return WARM_CPU_S if server is None else (spent - since) / SCRAPE_S
        if name == GPU_BUSY:
            return 0.0 if server is None else (server.busy_s() - self._busy_s) / GPU_PERIOD_S
        if server is None:
            return 0.0 if name in _FROM_THE_START else None
        return _READERS[name](server)


def scraped_names(signal: Signal) -> frozenset[str]:
    """The series that a signal needs."""
    return frozenset(metric.name.removesuffix(SMOOTHED) for metric in signal.metrics)
