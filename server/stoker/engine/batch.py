"""From requests to arrays and back: `assemble` before the run, `split` after it.

Fourth and sixth step of a request, on the thread of the run. Copy 2 of the way happens here: rows
go one after another into a slab of the instance; a batch of one uses the request's own bytes where
they are aligned. Nothing here waits or knows a queue.  Hot path.

Which copy, measured (design, section "The way of a request"): `b"".join` is fastest for small
tensors, whatever holds them; above 64 KiB it would hold the GIL for the whole copy, while assigning
rows into an array releases it.
"""

from collections.abc import Sequence
from math import prod
from typing import Final

import numpy as np

from stoker.engine.padding import is_padded, lay
from stoker.engine.plan import (
    REMEMBERED_KINDS,
    ModelPlan,
    OutputForm,
    PlannedInput,
    RequestForm,
)
from stoker.errors import ExecutionFailed
from stoker.request import InferRequest, InferResponse, Lease, OutputBatch, TensorHead
from stoker.runtime.bucket_dimension import DimensionBuckets
from stoker.tensor import Array, Raw, as_array, shape_text

JOIN_BYTES: Final = 1 << 16

KEPT_BYTES: Final = 1 << 26
"""A slab has room for the largest batch up to 64 MiB; beyond, for the batches that come."""


