"""What the engine knows of a model before any request: its tensors and how requests must fit.

`ModelPlan.check` is the second step of a request, after its codec: names, datatypes, shapes and
batch size against the configuration. The verdict depends only on the request's kind, so it is
remembered: a client that repeats itself pays one dictionary look-up. Knows nothing of queues or
ONNX Runtime.  Hot path.  Source: Triton's rules for requests, docs/models.md "Requests".
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from stoker.errors import InvalidRequest
from stoker.model import ModelConfig, ModelVersion, TensorConfig
from stoker.request import InferRequest, RequestKind, TensorHead
from stoker.runtime.bucket_dimension import DimensionBuckets
from stoker.tensor import DataType, shape_text

REMEMBERED_KINDS: Final = 1024
"""Kinds of requests remembered per model; a client that never repeats one costs no memory."""


@dataclass(frozen=True, slots=True)
class RequestForm:
    """The verdict on one combination of names, datatypes, shapes and requested outputs."""

    rows: int
    signature: tuple[tuple[int, ...] | None, ...]
    """Item shapes in the plan's input order, None for an input left out: what must match inside
    a batch."""
    order: tuple[int, ...]
    """For each input of the plan its place in the request; -1 when left out."""
    outputs: tuple[int, ...]
    """Indices into the plan's outputs, in the order of the answer."""
    elements: int
    """Elements of one row over all inputs: the size that a cost bucket is keyed by."""
    size: int = 0
    """Of the model's bucketed dimension, as the client sent it; 0 without one."""
    edge: int = 0
    """What that is filled up to: the size in `signature`."""


class OutputForm(NamedTuple):
    """What all batches with outputs of the same shapes have in common."""

    heads: tuple[TensorHead, ...]
    places: tuple[int, ...]
    """Of all outputs, for an answer that has them all."""
    shared: dict[object, Any]
    """See `OutputBatch`."""


@dataclass(frozen=True, slots=True)
class PlannedInput:
    """One input: what clients send and what the model gets."""

    name: str
    datatype: DataType
    dims: tuple[int, ...]
    model_dims: tuple[int, ...]
    optional: bool

    def model_item(self, item: tuple[int, ...]) -> tuple[int, ...]:
        """The model's item shape for a client's: each -1 of a reshape takes the client's value."""
        return _reshaped(item, self.dims, self.model_dims)


@dataclass(frozen=True, slots=True)
class PlannedOutput:
    """One output: what the model gives and what clients get."""

    name: str
    datatype: DataType
    dims: tuple[int, ...]
    model_dims: tuple[int, ...]

    def client_item(self, item: tuple[int, ...]) -> tuple[int, ...]:
        """The client's item shape for the one that the model produced.

        A model may produce another rank than it declares; its shape is then passed on as it is.
        """
        if self.dims == self.model_dims or len(item) != len(self.model_dims):
            return item
        return _reshaped(item, self.model_dims, self.dims)


