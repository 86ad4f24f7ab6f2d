"""A session's inputs and outputs at fixed addresses: ONNX Runtime's IOBinding behind `Binding`.

`OnnxSession.bind` makes them, `fixed.py` keeps and runs them; they hold none of the memory. Beside
them the values that ONNX Runtime allocated itself, as arrays. Does not import onnxruntime: what is
given belongs to it.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import numpy as np

from stoker.errors import OutOfMemory
from stoker.runtime.device_memory import DeviceMemory
from stoker.runtime.session import BoundTensor, OutputMismatch
from stoker.tensor import Array, DataType

_MISMATCHES: Final = (
    "The output OrtValue provided for output",
    "Invalid rank for output:",
    "Got invalid dimensions for output:",
)
"""Texts of ONNX Runtime 1.31 for a bound output that has not the shape of the run."""


def is_output_mismatch(text: str) -> bool:
    """Whether a failure text says that a bound output has another shape than the run makes."""
    return any(each in text for each in _MISMATCHES)


class OnnxBinding:
    """Implements `Binding` with an IOBinding."""

    def __init__(
        self,
        session: Any,
        memory: DeviceMemory,
        run_options: Any,
        translation: AbstractContextManager[None],
        inputs: Sequence[BoundTensor],
        outputs: Sequence[BoundTensor],
        ran_out: Callable[[], None] = lambda: None,
    ) -> None:
        """`ran_out` is told of each run that found no memory."""
        self._session = session
        self._ran_out = ran_out
        self._kind, self._index = memory.kind, memory.index
        self._run_options = run_options
        self._translation = translation
        self._binding = session.io_binding()
        for each in inputs:
            self.rebind(each)
        for name, datatype, shape, address in outputs:
            if address:
                self._binding.bind_output(
                    name, self._kind, self._index, datatype.onnx_number, shape, address
                )
            else:
                self._binding.bind_output(name, "cpu")
        self._outputs = {each.name: place for place, each in enumerate(outputs)}
        self._allocated = [each.name for each in outputs if not each.address]
        self._datatypes = {each.name: each.datatype for each in outputs}
        self._run, self._inner = _bare_run(session, self._binding)

    def run(self) -> None:
        """Implements `Binding`.  Hot path."""
        # What the last run allocated would be written again, though its answers may be unsent, and
        # would have to have this run's shape.
        for name in self._allocated:
            self._binding.bind_output(name, "cpu")
        try:
            self._run(self._inner, self._run_options)
        except Exception as error:
            if is_output_mismatch(str(error)):
                raise OutputMismatch(str(error)) from error
            try:
                with self._translation:
                    raise
            except OutOfMemory:
                self._ran_out()
                raise

    def rebind(self, tensor: BoundTensor) -> None:
        """Implements `Binding`."""
        name, datatype, shape, address = tensor
        self._binding.bind_input(
            name, self._kind, self._index, datatype.onnx_number, shape, address
        )

    def made(self, name: str) -> Array:
        """Implements `Binding`."""
        with self._translation:
            value = self._binding.get_outputs()[self._outputs[name]]
            return array_of(value, self._datatypes[name])

    def close(self) -> None:
        """Lets go of the session."""
        self._session = self._binding = self._run = self._inner = None


def _bare_run(session: Any, binding: Any) -> tuple[Any, Any]:
    """What runs a binding, and what it is to be given with the run options.

    The method of ONNX Runtime's Python class looks after WebGPU sessions first: 2.7 us without it,
    3.6 with it (benchmarks/results/0009-fixed-bindings.md). A version without these attributes is
    called by the class.
    """
    inner = getattr(getattr(session, "_sess", None), "run_with_iobinding", None)
    bare = getattr(binding, "_iobinding", None)
    if inner is None or bare is None:
        return session.run_with_iobinding, binding
    return inner, bare


class _Memory:
    """Memory of an OrtValue that numpy cannot name (BF16), as uint16 without a copy."""

    def __init__(self, value: Any) -> None:
        self._value = value  # owns the memory
        self.__array_interface__ = {
            "shape": tuple(value.shape()),
            "typestr": "<u2",
            "data": (value.data_ptr(), False),
            "version": 3,
        }


def array_of(value: Any, datatype: DataType) -> Array:
    """The memory of an OrtValue in host memory: a view that keeps the value."""
    if datatype is not DataType.BF16:
        return np.asarray(value.numpy())
    if 0 in value.shape():
        return np.empty(tuple(value.shape()), datatype.numpy)
    return np.asarray(_Memory(value))


def address(array: Array) -> int:
    """Where the array's memory begins."""
    return int(array.__array_interface__["data"][0])
