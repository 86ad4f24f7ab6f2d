"""Runs one opened model: ONNX Runtime's session behind `Session`.

Executors call `OnnxSession.run` from their threads; it releases the GIL. Knows nothing of requests
and batches, nor of how the session was opened (`onnx.py`).
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from weakref import WeakSet

import numpy as np

from stoker.device import CPU, DeviceReport
from stoker.errors import ExecutionFailed, InvalidRequest, OutOfMemory
from stoker.runtime import graph_scan
from stoker.runtime.bindings import OnnxBinding, address, array_of
from stoker.runtime.cuda_graphs import NO_GRAPHS, NOT_CAPTURED, GraphSupport
from stoker.runtime.described import Described
from stoker.runtime.device_memory import DeviceMemory
from stoker.runtime.memory import shrinks_arena
from stoker.runtime.options import ARENA_SHRINKAGE, GRAPH_KEY, SessionOptions
from stoker.runtime.session import Binding, BoundTensor
from stoker.runtime.session_facts import reread
from stoker.runtime.translation import translation
from stoker.tensor import Array, DataType, TensorSpec, shape_text

_LOG_FATAL: Final = 4

COPIED_BYTES: Final = 1 << 16
"""`InferenceSession.run` copies its outputs and holds the GIL meanwhile: 5 ms for 20 MB. A model
that made this much in its last run is run by a binding instead, whose outputs are taken as views;
for small outputs the binding costs more (9 against 6 us at 4 KiB)."""


class OnnxSession:
    """One opened model. Implements `Session`."""

    def __init__(
        self,
        ort: ModuleType,
        session: Any,
        path: Path,
        model: str,
        report: DeviceReport,
        options: SessionOptions,
        memory: DeviceMemory | None,
        *,
        graphs: GraphSupport = NO_GRAPHS,
        reopen: Callable[[], Any] | None = None,
    ) -> None:
        """Takes `memory` over. `reopen` gives a session like this one without CUDA graphs."""
        self._ort = ort
        self._session = session
        self._memory = memory
        self._graphs = graphs
        self._reopen = reopen
        self._model = model
        self._report = report
        declared = graph_scan.scan(path)
        optional = session.get_overridable_initializers()
        given = [Described(node, declared, model, "input") for node in session.get_inputs()]
        given += [Described(node, declared, model, "input", optional=True) for node in optional]
        made = [Described(node, declared, model, "output") for node in session.get_outputs()]
        self._inputs = tuple(each.spec for each in given)
        self._outputs = tuple(each.spec for each in made)
        self._dimension_names = {each.spec.name: each.symbols for each in given + made}
        self._unranked = frozenset(each.spec.name for each in given + made if each.is_unranked)
        self._datatypes = {spec.name: spec.datatype for spec in self._inputs + self._outputs}
        used = set(self._datatypes.values())
        self._has_text = DataType.BYTES in used
        self._has_bfloat = DataType.BF16 in used
        if self._has_text and self._has_bfloat:
            raise InvalidRequest(
                f"model '{model}' has both BYTES and BF16 tensors; ONNX Runtime's Python interface "
                "can pass only one of the two"
            )
        # ONNX Runtime gives such an output as the input itself: a bound one would not be written,
        # and the value that comes back is a view of the feed, whose memory is used again.
        self._passed_on = {spec.name for spec in self._inputs} & {
            spec.name for spec in self._outputs
        }
        self._run_entries = options.run_config_entries
        self._has_arena = options.memory_arena or report.device != CPU
        self._run_options = self._options()
        self._shrinking_options = self._options(ran_out=True)
        """Of the first run after one that ran out of memory."""
        self._ran_out = False
        self._is_bindable = not self._has_text and not self._passed_on
        self._bindings: WeakSet[OnnxBinding] = WeakSet()
        self._translation = translation(model, report.device)
        self._makes_much = False
        """The last run made outputs of COPIED_BYTES or more."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Implements `Session`."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Implements `Session`."""
        return self._outputs

    @property
    def dimension_names(self) -> Mapping[str, tuple[str | None, ...]]:
        """Implements `Session`."""
        return self._dimension_names

    @property
    def unranked(self) -> frozenset[str]:
        """Implements `Session`."""
        return self._unranked

    @property
    def device(self) -> str:
        """Implements `Session`."""
        return self._report.device

    @property
    def report(self) -> DeviceReport:
        """Implements `Session`."""
        if self.device == CPU:
            return self._report
        return replace(self._report, cuda_graphs=str(self._graphs))

    def run(
        self,
        feeds: Mapping[str, Array],
        outputs: Sequence[str],
        into: Mapping[str, Array] | None = None,
    ) -> list[Array]:
        """Implements `Session`.  Hot path."""
        try:
            if self._memory is not None and not self._memory.is_host:
                with self._memory.calls():
                    return self._run(feeds, outputs, into)
            return self._run(feeds, outputs, into)
        except OutOfMemory:
            self.ran_out()
            raise

    def ran_out(self) -> None:
        """A run found no memory: the next one here gives back what the arena does not use."""
        self._ran_out = True

    def _run(
        self,
        feeds: Mapping[str, Array],
        outputs: Sequence[str],
        into: Mapping[str, Array] | None,
    ) -> list[Array]:
        with self._translation:
            if self._has_bfloat or ((into or self._makes_much) and self._is_bindable):
                made = self._run_bound(feeds, outputs, into or {})
                self._makes_much = _nbytes(made) >= COPIED_BYTES
                return made
            made = self._session.run(list(outputs), dict(feeds), self._next_options())
            self._makes_much = _nbytes(made) >= COPIED_BYTES
        if into:
            return [self._copied(*each, into) for each in zip(outputs, made, strict=True)]
        # Results of the declared datatype; scalars as 0-d arrays.
        return [np.asarray(array) for array in made]

    def _next_options(self) -> Any:
        """The options of the run that begins: ONNX Runtime reads them, and keeps nothing."""
        if self._ran_out:
            self._ran_out = False
            return self._shrinking_options
        return self._run_options

    def _run_bound(
        self, feeds: Mapping[str, Array], outputs: Sequence[str], into: Mapping[str, Array]
    ) -> list[Array]:
        binding = self._session.io_binding()
        kept = []  # ONNX Runtime holds bare pointers: the arrays must outlive the run
        for name, array in feeds.items():
            if self._datatypes.get(name) is DataType.BF16:
                packed = np.ascontiguousarray(array, DataType.BF16.numpy)  # scalars become 1-d
                kept.append(packed)
                binding.bind_input(
                    name, "cpu", 0, DataType.BF16.onnx_number, array.shape, address(packed)
                )
            else:
                binding.bind_cpu_input(name, array)
        for name in outputs:
            target = None if name in self._passed_on else into.get(name)
            if target is None:
                binding.bind_output(name, "cpu")
                continue
            self._check_target(name, target)
            number = self._datatypes[name].onnx_number
            binding.bind_output(name, "cpu", 0, number, target.shape, address(target))
        self._session.run_with_iobinding(binding, self._next_options())
        made = []
        for name, value in zip(outputs, binding.get_outputs(), strict=True):
            if name in self._passed_on:
                array = np.array(array_of(value, self._datatypes[name]))
                made.append(self._copied(name, array, into))
            elif name in into:
                made.append(into[name])
            else:
                made.append(array_of(value, self._datatypes[name]))
        del kept
        return made

    def _check_target(self, name: str, target: Array) -> None:
        datatype = self._datatypes.get(name)
        fits = datatype is not None and target.dtype == datatype.numpy
        if not fits or not target.flags.c_contiguous or not target.flags.writeable:
            raise ExecutionFailed(
                f"output '{name}': expected writable C-contiguous memory of "
                f"{datatype.wire if datatype else 'a known output'}, got {target.dtype} "
                f"{shape_text(target.shape)}"
            )

    def _copied(self, name: str, array: Array, into: Mapping[str, Array]) -> Array:
        target = into.get(name)
        if target is None:
            return array
        self._check_target(name, target)
        if target.shape != array.shape:
            raise ExecutionFailed(
                f"output '{name}': expected memory for {shape_text(array.shape)}, "
                f"got {shape_text(target.shape)}"
            )
        target[...] = array
        return target

    @property
    def memory(self) -> DeviceMemory | None:
        """Implements `Session`."""
        is_here = self._memory is not None and self._memory.is_host == (self.device == CPU)
        return self._memory if is_here and self._is_bindable else None

    @property
    def graphs(self) -> GraphSupport:
        """Implements `Session`."""
        return self._graphs

    def give_up_graphs(self, problem: str) -> None:
        """Implements `Session`."""
        self._graphs = replace(self._graphs, problem=problem)
        if self._reopen is not None:
            self._end()  # its memory makes room for the other's
            self._session = self._reopen()
            self._report = reread(self._report, self._session)
        self._run_options = self._options()  # the arena may shrink from here on
        self._shrinking_options = self._options(ran_out=True)

    def bind(
        self,
        inputs: Sequence[BoundTensor],
        outputs: Sequence[BoundTensor],
        graph: int = NOT_CAPTURED,
    ) -> Binding:
        """Implements `Session`."""
        memory = self.memory
        if memory is None:
            raise ExecutionFailed(f"model '{self._model}' has tensors that cannot be bound")
        # With a stream of our own the end of a run is waited for together with the copies behind
        # it. What ONNX Runtime allocated is read by it at once, and must be there.
        is_awaited = not memory.is_host and all(each.address for each in outputs)
        options = self._options(graph, is_awaited=is_awaited)
        with self._translation:
            binding = OnnxBinding(
                self._session,
                memory,
                options,
                self._translation,
                inputs,
                outputs,
                self.ran_out,
            )
        self._bindings.add(binding)
        return binding

    def _options(
        self, graph: int = NOT_CAPTURED, *, is_awaited: bool = False, ran_out: bool = False
    ) -> Any:
        """Options of runs. `is_awaited`: somebody waits for the stream after a run; `ran_out`: the
        run before found no memory."""
        chosen = self._ort.RunOptions()
        chosen.log_severity_level = _LOG_FATAL  # a failed run raises; no log flood
        entries = {**self._run_entries, GRAPH_KEY: str(graph)}
        shrinks = shrinks_arena(
            asked=entries.pop(ARENA_SHRINKAGE, ""),
            device=self.device,
            ran_out=ran_out and self._has_arena,
            captures_graphs=self._graphs.captures,
        )
        if shrinks:
            entries[ARENA_SHRINKAGE] = shrinks
        if is_awaited:
            entries["disable_synchronize_execution_providers"] = "1"
        for key, value in entries.items():
            chosen.add_run_config_entry(key, value)
        return chosen

    def _end(self) -> None:
        """Ends ONNX Runtime's session, and the bindings, each of which keeps its weights."""
        with contextlib.nullcontext() if self._memory is None else self._memory.calls():
            for binding in self._bindings:
                binding.close()
            self._bindings.clear()
            self._session = None

    def close(self) -> None:
        """Implements `Session`."""
        self._end()
        self._reopen = None
        if self._memory is not None:
            self._memory.close()


def _nbytes(arrays: Sequence[Array]) -> int:
    return sum([array.nbytes for array in arrays])
