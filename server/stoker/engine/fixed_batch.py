"""Batches of one instance at level 1: rows straight into the slabs of bindings made once.

Stands in for `assemble` and `Session.run` where the model's shapes are fixed. The engine's side of
`runtime/fixed.py`: which batches go there, how requests' bytes get into the slabs, which outputs
get a slab that is lent. Knows no queue.  Hot path.

  1. An output comes here only after a run at level 0 made it as declared.
  2. A model that makes another shape later is run at level 0 from then on, that batch included.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Final

import numpy as np

from stoker.engine.batch import JOIN_BYTES, joined_bytes, output_form, pieces_of
from stoker.engine.lone import LoneRun
from stoker.engine.outputs import BatchLease, OutputPool
from stoker.engine.padding import is_padded, lay
from stoker.engine.plan import REMEMBERED_KINDS, ModelPlan, RequestForm
from stoker.errors import ExecutionFailed, OutOfMemory
from stoker.request import InferRequest
from stoker.runtime.bucket_dimension import DimensionBuckets
from stoker.runtime.buckets import Buckets
from stoker.runtime.fixed import COPIED_BYTES, BoundInput, FixedRuns, WatchRun
from stoker.runtime.fixed_shapes import FixedShapes, fixed_shapes
from stoker.runtime.session import OutputMismatch, Session
from stoker.runtime.warmup import blank
from stoker.telemetry.log import event
from stoker.tensor import Array, Raw, as_array

logger: Final = logging.getLogger(__name__)

LONE_BYTES: Final = 1 << 15
"""The inputs of a lone request that take more are read where they lie, on the CPU: binding them
anew (2 us an input) costs less than copying them. Where no output needs a slab, level 0 does that
for less still (benchmarks/results/0009-fixed-bindings.md)."""


class FixedBatches:
    """Level 1 of one instance. Used by one thread at a time."""

    def __init__(
        self,
        make_runs: Callable[[], FixedRuns],
        shapes: FixedShapes,
        plan: ModelPlan,
        pool: OutputPool,
        *,
        is_host: bool,
        edge: int | None = None,
    ) -> None:
        """`edge`: the size of the model's bucketed dimension in these batches. `make_runs` takes
        the memory, when the first run at level 0 has shown the outputs."""
        self._make_runs = make_runs
        self._runs: FixedRuns | None = None
        self._plan = plan
        self._pool = pool
        self._max_rows = shapes.max_rows
        self._shapes = shapes
        self._signature = tuple(
            [
                planned.dims if edge is None else tensor.item
                for planned, tensor in zip(plan.inputs, shapes.inputs, strict=True)
            ]
        )
        row_bytes = sum([tensor.row_bytes for tensor in shapes.inputs])
        self._lone_rows = LONE_BYTES // row_bytes if is_host else shapes.max_rows
        """A lone request of more is read where it lies."""
        least = max([tensor.row_bytes for tensor in shapes.outputs])
        self._slab_rows = -(-COPIED_BYTES // least) if least else shapes.max_rows + 1
        """From so many rows on some output needs a slab."""
        self._unseen = set(range(len(plan.outputs)))
        """Outputs that no run has made as declared."""
        self._is_closed = False
        self._lone: dict[int, LoneRun] = {}
        """By the identity of the form."""

    def observe(self, wanted: Sequence[int], made: Sequence[Array]) -> None:
        """Looks at outputs that a run at level 0 made."""
        if not self._unseen or self._is_closed:
            return
        for index, array in zip(wanted, made, strict=True):
            if index not in self._unseen:
                continue
            tensor = self._shapes.outputs[index]
            if tensor.item is None or array.shape[self._plan.batches :] == tensor.item:
                self._unseen.discard(index)
            else:
                self.close(f"output '{tensor.name}' is not made as it is declared")
        if self._runs is None and not self._is_closed:
            try:
                self._runs = self._make_runs()
            except OutOfMemory as error:
                self.close(error.message)

    def prepare(self, session: Session, watch: WatchRun = nullcontext) -> str | None:
        """Makes and warms all bindings, each run inside of a `watch()`. For the thread that will
        run batches, before there are any. The reason where that failed, in words: then the first
        batch brings the model to level 1, or nothing. Raises DeviceFailed."""
        rows = (1,) if self._plan.batches else ()
        feeds = {
            tensor.name: blank(tensor.datatype, (*rows, *(tensor.item or ())))
            for tensor in self._shapes.inputs
        }
        try:
            with watch():
                made = session.run(feeds, self._plan.output_names)
            self.observe(range(len(self._plan.outputs)), made)
            if self._runs is None:
                return "the model has no fixed bindings"
            self._runs.warm(watch)
        except OutputMismatch:
            self.close("the model makes outputs of another shape than it declares")
            return "outputs have another shape than the model declares"
        except (ExecutionFailed, OutOfMemory) as error:
            return f"the model does not run zeros: {error.message}"
        return None

    def capture(self, first: int, watch: WatchRun = nullcontext) -> str | None:
        """Captures graphs, see `FixedRuns.capture`; after `prepare` went well."""
        return self._running().capture(first, watch)

    def forget(self) -> None:
        """The session gave its graphs up: bindings are made anew."""
        self._lone.clear()
        if self._runs is not None:
            self._runs.forget()

    def close(self, reason: str) -> None:
        """Level 0 from here on."""
        if not self._is_closed:
            self._is_closed = True
            self._runs = None
            self._lone.clear()
            identity = self._plan.identity
            event(
                logger,
                "no_fixed_bindings",
                f"{identity} is run without fixed bindings: {reason}",
                model=identity.name,
                version=identity.version,
            )

    def fits(self, form: RequestForm) -> bool:
        """Whether these are the shapes of a request."""
        return form.signature == self._signature

    def takes(self, forms: Sequence[RequestForm], wanted: tuple[int, ...], rows: int) -> bool:
        """Whether a batch of these forms, which fit, is run here."""
        return (
            self._runs is not None
            and rows <= self._max_rows
            and (rows <= self._lone_rows or len(forms) > 1 or rows >= self._slab_rows)
            and (not self._unseen or self._unseen.isdisjoint(wanted))
        )

    def lone(self, form: RequestForm) -> LoneRun | None:
        """What runs one request of this form by itself; None where that is for `gather` and `run`,
        which do all that there is. Raises as they do where it cannot be made."""
        known = self._lone.get(id(form))
        if known is not None and known.form is form:
            return known
        if (
            self._runs is None
            or self._plan.dimension is not None
            or not self._pool.is_empty
            or not self.fits(form)
            or -1 in form.order
            or form.rows > self._lone_rows
            or not self.takes([form], form.outputs, form.rows)
        ):
            return None
        buffers = self._runs.lone(form.rows, form.outputs)
        if buffers is None:
            return None
        outputs = output_form(form.outputs, buffers.outputs, form.rows, self._plan)
        if len(self._lone) >= REMEMBERED_KINDS:
            self._lone.clear()
        made = self._lone[id(form)] = LoneRun(form, buffers, outputs, self._plan)
        return made

    def gather(
        self, requests: Sequence[InferRequest], forms: Sequence[RequestForm], rows: int
    ) -> list[Array] | None:
        """Lays the requests' rows into the slabs, one after another along axis 0.

        Gives arrays instead where one request is read in place.
        """
        runs = self._running()
        dimension = self._plan.dimension
        if dimension is not None and is_padded(forms):
            self._fill(requests, forms, dimension)
            return None
        if len(requests) == 1:
            if rows > self._lone_rows and runs.bucket(rows) == rows:
                lone = self._in_place(requests[0], forms[0])
                if lone is not None:
                    return lone
            data = requests[0].data
            for place, at in zip(runs.inputs, forms[0].order, strict=True):
                piece = data[at]
                nbytes = place.row_bytes * rows
                if nbytes <= JOIN_BYTES and not isinstance(piece, np.ndarray):
                    place.raw[:nbytes] = piece
                else:
                    self._assign(place, [piece], forms)
            return None
        for index, place in enumerate(runs.inputs):
            pieces = pieces_of(requests, forms, index)
            nbytes = place.row_bytes * rows
            small = joined_bytes(pieces) if nbytes <= JOIN_BYTES else None
            if small is not None:
                place.raw[:nbytes] = small
            else:
                self._assign(place, pieces, forms)
        return None

    def run(
        self, wanted: tuple[int, ...], rows: int, shares: int, lone: Sequence[Array] | None
    ) -> tuple[BatchLease | None, list[Array]] | None:
        """Runs what was gathered. None: there is no slab for an output that needs one. Raises
        as `Binding.run`."""
        runs = self._running()
        bucket = runs.bucket(rows)
        lent = (
            None
            if self._pool.is_empty
            else self._pool.lend(self._plan.names(wanted), bucket, shares)
        )
        arrays, lease = lent if lent is not None else ({}, None)
        names = self._plan.output_names
        into = {index: arrays[names[index]] for index in wanted if names[index] in arrays}
        if runs.is_host and any(
            index not in into and runs.needs_slab(index, bucket) for index in wanted
        ):  # none is free, or the pool has none for an output of the bucketed dimension
            if lease is not None:
                lease.release_all()
            return None
        if lease is None:
            return None, runs.run(rows, wanted, {}, 0, lone)
        try:
            return lease, runs.run(rows, wanted, into, lease.number, lone)
        except BaseException:
            lease.release_all()
            raise

    def _running(self) -> FixedRuns:
        if self._runs is None:
            raise ExecutionFailed(f"{self._plan.identity} has no fixed bindings")
        return self._runs

    def _in_place(self, request: InferRequest, form: RequestForm) -> list[Array] | None:
        """The request's own arrays, in the model's order; None where one is not aligned."""
        arrays = []
        for tensor, order in zip(self._shapes.inputs, form.order, strict=True):
            shape = self._shapes.shape(tensor, form.rows)
            array = as_array(request.data[order], tensor.datatype, shape)
            if not (array.flags.aligned and array.flags.c_contiguous):
                return None
            arrays.append(array)
        return arrays

    def _fill(
        self,
        requests: Sequence[InferRequest],
        forms: Sequence[RequestForm],
        dimension: DimensionBuckets,
    ) -> None:
        """Requests that are shorter than the bucket's edge, some of them."""
        batches = self._plan.batches
        for index, place in enumerate(self._running().inputs):
            planned = self._plan.inputs[index]
            at = 0
            for piece, form in zip(pieces_of(requests, forms, index), forms, strict=True):
                into = place.array[at : at + form.rows] if batches else place.array[0]
                lay(piece, into, form, planned, dimension, batches=batches)
                at += form.rows

    def _assign(
        self, place: BoundInput, pieces: Sequence[Raw | Array], forms: Sequence[RequestForm]
    ) -> None:
        """Row by row as arrays, without the GIL."""
        item = place.tensor.item or ()
        at = 0
        for piece, form in zip(pieces, forms, strict=True):
            rows = form.rows
            place.array[at : at + rows] = as_array(piece, place.tensor.datatype, (rows, *item))
            at += rows


def fixed_batches(
    session: Session, plan: ModelPlan, pool: OutputPool, *, max_rows: int, sizes: Buckets
) -> tuple[FixedBatches, ...]:
    """Level 1 of an instance, for each edge of a bucketed dimension; nothing for a model that has
    no fixed bindings."""
    memory, dimension = session.memory, plan.dimension
    found: list[FixedBatches] = []
    for edge in (None,) if dimension is None else dimension.edges:
        shapes = fixed_shapes(plan.config, session, max_rows, dimension, edge or 0)
        if isinstance(shapes, str) or memory is None:
            continue
        make = partial(FixedRuns, session, memory, shapes, sizes.within(shapes.max_rows))
        found.append(FixedBatches(make, shapes, plan, pool, is_host=memory.is_host, edge=edge))
    return tuple(found)
