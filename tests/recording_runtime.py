"""The real runtime with a record and a gate, for tests that ask what really went into a model.

It stands at the ONNX Runtime boundary like the fake one; sessions compute for real. A test may hold
runs so that requests pile up, and reads afterwards what each batch was fed and gave.
"""

import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from stoker.lifecycle.watched_session import WatchedSession
from stoker.model import ModelConfig
from stoker.runtime.cuda_graphs import NO_GRAPHS, NOT_CAPTURED, GraphSupport
from stoker.runtime.onnx import OnnxRuntime
from stoker.runtime.session import Binding, BoundTensor, Placement, Session
from stoker.tensor import Array, DataType

from tests.bound_memory import memory_of
from tests.calls import Answer, Call, GrpcClient, RestClient, wait_for_queued
from tests.conftest import RunningServer

PATIENCE = 30.0


@dataclass(frozen=True)
class RecordedRun:
    """Copies of what went into the model and what came out."""

    feeds: Mapping[str, Array]
    outputs: Mapping[str, Array]


class RecordingRuntime(OnnxRuntime):
    """The real runtime; its sessions remember their runs and can be held before them."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.runs: list[RecordedRun] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def hold(self) -> None:
        """Stops a run before it computes, while the gate is closed. Called by sessions."""
        self.entered.set()
        assert self.gate.wait(PATIENCE), "a held run was never released"

    def open(self, path: Path, config: ModelConfig, placement: Placement) -> Session:
        return RecordingSession(super().open(path, config, placement), self)


class RecordingSession(WatchedSession):
    """A session whose runs and bindings tell the runtime what went in and what came out."""

    def __init__(self, session: Session, runtime: RecordingRuntime) -> None:
        super().__init__(session, nullcontext)
        self._runtime = runtime

    def run(
        self,
        feeds: Mapping[str, Array],
        outputs: Sequence[str],
        into: Mapping[str, Array] | None = None,
    ) -> list[Array]:
        copies = {name: array.copy() for name, array in feeds.items()}
        self._runtime.hold()
        produced = super().run(feeds, outputs, into)
        made = {name: array.copy() for name, array in zip(outputs, produced, strict=True)}
        self._runtime.runs.append(RecordedRun(copies, made))
        return produced

    @property
    def graphs(self) -> GraphSupport:
        return NO_GRAPHS

    def give_up_graphs(self, problem: str) -> None:
        raise AssertionError("the session has no graphs")

    def bind(
        self,
        inputs: Sequence[BoundTensor],
        outputs: Sequence[BoundTensor],
        graph: int = NOT_CAPTURED,
    ) -> Binding:
        binding = super().bind(inputs, outputs, graph)
        return RecordingBinding(binding, self._runtime, inputs, outputs)


class RecordingBinding:
    """Implements `Binding`."""

    def __init__(
        self,
        binding: Binding,
        runtime: RecordingRuntime,
        inputs: Sequence[BoundTensor],
        outputs: Sequence[BoundTensor],
    ) -> None:
        self._binding = binding
        self._runtime = runtime
        self._inputs = {each.name: each for each in inputs}
        self._outputs = outputs

    def run(self) -> None:
        feeds = {name: memory_of(each).copy() for name, each in self._inputs.items()}
        self._runtime.hold()
        self._binding.run()
        made = {each.name: memory_of(each).copy() for each in self._outputs}
        self._runtime.runs.append(RecordedRun(feeds, made))

    def rebind(self, tensor: BoundTensor) -> None:
        self._inputs[tensor.name] = tensor
        self._binding.rebind(tensor)

    def made(self, name: str) -> Array:
        return self._binding.made(name)


def all_at_once(
    server: RunningServer,
    runtime: RecordingRuntime,
    requests: Sequence[Mapping[str, Array]],
    datatypes: Mapping[str, DataType] | None = None,
) -> list[Answer]:
    """Sends every request, over both protocols in turn, while the model is held in the first."""
    runtime.runs.clear()
    runtime.entered.clear()
    runtime.gate.clear()
    with RestClient(server.at) as rest, GrpcClient(server.at) as grpc:
        try:
            calls: list[Call] = [rest.send("m", requests[0], datatypes=datatypes)]
            assert runtime.entered.wait(PATIENCE)
            for number, inputs in enumerate(requests[1:], start=1):
                client = (rest, grpc)[number % 2]
                calls.append(client.send("m", inputs, datatypes=datatypes))
            wait_for_queued(server, len(requests) - 1)
        finally:
            runtime.gate.set()
        return [call.answer() for call in calls]
