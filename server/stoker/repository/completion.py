"""Completes a configuration from the opened model and holds the two against each other.

Pure: a message and what the model says of its tensors in, the effective message out. Shapes in
messages are the client's, `reshape` the model's where they differ.

Source: model repository reference, sections 3, 4 and its observations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from stoker.repository.config_checks import check_sizes, is_complete
from stoker.repository.defaults import Placed, fill_defaults
from stoker.repository.model_config import Message, TensorMessage, describe
from stoker.repository.report import Report
from stoker.tensor import BY_NUMBER, TensorSpec, shape_text


class OpenedModel(Protocol):
    """What is asked of an opened model: `runtime.session.Session` has it."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Its own inputs; overridable initialisers are `optional`."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Its own outputs."""

    @property
    def dimension_names(self) -> Mapping[str, tuple[str | None, ...]]:
        """Symbols of its dimensions by tensor."""

    @property
    def unranked(self) -> frozenset[str]:
        """Tensors whose rank it does not declare."""


@dataclass(frozen=True, slots=True)
class Completed:
    """The effective configuration, and the tensors that are [1] only to clients."""

    message: Message
    scalars: frozenset[str]


ANY_SHAPE: Final = (-1,)
"""What a tensor of undeclared rank is served as, for want of a word for any rank."""


def complete(
    written: Message,
    opened: OpenedModel,
    report: Report,
    *,
    default_max_batch_size: int,
    placements: Sequence[Placed] = (),
) -> Completed:
    """The effective configuration. It is to be used only if the report has no problem."""
    effective = Message()
    effective.CopyFrom(written)
    if not is_complete(written):
        _complete_batching(effective, opened, report, default_max_batch_size)
        _complete_tensors(effective, opened, report)
        if written.max_batch_size == 0:
            check_sizes(effective, report)
    scalars = _check_inputs(effective, opened, report) | _check_outputs(effective, opened, report)
    _check_warmup_inputs(effective, report)
    fill_defaults(effective, placements)
    return Completed(effective, scalars)


def _complete_batching(
    effective: Message, opened: OpenedModel, report: Report, default_max_batch_size: int
) -> None:
    """Rules 1 to 4: a model that can batch does, one that cannot must not be told to."""
    tensors = [each for each in (*opened.inputs, *opened.outputs) if not each.optional]
    fixed = [each for each in tensors if not _can_batch(each, opened)]
    if effective.max_batch_size == 0:
        if fixed or any(each.name in opened.unranked for each in tensors):
            return
        effective.max_batch_size = default_max_batch_size
        names = sorted(
            {
                symbol
                for each in tensors
                for symbol in opened.dimension_names.get(each.name, ())[:1]
                if symbol is not None
            }
        )
        if len(names) > 1 and default_max_batch_size > 0:
            report.warn(
                ("max_batch_size",),
                f"taken as {default_max_batch_size}, because every tensor's first dimension is "
                f"variable; but these dimensions have different names: {', '.join(names)}. "
                "Write inputs and outputs with max_batch_size 0 if they do not count rows",
            )
    elif fixed:
        report.fail(
            ("max_batch_size",),
            f"expected 0, got {effective.max_batch_size}: the model cannot batch, the first "
            f"dimension of '{fixed[0].name}' {shape_text(fixed[0].shape)} is not variable",
        )
    if effective.max_batch_size > 1 and effective.WhichOneof("scheduling_choice") is None:
        effective.dynamic_batching.SetInParent()


def _can_batch(spec: TensorSpec, opened: OpenedModel) -> bool:
    """A tensor of undeclared rank does not stand in the way."""
    return spec.name in opened.unranked or (bool(spec.shape) and spec.shape[0] == -1)


def _complete_tensors(effective: Message, opened: OpenedModel, report: Report) -> None:
    """Rules 5 and 6: missing lists are filled, tensors without dims get [1]."""
    batches = effective.max_batch_size > 0
    if not effective.input:
        for spec in opened.inputs:
            if not spec.optional:
                describe(effective.input.add(), _ranked(spec, opened, report), batches=batches)
    if not effective.output:
        for spec in opened.outputs:
            describe(effective.output.add(), _ranked(spec, opened, report), batches=batches)
    tensors: list[TensorMessage] = [*effective.input, *effective.output]
    for tensor in tensors:
        if not tensor.dims and not tensor.HasField("reshape"):
            tensor.dims.append(1)
            if batches:
                tensor.reshape.SetInParent()


def _ranked(spec: TensorSpec, opened: OpenedModel, report: Report) -> TensorSpec:
    if spec.name not in opened.unranked:
        return spec
    report.warn(
        (),
        f"the model does not declare the rank of '{spec.name}'; it is shown as "
        f"{shape_text(ANY_SHAPE)} until its dims are written",
    )
    return TensorSpec(spec.name, spec.datatype, ANY_SHAPE, spec.optional)


def _check_inputs(effective: Message, opened: OpenedModel, report: Report) -> frozenset[str]:
    specs = {spec.name: spec for spec in opened.inputs}
    configured = {tensor.name for tensor in effective.input}
    for spec in opened.inputs:
        if not spec.optional and spec.name not in configured:
            report.fail(("input",), f"the model's input '{spec}' is missing")
    if not opened.inputs or not effective.input:
        report.fail(("input",), "expected at least one input, the model has none")
    scalars = set()
    for index, tensor in enumerate(effective.input):
        found = specs.get(tensor.name)
        if found is None:
            report.fail(
                ("input", index, "name"),
                f"the model has no input '{tensor.name}'; expected {_names(opened.inputs)}",
            )
            continue
        if found.optional and effective.max_batch_size > 0:
            report.fail(
                ("input", index, "name"),
                f"'{tensor.name}' is an initialiser of the model; it can be an input only with "
                "max_batch_size 0",
            )
            continue
        if tensor.optional and not found.optional:
            report.warn(
                ("input", index, "optional"),
                f"the model cannot run without '{tensor.name}'; requests must have it",
            )
        tensor.optional = found.optional
        if _check_tensor(("input", index), tensor, found, effective, opened, report):
            scalars.add(tensor.name)
    return frozenset(scalars)


def _check_outputs(effective: Message, opened: OpenedModel, report: Report) -> frozenset[str]:
    specs = {spec.name: spec for spec in opened.outputs}
    if not opened.outputs:
        report.fail(("output",), "expected at least one output, the model has none")
    scalars = set()
    for index, tensor in enumerate(effective.output):
        found = specs.get(tensor.name)
        if found is None:
            report.fail(
                ("output", index, "name"),
                f"the model has no output '{tensor.name}'; expected {_names(opened.outputs)}",
            )
        elif _check_tensor(("output", index), tensor, found, effective, opened, report):
            scalars.add(tensor.name)
    return frozenset(scalars)


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"'{spec.name}'" for spec in specs) or "none"


def _check_tensor(
    path: tuple[str, int],
    tensor: TensorMessage,
    spec: TensorSpec,
    effective: Message,
    opened: OpenedModel,
    report: Report,
) -> bool:
    """Datatype and shape of one tensor. True if it is a scalar that clients see as [1]."""
    datatype = BY_NUMBER.get(tensor.data_type)
    if datatype is not spec.datatype:
        report.fail(
            (*path, "data_type"),
            f"expected {spec.datatype.config} as the model has it, got "
            f"{datatype.config if datatype is not None else 'none'}",
        )
    if spec.name in opened.unranked:
        return False
    batches = effective.max_batch_size > 0
    reshaped = tensor.HasField("reshape")
    dims = tuple(tensor.reshape.shape) if reshaped else tuple(tensor.dims)
    if not batches and spec.shape == () and dims == (1,) and not reshaped:
        return True
    shape = (-1, *dims) if batches else dims
    field = (*path, "reshape") if reshaped else (*path, "dims")
    if len(shape) != len(spec.shape) or (batches and spec.shape[0] != -1):
        what = "max_batch_size and " if batches else ""
        advice = ""
        if batches and spec.shape and spec.shape[0] != -1:
            advice = "; the model's first dimension is fixed, so max_batch_size must be 0"
        elif batches and spec.shape == (-1,) and dims == (1,):
            advice = "; write reshape { shape: [] }"
        elif batches and dims == spec.shape:
            advice = "; dims are written without the batch dimension"
        report.fail(
            field,
            f"expected {shape_text(spec.shape)} as the model has it, got {shape_text(shape)} "
            f"from {what}{field[-1]}{advice}",
        )
    elif not _fits(shape, spec.shape, is_input=path[0] == "input"):
        report.fail(
            field, f"expected {shape_text(spec.shape)} as the model has it, got {shape_text(shape)}"
        )
    return False


def _fits(shape: Sequence[int], model: Sequence[int], *, is_input: bool) -> bool:
    """An input may be fixed where the model is variable; everything else must be equal."""
    return all(
        configured == own or (is_input and own == -1)
        for configured, own in zip(shape, model, strict=True)
    )


def _check_warmup_inputs(effective: Message, report: Report) -> None:
    """Each sample feeds every input that the model needs, in its datatype and dims."""
    inputs = {tensor.name: tensor for tensor in effective.input}
    for index, sample in enumerate(effective.model_warmup):
        path = ("model_warmup", index)
        for tensor in effective.input:
            if not tensor.optional and tensor.name not in sample.inputs:
                report.fail(path, f"expected data for every input, got none for '{tensor.name}'")
        for name, data in sorted(sample.inputs.items()):
            here = (*path, "inputs", f'"{name}"')
            known = inputs.get(name)
            if known is None:
                report.fail(here, "the model has no such input")
            elif data.data_type != known.data_type or not _holds(known.dims, data.dims):
                expected, got = BY_NUMBER.get(known.data_type), BY_NUMBER.get(data.data_type)
                report.fail(
                    here,
                    f"expected {expected.config if expected else 'none'} "
                    f"{shape_text(known.dims)}, got {got.config if got else 'none'} "
                    f"{shape_text(data.dims)}",
                )


def _holds(dims: Sequence[int], concrete: Sequence[int]) -> bool:
    return len(dims) == len(concrete) and all(
        expected in (-1, got) for expected, got in zip(dims, concrete, strict=True)
    )
