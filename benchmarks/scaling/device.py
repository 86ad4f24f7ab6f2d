"""A GPU in invented time, and the executors that run batches on it.

Only this stands in for the real thing: a run takes what the model's measured cost curve says for
its rows. Runs of several models at one time share the GPU evenly and gain nothing by it, as kernels
that fill a GPU do. Which requests form a batch, and when, is decided by the product's own code: the
executor asks `ServedModel.take` and gives the outcome to `ServedModel.finish`, as its thread does.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from stoker.engine.cost_curve import CostCurve
from stoker.engine.execution import Batch, Outcome, Run, Runner
from stoker.engine.executor import Device, Executor, Instance
from stoker.request import InferResponse, OutputBatch

from benchmarks.scaling.timeline import Timeline, Timer

if TYPE_CHECKING:
    import asyncio

    from stoker.engine.served_model import ServedModel

NEVER = float("inf")


class SharedGpu:
    """Processor sharing: n runs at one time go at the n-th part of their speed."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._left: dict[Callable[[], None], float] = {}
        """Seconds of work left, by what to call at its end."""
        self._since = 0.0
        self._timer: Timer | None = None
        self._busy_s = 0.0

    def start(self, seconds: float, done: Callable[[], None]) -> None:
        """A run of so many seconds of work begins; calls `done` at its end."""
        self._pass()
        self._left[done] = seconds
        self._arm()

    @property
    def busy_s(self) -> float:
        """Seconds in which anything ran."""
        self._pass()
        return self._busy_s

    def _pass(self) -> None:
        now = self._timeline.now
        if self._left:
            passed = now - self._since
            self._busy_s += passed
            if len(self._left) > 1:
                share = passed / len(self._left)
                for done in self._left:
                    self._left[done] -= share
            else:
                for done in self._left:
                    self._left[done] -= passed
        self._since = now

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._left:
            least = min(self._left.values())
            self._timer = self._timeline.call_later(least * len(self._left), self._finish)

    def _finish(self) -> None:
        self._timer = None
        self._pass()
        done = min(self._left, key=lambda each: self._left[each])
        del self._left[done]
        self._arm()
        done()


class SimulatedExecutor(Executor):
    """An executor without a thread: its runs are events."""

    def __init__(
        self, timeline: Timeline, gpu: SharedGpu, device: Device, true_cost: CostCurve
    ) -> None:
        """`true_cost` says what runs take; what the server believes is its own cost book's."""
        loop = cast("asyncio.AbstractEventLoop", timeline)  # never asked: there is no thread
        super().__init__("simulated", device, loop, timeline.clock)
        self._timeline = timeline
        self._gpu = gpu
        self._true_cost = true_cost
        self._look_is_due = False
        self.run_s = 0.0
        """Seconds that runs took, begin to end."""
        self.doorbell.is_idle = True

    def ring(self, instance: Instance) -> None:
        """There may be work: looks for it in this turn, or when the present run ends."""
        self.doorbell.is_idle = False
        if not self.is_running and not self._look_is_due:
            self._look_is_due = True
            self._timeline.call_soon(self._look, instance)

    def _look(self, instance: Instance) -> None:
        self._look_is_due = False
        if self.is_running:
            return
        step = instance.model.take(instance, self._timeline.now)
        if isinstance(step, Batch):
            self._begin(instance, step)
        else:
            self.doorbell.is_idle = True
            if step != NEVER:
                self._timeline.call_at(step, self.ring, instance)

    def _begin(self, instance: Instance, batch: Batch) -> None:
        began = self._timeline.now
        self.is_running = True
        instance.busy_rows = batch.rows
        instance.busy_since = began
        ticket = self.device.enter()
        seconds = self._true_cost.seconds(batch.rows)
        if seconds is None:
            raise ValueError("expected a measured cost curve, got one without points")

        def end() -> None:
            alone = self.device.leave(ticket)
            instance.busy_since = None
            instance.is_taken = False
            self.is_running = False
            self.batches += 1
            passed = self._timeline.now - began
            self.run_s += passed
            run = Run(batch.rows, len(batch.entries), 0, round(passed * 1e9), 0, began)
            instance.model.finish(
                Outcome(batch, [ANSWER] * len(batch.entries), [run], alone=alone, seconds=passed)
            )
            self._look(instance)

        self._gpu.start(seconds, end)


class NoSession:
    """Where the product keeps a session there is none: `SimulatedExecutor` runs batches itself."""


def instance_of(model: "ServedModel", executor: SimulatedExecutor) -> Instance:
    """The model's place on its executor."""
    return Instance(model, cast(Runner, NoSession()), executor)


ANSWER = InferResponse(OutputBatch("m", "1", (), ()), (), 0, 0)
"""What every request gets: nobody reads its outputs."""
