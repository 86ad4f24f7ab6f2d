"""The shapes that a TensorRT engine is built for, and whether a batch lies within them.

An engine is fast, and free of rebuilding, only for shapes inside its optimisation profile: outside
of it ONNX Runtime builds another engine in the middle of a run, for minutes. So every variable
dimension has a range before the build begins, and `Profile.covers` is asked before each batch.
Pure.  Source: ONNX Runtime's TensorRT provider, `trt_profile_min/opt/max_shapes`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from stoker.errors import InvalidRequest
from stoker.runtime.tensorrt_options import (
    DimensionRange,
    Shape,
    TensorRtRequest,
    can_be_named,
)
from stoker.tensor import TensorSpec, shape_text


@dataclass(frozen=True, slots=True)
class ShapeRange:
    """The shapes of one tensor, from the least to the most size in each dimension."""

    least: Shape
    likely: Shape
    most: Shape

    def holds(self, shape: Shape) -> bool:
        """Whether the shape lies within."""
        return len(shape) == len(self.least) and all(
            low <= size <= high
            for low, size, high in zip(self.least, shape, self.most, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Profile:
    """The shapes of all inputs that a model must be given."""

    inputs: Mapping[str, ShapeRange]
    variable: frozenset[str]
    """Inputs that declare a variable dimension: TensorRT must be told their shapes, even one."""
    inner: Mapping[str, ShapeRange]
    """Of tensors inside the graph, where TensorRT takes only parts of it."""

    def covers(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether an engine of this profile runs a batch of these shapes. An input that the profile
        does not know (an initialiser that a client overrides) is outside."""
        inputs = self.inputs
        for name, shape in shapes.items():
            known = inputs.get(name)
            if known is None or not known.holds(shape):
                return False
        return len(shapes) == len(inputs)

    def corners(self) -> tuple[Mapping[str, Shape], ...]:
        """The most, likely and least shapes of all inputs: the most first, so that memory is taken
        once; each once."""
        corners: list[Mapping[str, Shape]] = []
        for pick in ("most", "likely", "least"):
            corner = {name: getattr(each, pick) for name, each in self.inputs.items()}
            if corner not in corners:
                corners.append(corner)
        return tuple(corners)

    def options(self) -> dict[str, str]:
        """The provider's options; none where every input declares a fixed shape."""
        variable = {name: each for name, each in self.inputs.items() if name in self.variable}
        variable |= self.inner
        if not variable:
            return {}
        return {
            "trt_profile_min_shapes": _written({n: each.least for n, each in variable.items()}),
            "trt_profile_opt_shapes": _written({n: each.likely for n, each in variable.items()}),
            "trt_profile_max_shapes": _written({n: each.most for n, each in variable.items()}),
        }


def profile_of(
    model: str,
    inputs: Sequence[TensorSpec],
    symbols: Mapping[str, Sequence[str | None]],
    request: TensorRtRequest,
    *,
    buckets: Sequence[int] | None,
    implied: Mapping[str, DimensionRange] = MappingProxyType({}),
) -> Profile:
    """The profile of a model whose own inputs are `inputs` (-1: variable, optional ones left out).

    `buckets` are the batch sizes that are run, ascending; None: the model has no batch dimension.
    `symbols` are the names of the dimensions by input, `implied` the ranges of some of them that
    follow from something else. A batch is likely to be the largest one:
    that is what a server runs when its time is short. Raises InvalidRequest with what to declare
    for a dimension whose sizes nobody said, and for a declaration that fits nothing.
    """
    known: dict[str, ShapeRange] = {}
    undeclared: list[str] = []
    used: set[str] = set()
    for spec in inputs:
        if spec.optional:
            continue
        written = request.shapes.get(spec.name)
        if written is not None:
            known[spec.name] = _fitting(model, spec, ShapeRange(*written), buckets)
            continue
        sizes: list[DimensionRange] = []
        for axis, size in enumerate(spec.shape):
            symbol = symbols[spec.name][axis]
            keys = [each for each in (f"{spec.name}:{axis}", symbol) if each in request.ranges]
            if axis == 0 and buckets is not None:
                sizes.append(DimensionRange(buckets[0], buckets[-1], buckets[-1]))
            elif size >= 0:
                sizes.append(DimensionRange(size, size, size))
            elif keys:
                used.update(each for each in keys if each is not None)
                sizes.append(request.ranges[str(keys[0])])
            elif symbol is not None and symbol in implied:
                sizes.append(implied[symbol])
            else:
                undeclared.append(symbol or f"{spec.name}:{axis}")
        if len(sizes) == len(spec.shape):
            known[spec.name] = ShapeRange(
                tuple(each.least for each in sizes),
                tuple(each.likely for each in sizes),
                tuple(each.most for each in sizes),
            )
    if undeclared:
        names = list(dict.fromkeys(undeclared))
        example = ",".join(f"{name}=1..512" for name in names)
        raise InvalidRequest(
            f"model '{model}': TensorRT needs the sizes of every variable dimension, and nothing "
            f"says those of {', '.join(names)}; declare them, for example by the parameter "
            f"trt_dimension_ranges \"{example}\" of accelerator 'tensorrt'"
        )
    unused = [key for key in request.ranges if key not in used]
    if unused:
        raise InvalidRequest(
            f"model '{model}': trt_dimension_ranges names '{unused[0]}', which is no variable "
            "dimension of its inputs (the batch's own range follows from max_batch_size)"
        )
    inner = {
        name: ShapeRange(*shapes) for name, shapes in request.shapes.items() if name not in known
    }
    variable = frozenset(spec.name for spec in inputs if -1 in spec.shape)
    unnamed = [name for name in known if name in variable and not can_be_named(name)]
    if unnamed:
        raise InvalidRequest(
            f"model '{model}': TensorRT cannot be told the shapes of input '{unnamed[0]}', whose "
            "name has a colon or a comma; rename it in the ONNX file"
        )
    return Profile(known, variable, inner)


def _fitting(
    model: str, spec: TensorSpec, written: ShapeRange, buckets: Sequence[int] | None
) -> ShapeRange:
    """The shapes that the model's configuration writes, where they are shapes of the input."""
    for shape in (written.least, written.most):
        fits = len(shape) == len(spec.shape) and all(
            want in (-1, size) for want, size in zip(spec.shape, shape, strict=True)
        )
        if not fits:
            raise InvalidRequest(
                f"model '{model}': trt_profile shapes of '{spec.name}': expected shapes of "
                f"{shape_text(spec.shape)}, got {shape_text(shape)}"
            )
    if buckets is not None and written.least[0] > buckets[-1]:
        raise InvalidRequest(
            f"model '{model}': trt_profile shapes of '{spec.name}': expected batches of at most "
            f"{buckets[-1]} rows, the least one has {written.least[0]}"
        )
    if buckets is not None and written.most[0] > buckets[-1]:
        # Rows that never come in one batch would only cost memory and build time.
        rows = buckets[-1]
        return ShapeRange(
            written.least,
            (min(rows, written.likely[0]), *written.likely[1:]),
            (rows, *written.most[1:]),
        )
    return written


def _written(shapes: Mapping[str, Shape]) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