class ModelPlan:
    """The fixed facts of one served version."""

    def __init__(
        self,
        identity: ModelVersion,
        config: ModelConfig,
        dimension: DimensionBuckets | None = None,
    ) -> None:
        self.identity = identity
        self.dimension = dimension
        self.config = config
        self.version = str(identity.version)
        self.batches = config.batches
        self.max_batch_size = max(1, config.max_batch_size)
        self.inputs = tuple(_planned_input(each) for each in config.inputs)
        self.outputs = tuple(_planned_output(each) for each in config.outputs)
        self.output_names = tuple(each.name for each in self.outputs)
        self._names: dict[tuple[int, ...], list[str]] = {}
        self.output_forms: dict[object, OutputForm] = {}
        """By what `batch.split` sees of a batch's outputs; it bounds them. For any thread."""
        self.splits_oversized = True
        self._inputs = {each.name: index for index, each in enumerate(self.inputs)}
        self._outputs = {each.name: index for index, each in enumerate(self.outputs)}
        self._all_outputs = tuple(range(len(self.outputs)))
        self._forms: dict[RequestKind, RequestForm] = {}

    def check(self, request: InferRequest) -> RequestForm:
        """The form of a request that fits. Raises InvalidRequest, naming model and tensor."""
        kind = request.kind
        form = self._forms.get(kind)
        if form is None:
            form = self._form(kind)
            if kind.is_small:
                if len(self._forms) >= REMEMBERED_KINDS:
                    self._forms.clear()
                self._forms[kind] = form
        return form

    def names(self, outputs: tuple[int, ...]) -> Sequence[str]:
        """The names of these outputs, by their indices. For any thread."""
        names = self._names.get(outputs)
        if names is None:
            names = [self.output_names[index] for index in outputs]
            if len(self._names) >= REMEMBERED_KINDS:
                self._names.clear()
            self._names[outputs] = names
        return names

    def _form(self, kind: RequestKind) -> RequestForm:
        outputs = self._requested(kind.requested_outputs)
        places = self._places(kind.inputs)
        rows = self._rows(kind.inputs)
        if rows > self.max_batch_size and not self.splits_oversized:
            raise InvalidRequest(
                f"request to {self.identity}: expected at most max_batch_size "
                f"{self.max_batch_size} rows, got {rows}"
            )
        signature: list[tuple[int, ...] | None] = []
        elements = 0
        for planned, place in zip(self.inputs, places, strict=True):
            if place < 0:
                signature.append(None)
                continue
            tensor = kind.inputs[place]
            self._check_tensor(planned, tensor)
            item = tensor.shape[1:] if self.batches else tensor.shape
            signature.append(item)
            elements += math.prod(item)
        if self.dimension is None:
            return RequestForm(rows, tuple(signature), places, outputs, elements)
        size = self._size(self.dimension, signature)
        edge = self.dimension.edge(size)
        filled = tuple(
            [
                None if item is None else self.dimension.resized(planned.name, item, edge)
                for planned, item in zip(self.inputs, signature, strict=True)
            ]
        )
        elements = sum([math.prod(item) for item in filled if item is not None])
        return RequestForm(rows, filled, places, outputs, elements, size, edge)

    def _size(self, dimension: DimensionBuckets, items: Sequence[tuple[int, ...] | None]) -> int:
        """The one size that the bucketed dimension has in all inputs."""
        sizes = {
            item[at]
            for planned, item in zip(self.inputs, items, strict=True)
            if item is not None
            for at in dimension.inputs.get(planned.name, ())
        }
        if len(sizes) > 1:
            raise InvalidRequest(
                f"request to {self.identity}: expected one size of the dimension "
                f"'{dimension.symbol}' in all inputs, got {', '.join(map(str, sorted(sizes)))}"
            )
        return sizes.pop() if sizes else 0

    def _requested(self, names: tuple[str, ...]) -> tuple[int, ...]:
        if not names:
            return self._all_outputs
        for name in names:
            if name not in self._outputs:
                raise InvalidRequest(
                    f"request to {self.identity}: expected outputs out of "
                    f"{', '.join(self.output_names)}, got '{name}'"
                )
        if len(set(names)) != len(names):
            raise InvalidRequest(
                f"request to {self.identity}: expected each output once, got {', '.join(names)}"
            )
        return tuple(self._outputs[name] for name in names)

    def _places(self, tensors: tuple[TensorHead, ...]) -> tuple[int, ...]:
        places = [-1] * len(self.inputs)
        for place, tensor in enumerate(tensors):
            index = self._inputs.get(tensor.name)
            if index is None:
                raise InvalidRequest(
                    f"request to {self.identity}: expected inputs out of "
                    f"{', '.join(self._inputs)}, got '{tensor.name}'"
                )
            if places[index] >= 0:
                raise InvalidRequest(
                    f"request to {self.identity}: expected each input once, "
                    f"got '{tensor.name}' twice"
                )
            places[index] = place
        missing = [
            planned.name
            for planned, place in zip(self.inputs, places, strict=True)
            if place < 0 and not planned.optional
        ]
        if missing:
            raise InvalidRequest(
                f"request to {self.identity}: expected "
                f"{sum(not each.optional for each in self.inputs)} inputs, got {len(tensors)}; "
                f"missing: {', '.join(missing)}"
            )
        return tuple(places)

    def _rows(self, tensors: tuple[TensorHead, ...]) -> int:
        if not self.batches:
            return 1
        rows: int | None = None
        for tensor in tensors:
            if not tensor.shape:
                raise InvalidRequest(
                    f"input '{tensor.name}' of {self.identity}: expected a batch dimension first, "
                    "got shape []"
                )
            if rows is None:
                rows = tensor.shape[0]
            elif tensor.shape[0] != rows:
                raise InvalidRequest(
                    f"input '{tensor.name}' of {self.identity}: expected {rows} rows as the "
                    f"inputs before it, got {tensor.shape[0]}"
                )
        if rows is None:
            return 1
        if rows < 1:
            raise InvalidRequest(f"request to {self.identity}: expected at least 1 row, got {rows}")
        return rows

    def _check_tensor(self, planned: PlannedInput, tensor: TensorHead) -> None:
        item = tensor.shape[1:] if self.batches else tensor.shape
        if tensor.datatype is planned.datatype and len(item) == len(planned.dims):
            for got, expected in zip(item, planned.dims, strict=True):
                if got < 0 or (got != expected and expected != -1):
                    break
            else:
                return
        lead = (-1,) if self.batches else ()
        raise InvalidRequest(
            f"input '{planned.name}' of {self.identity}: expected {planned.datatype.wire} "
            f"{shape_text(lead + planned.dims)}, got {tensor.datatype.wire} "
            f"{shape_text(tensor.shape)}"
        )


def parameter_is_off(parameters: Mapping[str, str], name: str) -> bool:
    """Whether a switch among the configuration's `parameters` is turned off."""
    return parameters.get(name, "").strip().lower() in ("off", "0", "false", "no")


def _planned_input(config: TensorConfig) -> PlannedInput:
    model_dims = config.dims if config.reshape is None else config.reshape
    return PlannedInput(config.name, config.datatype, config.dims, model_dims, config.optional)


def _planned_output(config: TensorConfig) -> PlannedOutput:
    model_dims = config.dims if config.reshape is None else config.reshape
    return PlannedOutput(config.name, config.datatype, config.dims, model_dims)


def _reshaped(
    item: tuple[int, ...], from_dims: tuple[int, ...], to_dims: tuple[int, ...]
) -> tuple[int, ...]:
    if from_dims == to_dims:
        return item
    variable = iter([got for got, dim in zip(item, from_dims, strict=True) if dim == -1])
    return tuple(next(variable) if dim == -1 else dim for dim in to_dims)
