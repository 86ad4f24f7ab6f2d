"""One server in invented time: the product's engine and meters over a simulated GPU.

Requests are checked, admitted, queued, batched, refused and expired by `ServedModel`; demand is
counted by `DemandMeter` at the worth that `CostBook` gives, and corrected by what runs take, as in
`app.py`. Here is only the wiring, and what a pod's other meters would show: GPU busy, CPU.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

from stoker.engine.admission import Admission, ServerBudget
from stoker.engine.cost_book import CostBook
from stoker.engine.cost_curve import CostCurve
from stoker.engine.executor import Device
from stoker.engine.forecast import RunSizes
from stoker.engine.plan import ModelPlan
from stoker.engine.policy import KNEE_LIMIT, batch_policy
from stoker.engine.served_model import ServedModel
from stoker.inference import Reply
from stoker.model import DynamicBatching, ModelConfig, ModelVersion, TensorConfig
from stoker.request import InferRequest, RequestKind, TensorHead, kind_of
from stoker.runtime.independence import Independence
from stoker.telemetry.demand import SHORT_WINDOW_S, WINDOW_S, DemandMeter
from stoker.telemetry.queue_delay import QueueDelay
from stoker.telemetry.statistics import ModelStatistics
from stoker.tensor import DataType

from benchmarks.scaling.device import SharedGpu, SimulatedExecutor, instance_of
from benchmarks.scaling.timeline import Timeline

LOOP_S: Final = 0.0005
"""CPU seconds of the event loop for one request: twice what one of 588 KiB takes
(benchmarks/results/0008-large-messages.md)."""
QUEUED_BYTES: Final = 1 << 30
MAX_BATCH_SIZE: Final = 4
"""--default-max-batch-size"""
WIDTH: Final = 16
"""Elements of an item, as warm-up measured it; up to 31 they are of one cost bucket."""


@dataclass(frozen=True)
class Model:
    """One model of the simulated service."""

    name: str
    costs: tuple[tuple[int, float], ...]
    """(rows, seconds) of a run, as warm-up measures it."""

    @property
    def most_rows(self) -> int:
        """The largest batch that the server forms of it: its knee, or max_batch_size."""
        return max(MAX_BATCH_SIZE, CostCurve(self.costs).knee(KNEE_LIMIT))

    def kind(self, rows: int, width: int = WIDTH) -> RequestKind:
        """A request of so many rows; another `width` is another item shape."""
        return kind_of(self.name, "", (TensorHead("x", DataType.FP32, (rows, width)),))


class SimulatedServer:
    """The engine of one pod, from the moment at which it is warm."""

    def __init__(self, timeline: Timeline, models: Sequence[Model]) -> None:
        self._timeline = timeline
        self._gpu = SharedGpu(timeline)
        self._demand = DemandMeter()
        self._demand.begin(timeline.now)
        self._queue_delay = QueueDelay(timeline.now)
        self._executors: list[SimulatedExecutor] = []
        self._requests = 0
        device = Device("cuda:0")
        budget = ServerBudget(QUEUED_BYTES)
        self._models = {model.name: self._served(model, device, budget) for model in models}

    def _served(self, model: Model, device: Device, budget: ServerBudget) -> ServedModel:
        """As `Engine.host` does for a model that configures nothing and is proved independent."""
        x, y = (TensorConfig(name, DataType.FP32, (-1,)) for name in ("x", "y"))
        config = ModelConfig(model.name, MAX_BATCH_SIZE, (x,), (y,), DynamicBatching())
        curve = CostCurve(model.costs)
        policy = batch_policy(config, Independence.INDEPENDENT, curve)
        identity = ModelVersion(model.name, 1)
        sizes = RunSizes(policy.max_rows, max(policy.max_rows, config.max_batch_size))
        served = ServedModel(
            ModelPlan(identity, config),
            policy,
            Admission(identity, config.batching, budget, max_bytes=QUEUED_BYTES),
            CostBook(curve, sizes, elements=WIDTH),
            ModelStatistics(model.name, 1),
            cast(asyncio.AbstractEventLoop, self._timeline),  # all that is asked of a loop
            self._timeline.clock,
        )
        executor = SimulatedExecutor(self._timeline, self._gpu, device, CostCurve(model.costs))
        self._executors.append(executor)
        served.instances.append(instance_of(served, executor))
        served.add_demand = self._demand.add_model([device.name]).add
        return served

    def submit(self, kind: RequestKind, reply: Reply, deadline: float = math.inf) -> None:
        """A request arrives."""
        self._requests += 1
        request = InferRequest(kind, (b"",), deadline=deadline)
        self._models[kind.model].submit(request, reply, self._timeline.now)

    # --- what the pod's meters show --------------------------------------------------------------

    def demand(self, window_s: float = WINDOW_S) -> float:
        """`stoker_demand_ratio`. The loop's share is left to `cpu_s`: it is far below the GPU's."""
        return self._demand.ratio(self._timeline.now, window_s) or 0.0

    def demand_peak(self) -> float:
        """`stoker_demand_peak_ratio` of 5 s."""
        return self._demand.peak(self._timeline.now, SHORT_WINDOW_S) or 0.0

    def queue_delay(self) -> float:
        """`stoker_queue_delay_seconds`."""
        return self._queue_delay.mean(
            waited_ns=sum([each.statistics.queue_ns for each in self._models.values()]),
            answered=sum([each.statistics.success_count for each in self._models.values()]),
            now=self._timeline.now,
        )

    def pending(self) -> float:
        """`nv_inference_pending_request_count`, summed over the models."""
        for each in self._models.values():
            each.note_started()
        return sum([each.statistics.pending for each in self._models.values()])

    def in_flight(self) -> float:
        """`stoker_requests_in_flight`."""
        return sum([each.statistics.in_flight for each in self._models.values()])

    def busy_s(self) -> float:
        """Seconds in which any kernel ran: what DCGM's utilisation is the rate of."""
        return self._gpu.busy_s

    def cpu_s(self) -> float:
        """CPU seconds: the loop's work for each request, and the executors', which wait actively
        while the GPU computes, as CUDA's default synchronisation does where cores are free."""
        return self._requests * LOOP_S + sum([each.run_s for each in self._executors])
