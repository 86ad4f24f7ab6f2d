"""Requests of different lengths in one batch: rows filled up to a bucket's edge, answers cut back.

Beside `assemble` and `split`, for models with a `bucket_dimension` (`runtime/bucket_dimension.py`).
A form's signature holds the filled-up shapes, so that its batch is a batch like any other; `size`
and `edge` of the form say what is real in it.
"""

from collections.abc import Sequence

import numpy as np

from stoker.engine.plan import ModelPlan, PlannedInput, RequestForm
from stoker.request import InferRequest, InferResponse, OutputBatch, TensorHead
from stoker.runtime.bucket_dimension import DimensionBuckets
from stoker.tensor import Array, Raw, as_array


def is_padded(forms: Sequence[RequestForm]) -> bool:
    """Whether any of these has been filled up."""
    return any(form.size != form.edge for form in forms)


def lay(
    piece: Raw | Array,
    into: Array,
    form: RequestForm,
    planned: PlannedInput,
    dimension: DimensionBuckets,
    *,
    batches: bool,
) -> None:
    """Writes one request's rows of an input into `into`, [rows, *item] of the filled-up shape
    (just the item without a batch dimension), with zeros behind what is real."""
    item = into.shape[batches:]
    real = dimension.resized(planned.name, item, form.size)
    into[...] = 0
    region = (*[slice(None)] * batches, *[slice(size) for size in real])
    into[region] = as_array(piece, planned.datatype, (*into.shape[:batches], *real))


def split_cut(
    wanted: tuple[int, ...],
    made: Sequence[Array],
    requests: Sequence[InferRequest],
    forms: Sequence[RequestForm],
    plan: ModelPlan,
    dimension: DimensionBuckets,
) -> list[InferResponse]:
    """Each request's own rows of the batch's outputs, as copies without what was filled up.

    An output is cut where it carries the dimension's symbol and really has the edge's size.
    """
    answers: list[InferResponse] = []
    at = 0
    for request, form in zip(requests, forms, strict=True):
        heads: list[TensorHead] = []
        arrays: list[Array] = []
        for index in form.outputs:
            planned = plan.outputs[index]
            array = made[wanted.index(index)]
            if plan.batches:
                array = array[at : at + form.rows]
            first = int(plan.batches)
            region = [slice(None)] * array.ndim
            for place in dimension.outputs.get(planned.name, ()):
                if place + first < array.ndim and array.shape[place + first] == form.edge:
                    region[place + first] = slice(form.size)
            own = np.array(array[tuple(region)], order="C")
            arrays.append(own)
            shape = (*own.shape[:first], *planned.client_item(own.shape[first:]))
            heads.append(TensorHead(planned.name, planned.datatype, shape))
        batch = OutputBatch(plan.identity.name, plan.version, tuple(heads), tuple(arrays))
        places = tuple(range(len(arrays)))
        answers.append(
            InferResponse(batch, places, 0, form.rows if plan.batches else -1, request.id)
        )
        at += form.rows
    return answers