class InputSlabs:
    """The buffers that an instance's batches are laid out in, kept while the item shape repeats.

    Used by one thread at a time; an array handed out is valid until the instance's next batch.
    """

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._slabs: dict[str, Array] = {}

    def rows(self, planned: PlannedInput, rows: int, item: tuple[int, ...]) -> Array:
        """An uninitialised array [rows, *item] of the input's datatype."""
        slab = self._slabs.get(planned.name)
        if slab is None or slab.shape[1:] != item or slab.shape[0] < rows:
            row_bytes = max(1, prod(item) * planned.datatype.size)
            room = max(rows, min(self._max_rows, KEPT_BYTES // row_bytes))
            slab = np.empty((room, *item), planned.datatype.numpy)
            self._slabs[planned.name] = slab
        return slab[:rows]


def assemble(
    requests: Sequence[InferRequest],
    forms: Sequence[RequestForm],
    plan: ModelPlan,
    slabs: InputSlabs,
) -> dict[str, Array]:
    """Lays the requests' rows one after another along axis 0.

    All forms have the same signature. Each input is [rows_i, *item_shape] of the model's datatype;
    the result holds [sum(rows_i), *model_item_shape] by input name, valid until the next batch of
    these slabs. A model without a batch dimension takes exactly one request.
    """
    if len(requests) == 1:
        return _alone(requests[0], forms[0], plan)
    feeds: dict[str, Array] = {}
    first = forms[0]
    total = sum([form.rows for form in forms])
    for index, planned in enumerate(plan.inputs):
        item = first.signature[index]
        if item is None:
            continue
        pieces = pieces_of(requests, forms, index)
        joined = _joined(pieces, forms, planned, item, slabs, plan.dimension)
        feeds[planned.name] = joined.reshape((total, *planned.model_item(item)))
    return feeds


def pieces_of(
    requests: Sequence[InferRequest], forms: Sequence[RequestForm], index: int
) -> list[Raw | Array]:
    """The data of the plan's input `index`, of each request."""
    first = forms[0]
    if forms.count(first) == len(forms):
        order = first.order[index]
        return [request.data[order] for request in requests]
    return [request.data[form.order[index]] for request, form in zip(requests, forms, strict=True)]


def joined_bytes(pieces: Sequence[Raw | Array]) -> bytes | None:
    """Small pieces one after another: arrays and views take half of what assigning them to an array
    takes (benchmarks/results/0009-fixed-bindings.md). None where one is not contiguous."""
    try:
        return b"".join(pieces)  # type: ignore[arg-type]  # arrays are buffers as well
    except (TypeError, BufferError, ValueError):  # numpy's choice of the three is its own
        return None


def _alone(request: InferRequest, form: RequestForm, plan: ModelPlan) -> dict[str, Array]:
    """One request's own bytes, where they are aligned."""
    feeds: dict[str, Array] = {}
    for planned, item, order in zip(plan.inputs, form.signature, form.order, strict=True):
        if item is None:
            continue
        item = planned.model_item(item)
        data = request.data[order]
        shape = (form.rows, *item) if plan.batches else item
        if plan.dimension is not None and form.size != form.edge:
            array = np.empty(shape, planned.datatype.numpy)
            lay(data, array, form, planned, plan.dimension, batches=plan.batches)
            feeds[planned.name] = array
            continue
        array = as_array(data, planned.datatype, shape)
        if type(data) is not bytes:  # which are aligned for every datatype
            flags = array.flags
            if not (flags.aligned and flags.c_contiguous):
                array = np.array(array, order="C")
        feeds[planned.name] = array
    return feeds


def _joined(
    pieces: Sequence[Raw | Array],
    forms: Sequence[RequestForm],
    planned: PlannedInput,
    item: tuple[int, ...],
    slabs: InputSlabs,
    dimension: DimensionBuckets | None,
) -> Array:
    datatype = planned.datatype
    if dimension is not None and planned.name in dimension.inputs and is_padded(forms):
        into = slabs.rows(planned, sum([form.rows for form in forms]), item)
        at = 0
        for piece, form in zip(pieces, forms, strict=True):
            lay(piece, into[at : at + form.rows], form, planned, dimension, batches=True)
            at += form.rows
        return into
    if datatype.numpy.hasobject:
        return np.concatenate(
            [
                as_array(piece, datatype, (form.rows, *item))
                for piece, form in zip(pieces, forms, strict=True)
            ]
        )
    rows = sum([form.rows for form in forms])
    if rows * prod(item) * datatype.size <= JOIN_BYTES:
        small = joined_bytes(pieces)
        if small is not None:
            return np.frombuffer(small, datatype.numpy)
    into = slabs.rows(planned, rows, item)
    at = 0
    for piece, form in zip(pieces, forms, strict=True):
        rows = form.rows
        into[at : at + rows] = as_array(piece, datatype, (rows, *item))
        at += rows
    return into


def wanted_outputs(forms: Sequence[RequestForm]) -> tuple[int, ...]:
    """The plan's output indices that at least one request of the batch asks for."""
    first = forms[0].outputs
    for form in forms:
        if form.outputs is not first and form.outputs != first:
            break
    else:
        return first
    return tuple(sorted({index for form in forms for index in form.outputs}))


def split(
    wanted: tuple[int, ...],
    made: Sequence[Array],
    requests: Sequence[InferRequest],
    forms: Sequence[RequestForm],
    plan: ModelPlan,
    lease: Lease | None = None,
) -> list[InferResponse]:
    """Cuts the batch's outputs into each request's own, as views: the reverse of `assemble`.

    `made` is what the model produced for the plan's output indices `wanted`. Raises ExecutionFailed
    when the first dimension of an output is not the batch's rows.
    """
    total = 0
    for form in forms:
        total += form.rows
    heads, places, shared = output_form(wanted, made, total, plan)
    batch = OutputBatch(plan.identity.name, plan.version, heads, tuple(made), lease, shared)
    answers: list[InferResponse] = []
    at = 0
    known = wanted
    for request, form in zip(requests, forms, strict=True):
        if form.outputs is not known and form.outputs != known:
            known = form.outputs
            places = tuple([wanted.index(each) for each in known])
        rows = form.rows
        answers.append(InferResponse(batch, places, at, rows if plan.batches else -1, request.id))
        at += rows
    return answers


def output_form(
    wanted: tuple[int, ...], made: Sequence[Array], total: int, plan: ModelPlan
) -> OutputForm:
    """What these outputs, of a batch of `total` rows, are to clients. Raises as `split`."""
    seen = (wanted, total, *[array.shape for array in made])
    made_form = plan.output_forms.get(seen)
    if made_form is None:
        if len(plan.output_forms) >= REMEMBERED_KINDS:
            plan.output_forms.clear()
        made_form = plan.output_forms[seen] = _output_form(wanted, made, total, plan)
    return made_form


def _output_form(
    wanted: tuple[int, ...], made: Sequence[Array], total: int, plan: ModelPlan
) -> OutputForm:
    heads: list[TensorHead] = []
    for index, array in zip(wanted, made, strict=True):
        planned = plan.outputs[index]
        shape = array.shape
        if not plan.batches:
            shape = planned.client_item(shape)
        elif array.ndim == 0 or shape[0] != total:
            raise ExecutionFailed(
                f"output '{planned.name}' of {plan.identity}: expected {total} rows first, the "
                f"model produced {shape_text(shape)}"
            )
        elif planned.dims != planned.model_dims:
            shape = (total, *planned.client_item(shape[1:]))
        heads.append(TensorHead(planned.name, planned.datatype, shape))
    return OutputForm(tuple(heads), tuple(range(len(wanted))), {})
