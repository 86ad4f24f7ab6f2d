"""A runtime whose models are functions, for tests of everything above the ONNX Runtime boundary.

It stands in at `runtime/session.py` and nowhere else, and `tests/unit/test_fake_runtime.py` holds
it to the behaviour of the real one. A test decides what a model computes, what a run costs, which
runs fail, and when a run may go on:

    runtime = FakeRuntime()                    # FP32 x [-1,4] -> y [-1,4] = 2x
    runtime.hold()                             # runs now stop before they compute
    ...                                        # send requests
    runtime.wait_for_run(1)                    # an executor is inside its first run
    runtime.release()                          # let all go on
    runtime.runs[0].feeds["x"]                 # what that run was fed, a copy
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from stoker.device import DeviceReport
from stoker.errors import ExecutionFailed, ServingError
from stoker.model import ModelConfig
from stoker.runtime.candidate import Candidate
from stoker.runtime.cuda_graphs import NO_GRAPHS, NOT_CAPTURED, GraphSupport
from stoker.runtime.device_memory import DeviceMemory, HostMemory
from stoker.runtime.session import Binding, BoundTensor, OutputMismatch, Placement, Session
from stoker.tensor import Array, DataType, TensorSpec, shape_text

from tests.bound_memory import memory_of

Compute = Callable[[Mapping[str, Array]], Mapping[str, Array]]
PATIENCE = 10.0
"""Seconds after which a wait of a test fails instead of hanging."""


def double(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
    """y = 2x."""
    return {"y": feeds["x"] * 2}


@dataclass
class FakeModel:
    """What one fake model is. Its fields may be changed while it serves."""

    inputs: tuple[TensorSpec, ...] = (TensorSpec("x", DataType.FP32, (-1, 4)),)
    outputs: tuple[TensorSpec, ...] = (TensorSpec("y", DataType.FP32, (-1, 4)),)
    compute: Compute = double
    """Feeds to all outputs by name."""
    seconds: Callable[[int], float] | None = None
    """What a run of so many rows costs; None: nothing."""
    fail: Callable[[Mapping[str, Array]], ServingError | None] | None = None
    """The error that a run with these feeds ends in, after it took its time."""
    open_error: ServingError | None = None
    bind_error: ServingError | None = None
    """The error in which the making of bindings ends."""
    may_open: threading.Event | None = None
    """Opening waits until this is set; None: it does not wait."""
    graphs: GraphSupport = NO_GRAPHS
    """What its sessions say of CUDA graphs when they are opened."""
    capture_error: Callable[[int], ServingError | None] = lambda rows: None
    """The error in which the capture of a graph of so many rows ends."""
    replay: Compute | None = None
    """What replayed graphs compute; None: what the model does."""
    dimension_names: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    unranked: frozenset[str] = frozenset()
    report: DeviceReport | None = None
    """What its sessions say of where they run; None: just the device of their placement."""


@dataclass(frozen=True)
class Run:
    """One run as it was asked for."""

    session: "FakeSession"
    feeds: Mapping[str, Array]
    outputs: tuple[str, ...]
    into: tuple[str, ...]
    thread: str

    @property
    def rows(self) -> int:
        """The first dimension of the first input; 1 for scalars."""
        return rows_of(self.feeds)


class FakeRuntime:
    """Implements `Runtime`. Every session of it shares one gate and one record."""

    def __init__(
        self,
        model: FakeModel | None = None,
        *,
        models: Mapping[str, FakeModel] | None = None,
        placements: tuple[Placement, ...] | None = None,
        place_error: ServingError | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`models` are by name, `model` is for all other names. `sleep` spends what is left, by
        `clock`, of a run's seconds: pass a fake clock and its `advance` to spend none of the
        test's."""
        self.model = model or FakeModel()
        self.models = dict(models or {})
        self.placements = placements
        self.place_error = place_error
        self.candidates: dict[str, Candidate] = {}
        """By the model's name."""
        self.clock = clock
        self.sleep = sleep
        self.runs: list[Run] = []
        self.sessions: list[FakeSession] = []
        self._changed = threading.Condition()
        self._held = False
        self._passes = 0
        self._finished = 0

    # Implements Runtime

    @property
    def version(self) -> str:
        """No library's."""
        return "fake"

    @property
    def driver(self) -> str | None:
        """No driver's."""
        return "fake driver"

    def place(self, config: ModelConfig) -> tuple[Placement, ...]:
        """The given placements, else one on the CPU with the configured number of instances."""
        if self.place_error is not None:
            raise self.place_error
        if self.placements is not None:
            return self.placements
        instances = sum(max(1, group.count) for group in config.instance_groups)
        return (Placement("cpu", max(1, instances), 1),)

    def candidate(
        self, path: Path, folder: Path, config: ModelConfig, session: Session, *, max_rows: int
    ) -> Candidate | None:
        """What `candidates` has for the model."""
        return self.candidates.get(config.name)

    def open(self, path: Path, config: ModelConfig, placement: Placement) -> Session:
        """Never reads `path`: a fake model needs no file."""
        model = self.models.get(config.name, self.model)
        if model.may_open is not None and not model.may_open.wait(PATIENCE * 6):
            raise AssertionError("a held opening was never released")
        if model.open_error is not None:
            raise model.open_error
        session = FakeSession(model, self, device=placement.device, path=path)
        with self._changed:
            self.sessions.append(session)
        return session

    # For tests

    def hold(self) -> None:
        """From now on a run stops after it is recorded and before it computes."""
        with self._changed:
            self._held = True

    def release(self) -> None:
        """Lets held runs go on; later ones do not stop."""
        with self._changed:
            self._held = False
            self._passes = 0
            self._changed.notify_all()

    def step(self, count: int = 1) -> None:
        """Lets `count` runs pass, held now or coming, while the gate stays closed."""
        with self._changed:
            self._passes += count
            self._changed.notify_all()

    def wait_for_run(self, count: int = 1, timeout: float = PATIENCE) -> None:
        """Blocks until `count` runs started since the start or the last `forget`."""
        self._wait(lambda: len(self.runs) >= count, timeout, f"{count} started runs")

    def wait_for_finish(self, count: int = 1, timeout: float = PATIENCE) -> None:
        """Blocks until `count` runs ended, well or badly."""
        self._wait(lambda: self._finished >= count, timeout, f"{count} finished runs")

    def forget(self) -> None:
        """Empties the record, for example of the runs of a warm-up."""
        with self._changed:
            self.runs.clear()
            self._finished = 0

    def _wait(self, reached: Callable[[], bool], timeout: float, what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(reached, timeout):
                raise AssertionError(
                    f"expected {what} within {timeout} s, got {len(self.runs)} started and "
                    f"{self._finished} finished"
                )

    def start(self, run: Run) -> None:
        """Records a run and holds it while the gate is closed. Called by sessions."""
        with self._changed:
            self.runs.append(run)
            self._changed.notify_all()
            free = self._changed.wait_for(lambda: not self._held or self._passes > 0, PATIENCE * 6)
            if not free:
                raise AssertionError("a held run was never released")
            if self._held:
                self._passes -= 1

    def finish(self) -> None:
        """Counts the end of a run. Called by sessions."""
        with self._changed:
            self._finished += 1
            self._changed.notify_all()


class FakeSession:
    """Implements `Session` with the functions of a `FakeModel`."""

    def __init__(self, model: FakeModel, runtime: FakeRuntime, *, device: str, path: Path) -> None:
        self.model = model
        self.runtime = runtime
        self.path = path
        self.closed = False
        self._device = device
        self._memory = HostMemory()
        self._graphs = model.graphs
        self.captured: list[tuple[int, int, str]] = []
        """Graph id, rows and thread of each capture."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.model.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.model.outputs

    @property
    def dimension_names(self) -> Mapping[str, tuple[str | None, ...]]:
        named = self.model.dimension_names
        specs = self.model.inputs + self.model.outputs
        return {spec.name: named.get(spec.name, (None,) * len(spec.shape)) for spec in specs}

    @property
    def unranked(self) -> frozenset[str]:
        return self.model.unranked

    @property
    def device(self) -> str:
        return self._device

    @property
    def report(self) -> DeviceReport:
        graphs = "" if self._device == "cpu" else str(self._graphs)
        return self.model.report or DeviceReport(
            self._device, self._device, "FakeProvider", cuda_graphs=graphs
        )

    def run(
        self,
        feeds: Mapping[str, Array],
        outputs: Sequence[str],
        into: Mapping[str, Array] | None = None,
    ) -> list[Array]:
        assert not self.closed, "a session was run after it was closed"
        into = into or {}
        self._check(feeds, outputs)
        copies = {name: array.copy() for name, array in feeds.items()}
        thread = threading.current_thread().name
        self.runtime.start(Run(self, copies, tuple(outputs), tuple(into), thread))
        began = self.runtime.clock()
        try:
            error = self.model.fail(feeds) if self.model.fail is not None else None
            if error is not None:
                raise error
            computed = self.model.compute(feeds)
            return [_deliver(name, computed[name], into.get(name)) for name in outputs]
        finally:
            # Last, so that a run costs what the model says, and not what the fake takes besides.
            if self.model.seconds is not None:
                end = began + self.model.seconds(rows_of(feeds))
                self.runtime.sleep(max(0.0, end - self.runtime.clock()))
            self.runtime.finish()

    @property
    def memory(self) -> DeviceMemory | None:
        datatypes = {spec.datatype for spec in self.model.inputs + self.model.outputs}
        return None if DataType.BYTES in datatypes else self._memory

    @property
    def graphs(self) -> GraphSupport:
        return self._graphs

    def give_up_graphs(self, problem: str) -> None:
        self._graphs = replace(self._graphs, problem=problem)

    def bind(
        self,
        inputs: Sequence[BoundTensor],
        outputs: Sequence[BoundTensor],
        graph: int = NOT_CAPTURED,
    ) -> Binding:
        assert graph == NOT_CAPTURED or (graph > 0 and self._graphs.captures)
        if self.model.bind_error is not None:
            raise self.model.bind_error
        return FakeBinding(self, inputs, outputs, graph)

    def close(self) -> None:
        self.closed = True

    def _check(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> None:
        specs = {spec.name: spec for spec in self.model.inputs}
        missing = [name for name, spec in specs.items() if not spec.optional and name not in feeds]
        if missing:
            raise ExecutionFailed(f"expected the inputs {missing}, got {sorted(feeds)}")
        for name, array in feeds.items():
            spec = specs.get(name)
            if spec is None:
                raise ExecutionFailed(f"expected the inputs {sorted(specs)}, got '{name}'")
            if array.dtype.kind != "U" and array.dtype != spec.datatype.numpy:
                raise ExecutionFailed(f"input '{name}': expected {spec}, got {array.dtype}")
            if name not in self.model.unranked and not _fits(array.shape, spec.shape):
                raise ExecutionFailed(
                    f"input '{name}': expected {spec}, got {shape_text(array.shape)}"
                )
        unknown = set(outputs) - {spec.name for spec in self.model.outputs}
        if unknown:
            raise ExecutionFailed(f"expected outputs of the model, got {sorted(unknown)}")


class FakeBinding:
    """Implements `Binding`: a run of the session on the memory at the bound addresses."""

    def __init__(
        self,
        session: FakeSession,
        inputs: Sequence[BoundTensor],
        outputs: Sequence[BoundTensor],
        graph: int,
    ) -> None:
        self._session = session
        self._graph = graph
        self._thread = ""
        """The one that captured."""
        self._inputs = {each.name: memory_of(each) for each in inputs}
        self._outputs = {each.name: memory_of(each) for each in outputs if each.address}
        self._names = [each.name for each in outputs]
        self._made: dict[str, Array] = {}

    def run(self) -> None:
        if self._graph == NOT_CAPTURED:
            self._compute()
            return
        thread = threading.current_thread().name
        if not self._thread:
            rows = rows_of(self._inputs)
            error = self._session.model.capture_error(rows)
            if error is not None:
                raise error
            self._thread = thread
            self._session.captured.append((self._graph, rows, thread))
            for _ in range(3):  # as ONNX Runtime: twice to warm up, once to capture
                self._compute()
            return
        assert thread == self._thread, "a graph was replayed by another thread"
        if self._session.model.replay is None:
            self._compute()
            return
        for name, array in self._session.model.replay(self._inputs).items():
            self._outputs[name][...] = array

    def _compute(self) -> None:
        try:
            arrays = self._session.run(self._inputs, self._names, self._outputs)
        except ExecutionFailed as error:
            if "expected memory for" in error.message:
                raise OutputMismatch(error.message) from error
            raise
        self._made = dict(zip(self._names, arrays, strict=True))

    def rebind(self, tensor: BoundTensor) -> None:
        self._inputs[tensor.name] = memory_of(tensor)

    def made(self, name: str) -> Array:
        return self._made[name]


class FakeClock:
    """Time that passes only when told: `clock()` reads it, `advance` is a run's `sleep`."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Moves the time on."""
        self.now += seconds


def rows_of(feeds: Mapping[str, Array]) -> int:
    """The first dimension of the first feed; 1 where there is none."""
    for array in feeds.values():
        return array.shape[0] if array.ndim else 1
    return 1


def _fits(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    return len(shape) == len(declared) and all(
        want in (-1, got) for got, want in zip(shape, declared, strict=True)
    )


def _deliver(name: str, computed: Array, into: Array | None) -> Array:
    computed = np.asarray(computed)
    if into is None:
        return computed
    if into.shape != computed.shape or into.dtype != computed.dtype:
        raise ExecutionFailed(
            f"output '{name}': expected memory for {computed.dtype} {shape_text(computed.shape)}, "
            f"got {into.dtype} {shape_text(into.shape)}"
        )
    into[...] = computed
    return into
