"""From requests to arrays and back: `assemble` before the run, `split` after it.

Fourth and sixth step of a request, on the executor's thread. Copy 2 of the way happens here: rows
go one after another into a slab of the instance; a batch of one uses the request's own bytes where
they are aligned. Nothing here waits or knows a queue.  Hot path.

Which copy, measured (design, section "The way of a request"): `b"".join` of bytes objects is
fastest for small tensors; above 64 KiB it would hold the GIL for the whole copy, while assigning
rows into an array releases it.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Final

import numpy as np

from stoker.engine.plan import ModelPlan, PlannedInput, RequestForm
from stoker.errors import ExecutionFailed
from stoker.request import InferRequest
from stoker.tensor import Array, Tensor, shape_text

JOIN_BYTES: Final = 1 << 16

KEPT_BYTES: Final = 1 << 26
"""A slab has room for the largest batch up to 64 MiB; beyond, for the batches that come."""


class InputSlabs:
    """The buffers that an instance's batches are laid out in, kept while the item shape repeats.

    Owned by one executor thread; an array handed out is valid until the instance's next batch.
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
    feeds: dict[str, Array] = {}
    first = forms[0]
    total = sum(form.rows for form in forms)
    for index, planned in enumerate(plan.inputs):
        if first.order[index] < 0:
            continue
        tensors = [
            request.inputs[form.order[index]] for request, form in zip(requests, forms, strict=True)
        ]
        item = first.signature[index]
        if item is None:
            continue
        model_item = planned.model_item(item)
        shape = (total, *model_item) if plan.batches else model_item
        feeds[planned.name] = _joined(tensors, planned, item, total, slabs).reshape(shape)
    return feeds


def _joined(
    tensors: Sequence[Tensor],
    planned: PlannedInput,
    item: tuple[int, ...],
    total: int,
    slabs: InputSlabs,
) -> Array:
    if len(tensors) == 1:
        array = tensors[0].array()
        if array.flags.aligned and array.flags.c_contiguous:
            return array
        return np.array(array, order="C")
    if planned.datatype.numpy.hasobject:
        return np.concatenate([tensor.array() for tensor in tensors])
    if all(type(tensor.data) is bytes for tensor in tensors):
        pieces = [tensor.data for tensor in tensors]
        if sum(map(len, pieces)) <= JOIN_BYTES:
            return np.frombuffer(b"".join(pieces), planned.datatype.numpy)  # type: ignore[arg-type]  # all are bytes, checked above
    into = slabs.rows(planned, total, item)
    at = 0
    for tensor in tensors:
        rows = tensor.shape[0]
        into[at : at + rows] = tensor.array()
        at += rows
    return into


def wanted_outputs(forms: Sequence[RequestForm]) -> tuple[int, ...]:
    """The plan's output indices that at least one request of the batch asks for."""
    first = forms[0].outputs
    if all(form.outputs is first or form.outputs == first for form in forms):
        return first
    return tuple(sorted({index for form in forms for index in form.outputs}))


def split(
    outputs: Mapping[int, Array], forms: Sequence[RequestForm], plan: ModelPlan
) -> list[tuple[Tensor, ...]]:
    """Cuts the batch's outputs into each request's own, as views: the reverse of `assemble`.

    `outputs` maps the plan's output index to what the model produced. Raises ExecutionFailed when
    the first dimension of an output is not the batch's rows.
    """
    total = sum(form.rows for form in forms)
    if not plan.batches:
        (form,) = forms
        return [tuple(_whole(outputs[index], index, plan) for index in form.outputs)]
    for index, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != total:
            raise ExecutionFailed(
                f"output '{plan.outputs[index].name}' of {plan.identity}: expected {total} rows "
                f"first, the model produced {shape_text(array.shape)}"
            )
    items = {
        index: plan.outputs[index].client_item(array.shape[1:]) for index, array in outputs.items()
    }
    answers: list[tuple[Tensor, ...]] = []
    at = 0
    for form in forms:
        rows = form.rows
        answers.append(
            tuple(
                Tensor(
                    plan.outputs[index].name,
                    plan.outputs[index].datatype,
                    (rows, *items[index]),
                    outputs[index][at : at + rows],
                )
                for index in form.outputs
            )
        )
        at += rows
    return answers


def _whole(array: Array, index: int, plan: ModelPlan) -> Tensor:
    planned = plan.outputs[index]
    return Tensor(planned.name, planned.datatype, planned.client_item(array.shape), array)
