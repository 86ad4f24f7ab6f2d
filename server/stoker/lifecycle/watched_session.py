"""A session whose runs are watched, for what runs a model before it serves.

Warm-up, proof, cost curve and comparison take any session; they are given this one, and know
nothing of watching. What serves has the session itself.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

from stoker.device import DeviceReport
from stoker.engine.load_watch import NextRun
from stoker.model import ModelVersion
from stoker.runtime.cuda_graphs import NOT_CAPTURED, GraphSupport
from stoker.runtime.device_memory import DeviceMemory
from stoker.runtime.session import Binding, BoundTensor, Session
from stoker.tensor import Array, TensorSpec

Watch: TypeAlias = Callable[[ModelVersion, str, str], AbstractContextManager[NextRun]]
"""Sees that what runs a version on a device ends; the last argument names it."""


def not_watched(identity: ModelVersion, device: str, what: str) -> AbstractContextManager[NextRun]:
    """Sees nothing."""
    return nullcontext(lambda: None)


class WatchedSession:
    """Implements `Session` by another one. Does not own it."""

    def __init__(
        self, session: Session, watch: Callable[[], AbstractContextManager[object]]
    ) -> None:
        """Each run is inside of a `watch()`."""
        self._session = session
        self._watch = watch

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Implements `Session`."""
        return self._session.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Implements `Session`."""
        return self._session.outputs

    @property
    def dimension_names(self) -> Mapping[str, tuple[str | None, ...]]:
        """Implements `Session`."""
        return self._session.dimension_names

    @property
    def unranked(self) -> frozenset[str]:
        """Implements `Session`."""
        return self._session.unranked

    @property
    def device(self) -> str:
        """Implements `Session`."""
        return self._session.device

    @property
    def report(self) -> DeviceReport:
        """Implements `Session`."""
        return self._session.report

    @property
    def memory(self) -> DeviceMemory | None:
        """Implements `Session`."""
        return self._session.memory

    @property
    def graphs(self) -> GraphSupport:
        """Implements `Session`."""
        return self._session.graphs

    def run(
        self,
        feeds: Mapping[str, Array],
        outputs: Sequence[str],
        into: Mapping[str, Array] | None = None,
    ) -> list[Array]:
        """Implements `Session`."""
        with self._watch():
            return self._session.run(feeds, outputs, into)

    def bind(
        self,
        inputs: Sequence[BoundTensor],
        outputs: Sequence[BoundTensor],
        graph: int = NOT_CAPTURED,
    ) -> Binding:
        """Implements `Session`. Runs of the binding are not watched."""
        return self._session.bind(inputs, outputs, graph)

    def give_up_graphs(self, problem: str) -> None:
        """Implements `Session`."""
        self._session.give_up_graphs(problem)

    def close(self) -> None:
        """Implements `Session`."""
        self._session.close()
