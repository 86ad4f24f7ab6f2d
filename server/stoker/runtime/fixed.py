"""Level 1: runs of one session through bindings that are made once, at fixed addresses.

`Session.run` describes inputs and outputs to ONNX Runtime anew in each run and takes memory for
the outputs; here each batch size has a binding, kept for the session's life, to prefixes of buffers
that are as large as the largest batch. The steps are the same on every device (rows are in the
slabs before): copy in, zero the padding, run, copy the real rows out, wait; where the device is the
CPU the slabs are bound themselves and nothing is copied.

  1. Level 0, `Session.run`, is always right. Whoever uses this keeps it as the fallback.
  2. A bound output must have exactly the produced shape, so only outputs that a run made as
     declared come here; on a GPU, others are allocated by ONNX Runtime and read after the run.
  3. An output goes into a slab that is lent for the batch, or is copied out of a slab of ours
     before the next run: answers are encoded later than that begins.
One thread at a time. Knows no requests.  Hot path.  Measured: benchmarks/results/0009.
Source: reference, ONNX Runtime on NVIDIA GPUs, sections 3.2 and 3.4.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final, NamedTuple, TypeAlias

import numpy as np

from stoker.errors import DeviceFailed, ExecutionFailed, OutOfMemory, Reach
from stoker.runtime.buckets import Buckets
from stoker.runtime.cuda_graphs import NOT_CAPTURED, verify
from stoker.runtime.device_memory import DeviceMemory
from stoker.runtime.fixed_shapes import FixedShapes, FixedTensor
from stoker.runtime.session import Binding, BoundTensor, OutputMismatch, Session
from stoker.runtime.warmup import random_values
from stoker.tensor import Array

COPIED_BYTES: Final = 1 << 16
"""An output that is smaller than this in a batch is copied after the run: that costs less than a
lease. What is larger needs a slab that is lent."""

MOST_DISTINCT: Final = 1 << 18
"""Random elements that fill a slab of any size, again and again: drawing more takes long."""

MOST_BINDINGS: Final = 1024
"""Kept at once, some 2 KiB each; at the limit all are made anew."""


WatchRun: TypeAlias = Callable[[], AbstractContextManager[object]]
"""Sees that a run ends."""


class BoundInput:
    """The buffers of one input."""

    __slots__ = ("address", "array", "host", "raw", "row_bytes", "tensor")

    def __init__(self, memory: DeviceMemory, shapes: FixedShapes, tensor: FixedTensor) -> None:
        nbytes = tensor.row_bytes * shapes.max_rows
        slab = memory.slab(nbytes)
        self.tensor = tensor
        self.row_bytes = tensor.row_bytes
        self.raw: memoryview = slab.array.data
        """All bytes of the slab: rows are gathered here."""
        self.array: Array = slab.array.view(tensor.datatype.numpy).reshape(
            (shapes.max_rows, *(tensor.item or ()))
        )
        """The same as [max_rows, *item]."""
        self.host = slab.address
        self.address = slab.address if memory.is_host else memory.allocate(nbytes)
        """Of the device."""


class LoneBuffers(NamedTuple):
    """A run of a number of rows whose inputs and outputs lie in slabs."""

    inputs: tuple[memoryview, ...]
    """The bytes that the run reads of each input."""
    run: Callable[[], None]
    """Raises as `Binding.run`."""
    outputs: tuple[Array, ...]
    """What it makes, valid until the next run: [rows, *item], or [*item] without a batch
    dimension."""


class FixedRuns:
    """The bindings of one instance with their buffers."""

    def __init__(
        self, session: Session, memory: DeviceMemory, shapes: FixedShapes, sizes: Buckets
    ) -> None:
        """Allocates the buffers of inputs. Raises OutOfMemory or DeviceFailed."""
        self._session = session
        self._memory = memory
        self._shapes = shapes
        self._sizes = sizes
        self._bindings: dict[tuple[int, tuple[int, ...], int], Binding] = {}
        self._own: dict[int, tuple[Array, int]] = {}
        """Slabs of outputs that are copied, and their addresses, by output; made when needed."""
        self._graphs: dict[int, Binding] = {}
        """By bucket, with all outputs."""
        self._on_device: dict[int, int] = {}
        """Device buffers of outputs, where slabs are not bound themselves."""
        memory.enter()
        self.inputs = tuple([BoundInput(memory, shapes, each) for each in shapes.inputs])

    @property
    def is_host(self) -> bool:
        """Whether runs can read memory of requests where it lies."""
        return self._memory.is_host

    def bucket(self, rows: int) -> int:
        """How many rows a run of `rows` real ones has."""
        return self._sizes.of(rows)

    def needs_slab(self, output: int, rows: int) -> bool:
        """Whether a run of so many rows needs a lent slab for this output."""
        return self._shapes.outputs[output].row_bytes * rows >= COPIED_BYTES

    def run(
        self,
        rows: int,
        outputs: tuple[int, ...],
        lent: Mapping[int, Array],
        number: int,
        lone: Sequence[Array] | None = None,
    ) -> list[Array]:
        """Runs the first `rows` rows of the input slabs; gives the outputs of these indices.

        Each output is [rows, *item]: a view of the array in `lent`, which has the bucket's rows, or
        an array of its own. `number`: of the set of slabs that `lent` is; a set has the
        same arrays each time; 0 for none. `lone`: arrays of one request that fill a bucket, read
        where they lie instead of in the slabs; on the host only. Raises as `Binding.run`.
        """
        bucket = self._sizes.of(rows)
        binding = self._graphs.get(bucket)
        if binding is None:
            if not self._memory.is_host:
                number = 0  # bindings are to device buffers, whatever slab is copied to
            key = (bucket, outputs, number if lone is None else ~number)
            binding = self._bindings.get(key)
            if binding is None:
                binding = self._bind(key, lent)
        if lone is not None:
            for place, array in zip(self.inputs, lone, strict=True):
                tensor, address = place.tensor, int(array.__array_interface__["data"][0])
                binding.rebind(BoundTensor(tensor.name, tensor.datatype, array.shape, address))
        memory = self._memory
        if memory.is_host:
            if bucket != rows:
                self._pad(rows, bucket)
            binding.run()
        else:
            for index in outputs:  # the binding may have been made beside slabs that were lent
                if index not in lent and index not in self._own:
                    self._output_address(index, None)
            with memory.calls():
                self._steps(binding, rows, outputs, lent)
        return self._made(binding, rows, outputs, lent)

    def lone(self, rows: int, outputs: tuple[int, ...]) -> LoneBuffers | None:
        """For runs of so many rows and these outputs, again and again. None where a run is more
        than its binding: on a device, where it is filled up, where an output needs a slab. It holds
        as long as this does."""
        if (
            not self._memory.is_host
            or self._sizes.of(rows) != rows
            or self._graphs
            or any(self.needs_slab(index, rows) for index in outputs)
        ):
            return None
        key = (rows, outputs, 0)
        binding = self._bindings.get(key) or self._bind(key, {})
        batches = self._shapes.batches
        return LoneBuffers(
            tuple([place.raw[: place.row_bytes * rows] for place in self.inputs]),
            binding.run,
            tuple(
                [self._own[at][0][:rows] if batches else self._own[at][0][0, ...] for at in outputs]
            ),
        )

    def _steps(
        self, binding: Binding, rows: int, outputs: tuple[int, ...], lent: Mapping[int, Array]
    ) -> None:
        """On a device: everything of one run, in one stream."""
        memory, bucket = self._memory, self._sizes.of(rows)
        memory.enter()
        for place in self.inputs:
            memory.copy_in(place.address, place.host, rows * place.row_bytes)
        if bucket != rows:
            self._pad(rows, bucket)
        binding.run()
        for index in outputs:
            tensor = self._shapes.outputs[index]
            if tensor.item is not None:
                array = lent.get(index)
                host = self._own[index][1] if array is None else _address(array)
                memory.copy_out(host, self._on_device.get(index, host), rows * tensor.row_bytes)
        memory.wait()

    def _made(
        self, binding: Binding, rows: int, outputs: tuple[int, ...], lent: Mapping[int, Array]
    ) -> list[Array]:
        """The outputs of the run, without padding."""
        shapes = self._shapes
        made: list[Array] = []
        for index in outputs:
            into = lent.get(index)
            if into is not None:
                made.append(into[:rows] if shapes.batches else into)
            elif shapes.outputs[index].item is None:
                array = binding.made(shapes.outputs[index].name)
                is_padded = array.ndim and array.shape[0] == self._sizes.of(rows)
                made.append(array[:rows] if is_padded else array)
            else:
                own = self._own[index][0]
                made.append((own[:rows] if shapes.batches else own[0, ...]).copy())
        return made

    def warm(self, watch: WatchRun = nullcontext) -> None:
        """Runs each bucket once, the largest first, so that its memory is the one that all share.
        For the thread that will run batches. `watch` is around each run. Raises as `Binding.run`.
        """
        everything = tuple(range(len(self._shapes.outputs)))
        for bucket in reversed(self._buckets()):
            self._fill(bucket, 0)
            with watch():
                self.run(bucket, everything, {}, 0)

    def capture(self, first: int, watch: WatchRun = nullcontext) -> str | None:
        """Captures a CUDA graph for each bucket, the largest first, and verifies a replay of it.

        The graphs get the ids `first` and up. `watch` is around each run, and not around the wait
        for models that are being opened, which may be an engine that is built. None: runs replay
        them from here on. Else the reason why not, in words. Raises DeviceFailed.
        """
        everything = tuple(range(len(self._shapes.outputs)))
        names = [tensor.name for tensor in self._shapes.outputs]
        datatypes = {tensor.name: tensor.datatype for tensor in self._shapes.outputs}
        captured: dict[int, Binding] = {}
        for graph, bucket in enumerate(reversed(self._buckets()), first):
            try:
                binding = self._new_binding(bucket, everything, {}, graph)
                self._fill(bucket, 1)
                with self._memory.capture(), watch():
                    self._steps(binding, bucket, everything, {})
                self._fill(bucket, 2)
                with self._memory.calls(), watch():
                    self._steps(binding, bucket, everything, {})
                got = self._made(binding, bucket, everything, {})
                with watch():
                    expected = self.run(bucket, everything, {}, 0)
            except (ExecutionFailed, OutOfMemory, OutputMismatch) as error:
                return f"the graph of {bucket} rows could not be captured: {error}"
            except DeviceFailed as error:
                if error.reach is not Reach.RUN:  # a failed capture is the graph's alone
                    raise
                return f"the graph of {bucket} rows could not be captured: {error}"
            problem = verify(
                dict(zip(names, got, strict=True)),
                dict(zip(names, expected, strict=True)),
                datatypes,
            )
            if problem is not None:
                return f"{problem} ({bucket} rows)"
            captured[bucket] = binding
        self._graphs = captured
        return None

    def forget(self) -> None:
        """Bindings made so far are void: the session is another one."""
        self._bindings.clear()
        self._graphs = {}

    @property
    def captured(self) -> tuple[int, ...]:
        """The buckets that have a graph."""
        return tuple(sorted(self._graphs))

    def _buckets(self) -> tuple[int, ...]:
        return self._sizes.sizes or (self._shapes.max_rows,)

    def _fill(self, rows: int, seed: int) -> None:
        """Lays rows into the slabs that most models can run: small numbers, the same for the same
        seed; 0 is zeros."""
        for place in self.inputs:
            array = place.array[:rows]
            if seed == 0:
                array[...] = 0
                continue
            some = (min(array.size, MOST_DISTINCT),)
            values = random_values(place.tensor.datatype, some, np.random.default_rng(seed), 2)
            array[...] = np.resize(values, array.shape)

    def _pad(self, rows: int, bucket: int) -> None:
        """Zeros behind the real rows: what an earlier batch left there is another client's."""
        for place in self.inputs:
            self._memory.clear(
                place.address + rows * place.row_bytes, (bucket - rows) * place.row_bytes
            )

    def _bind(self, key: tuple[int, tuple[int, ...], int], lent: Mapping[int, Array]) -> Binding:
        bucket, outputs, _ = key
        binding = self._new_binding(bucket, outputs, lent, NOT_CAPTURED)
        if len(self._bindings) >= MOST_BINDINGS:
            self._bindings.clear()
        self._bindings[key] = binding
        return binding

    def _new_binding(
        self, bucket: int, outputs: tuple[int, ...], lent: Mapping[int, Array], graph: int
    ) -> Binding:
        shapes = self._shapes
        ins = []
        for place in self.inputs:
            tensor, shape = place.tensor, shapes.shape(place.tensor, bucket)
            ins.append(BoundTensor(tensor.name, tensor.datatype, shape, place.address))
        outs = []
        for index in outputs:
            wanted = shapes.outputs[index]
            into = lent.get(index)
            if into is None and self._memory.is_host and self.needs_slab(index, bucket):
                raise ValueError(f"output '{wanted.name}': {bucket} rows need a slab that is lent")
            address = self._output_address(index, into)
            shape = shapes.shape(wanted, bucket)
            outs.append(BoundTensor(wanted.name, wanted.datatype, shape, address))
        return self._session.bind(ins, outs, graph)

    def _output_address(self, index: int, lent: Array | None) -> int:
        """Where a run writes this output; makes the buffers that are not there yet."""
        shapes, memory = self._shapes, self._memory
        tensor = shapes.outputs[index]
        if tensor.item is None:
            return 0
        if lent is None and index not in self._own:
            rows = shapes.max_rows
            if memory.is_host:  # larger batches come with a slab
                rows = min(rows, -(-COPIED_BYTES // max(1, tensor.row_bytes)))
            slab = memory.slab(tensor.row_bytes * rows)
            array: Array = slab.array.view(tensor.datatype.numpy).reshape((rows, *tensor.item))
            self._own[index] = (array, slab.address)
        if memory.is_host:
            return _address(lent) if lent is not None else self._own[index][1]
        if index not in self._on_device:
            self._on_device[index] = memory.allocate(tensor.row_bytes * shapes.max_rows)
        return self._on_device[index]


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])
