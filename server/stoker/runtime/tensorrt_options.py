"""What a model's `gpu_execution_accelerator { name: "tensorrt" }` asks for, checked key by key.

`tensorrt_request` takes the parameters that `tensorrt_parameters.py` knows, refuses the rest by
name before ONNX Runtime sees it, and refuses what a model must not choose: libraries to load,
folders to write to. Pure; `tensorrt.py` adds device, cache and shapes.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import Enum
from types import MappingProxyType
from typing import Final

from stoker.errors import InvalidRequest
from stoker.model import Accelerator, ModelConfig
from stoker.runtime.tensorrt_parameters import (
    FLAGS,
    KINDS,
    KNOWN,
    NEVER_SET,
    ON,
    REFUSED_WHERE_ON,
    SHAPE_KEYS,
    TRITON_NAMES,
)

NAME: Final = "tensorrt"


class Precision(Enum):
    """The coarsest arithmetic that an engine may use."""

    FP32 = "FP32"
    """With TF32 where the GPU has it."""
    FP16 = "FP16"
    BF16 = "BF16"
    INT8 = "INT8"


TOLERANCE: Final = MappingProxyType(
    {
        Precision.FP32: 5e-3,
        Precision.FP16: 2e-2,
        Precision.BF16: 5e-2,
        Precision.INT8: 0.15,
    }
)
"""The greatest difference from CUDA's outputs, as a part of the greatest value of the output, with
which an engine still serves. TF32 and FP16 keep 10 bits of a number (0.1 % a product), BF16 7 bits;
what sums and layers make of that is 5 to 50 times as much. INT8 has 127 steps, so a tenth and a
half tells a calibrated engine from a broken one and no more."""

WEIGHT_SHARE: Final = MappingProxyType(
    {Precision.FP32: 1.0, Precision.FP16: 0.5, Precision.BF16: 0.5, Precision.INT8: 0.25}
)
"""What an engine's weights take at least, as a part of those in the model's file."""

WORKSPACE_SHARE: Final = 0.25
"""Of a GPU's memory, for the scratch memory of one engine where the model says nothing. Without a
limit TensorRT measures kernels that take all of it, beside models that serve."""


def default_workspace(memory_bytes: int) -> int:
    """Bytes of scratch memory that an engine may take on a GPU of this size; 0: no limit.

    A power of two: part of the engine's key, it must not change with what a driver's version leaves
    of the same GPU.
    """
    most = int(memory_bytes * WORKSPACE_SHARE)
    return 1 << (most.bit_length() - 1) if most else 0


_PRECISION_FLAGS: Final = {
    "trt_fp16_enable": Precision.FP16,
    "trt_bf16_enable": Precision.BF16,
    "trt_int8_enable": Precision.INT8,
}
_PRECISION_KEYS: Final = {precision: key for key, precision in _PRECISION_FLAGS.items()}


@dataclass(frozen=True, slots=True)
class DimensionRange:
    """The sizes that one dimension may have: `least` <= `likely` <= `most`, at least 1."""

    least: int
    likely: int
    most: int


Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TensorRtRequest:
    """What a model asks of TensorRT, all of it checked."""

    options: Mapping[str, str]
    """Options of the provider, without device, cache and shapes."""
    precision: Precision = Precision.FP32
    tolerance: float | None = None
    """`trt_tolerance` of the model; None: that of the precision."""
    is_cached: bool = True
    calibration_table: str = ""
    """Name of a file in the model's folder; empty: none."""
    ranges: Mapping[str, DimensionRange] = field(default_factory=lambda: MappingProxyType({}))
    """By the symbol of a dimension, or by `input:axis`."""
    shapes: Mapping[str, tuple[Shape, Shape, Shape]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    """Least, likely and most shape by tensor name, where the model writes them itself."""

    @property
    def allowed_difference(self) -> float:
        """The tolerance that holds: the model's own, or the one of its precision."""
        return TOLERANCE[self.precision] if self.tolerance is None else self.tolerance


def accelerator_of(config: ModelConfig) -> Accelerator | None:
    """The model's `tensorrt` accelerator. Raises InvalidRequest for two of them."""
    found = [each for each in config.optimization.gpu_accelerators if each.name == NAME]
    if len(found) > 1:
        raise InvalidRequest(
            f"model '{config.name}': expected one gpu_execution_accelerator '{NAME}', "
            f"got {len(found)}"
        )
    return found[0] if found else None


def tensorrt_request(config: ModelConfig) -> TensorRtRequest | None:
    """What the model asks of TensorRT; None where it does not ask.

    Raises InvalidRequest naming the first key that is unknown, refused, or has a value of another
    kind than expected.
    """
    accelerator = accelerator_of(config)
    if accelerator is None:
        return None
    return _Reader(config.name, accelerator.parameters).read()


class _Reader:
    """Reads the parameters of one accelerator."""

    def __init__(self, model: str, parameters: Mapping[str, str]) -> None:
        self._model = model
        self._parameters = parameters
        self._options: dict[str, str] = {
            "trt_engine_cache_enable": ON,
            "trt_timing_cache_enable": ON,
            "trt_force_sequential_engine_build": ON,
            # Fewer nodes are not worth the change between providers before and behind them.
            "trt_min_subgraph_size": "5",
        }
        self._is_cached = True
        self._tolerance: float | None = None
        self._ranges: Mapping[str, DimensionRange] = {}
        self._written: dict[str, Mapping[str, Shape]] = {}

    def read(self) -> TensorRtRequest:
        """The whole request."""
        for key, text in self._parameters.items():
            self._read_one(key, text.strip())
        flags = {key: value for key, value in self._options.items() if value == ON}
        precisions = [each for key, each in _PRECISION_FLAGS.items() if key in flags]
        precision = max(precisions, key=TOLERANCE.__getitem__, default=Precision.FP32)
        if "trt_fp16_enable" in flags:  # else the squares of a layer norm overflow
            self._options.setdefault("trt_layer_norm_fp32_fallback", ON)
        table = self._options.get("trt_int8_calibration_table_name", "")
        if table and precision is not Precision.INT8:
            raise self._refusal(
                "int8_calibration_table_name", "expected precision_mode INT8 beside it"
            )
        return TensorRtRequest(
            options=MappingProxyType(self._options),
            precision=precision,
            tolerance=self._tolerance,
            is_cached=self._is_cached,
            calibration_table=table,
            ranges=self._ranges,
            shapes=self._shapes(),
        )

    def _read_one(self, key: str, text: str) -> None:
        option = TRITON_NAMES.get(key, key)
        if option in NEVER_SET:
            raise self._refusal(key, f"cannot be set by a model: {NEVER_SET[option]}")
        if option in REFUSED_WHERE_ON:
            if self._flag(key, text) == ON:
                raise self._refusal(key, f"is not supported: {REFUSED_WHERE_ON[option]}")
        elif key == "precision_mode":
            self._set_precision(text)
        elif option == "trt_engine_cache_enable":
            self._is_cached = self._flag(key, text) == ON
        elif option == "trt_force_sequential_engine_build":
            self._flag(key, text)  # builds are one at a time whatever a model says
        elif option == "trt_tolerance":
            self._tolerance = self._number(key, text)
        elif option == "trt_dimension_ranges":
            self._ranges = self._read_ranges(key, text)
        elif option in SHAPE_KEYS:
            self._written[option] = self._read_shapes(key, text)
        else:
            self._options[option] = self._value(key, option, text)

    def _value(self, key: str, option: str, text: str) -> str:
        kind = KINDS.get(option)
        if kind is None:
            near = get_close_matches(key, KNOWN, n=1, cutoff=0.0)
            raise self._refusal(key, f"is unknown; the nearest known one is '{near[0]}'")
        value = kind.read(text)
        if value is None:
            raise self._refusal(key, f"expected {kind.expected}, got '{text}'")
        return value

    def _set_precision(self, text: str) -> None:
        known = {each.value: each for each in Precision}
        precision = known.get(text.upper())
        if precision is None:
            raise self._refusal(
                "precision_mode", f"expected one of {', '.join(known)}, got '{text}'"
            )
        if precision is not Precision.FP32:
            self._options[_PRECISION_KEYS[precision]] = ON

    def _flag(self, key: str, text: str) -> str:
        value = FLAGS.get(text.lower())
        if value is None:
            raise self._refusal(key, f"expected 1, true, 0 or false, got '{text}'")
        return value

    def _number(self, key: str, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise self._refusal(key, f"expected a number above 0, got '{text}'")
        return value

    def _read_ranges(self, key: str, text: str) -> Mapping[str, DimensionRange]:
        ranges = {}
        for part in text.split(","):
            match = _RANGE.fullmatch(part.strip())
            sizes = [int(each) for each in match[2].split("..")] if match else []
            if match is None or sizes != sorted(sizes) or sizes[0] < 1:
                raise self._refusal(
                    key,
                    "expected parts of the form 'symbol=least..most', 'input:axis=least..most' or "
                    f"'symbol=least..likely..most', each at least 1 and in order, got '{part}'",
                )
            likely = sizes[1] if len(sizes) == 3 else sizes[-1]
            ranges[match[1]] = DimensionRange(sizes[0], likely, sizes[-1])
        return MappingProxyType(ranges)

    def _read_shapes(self, key: str, text: str) -> Mapping[str, Shape]:
        shapes = {}
        for part in text.split(","):
            name, colon, sizes = part.strip().rpartition(":")
            if not colon or not can_be_named(name) or not _SHAPE.fullmatch(sizes):
                raise self._refusal(
                    key, f"expected 'input1:1x3x224x224,input2:1x77', got '{part.strip()}'"
                )
            if name in shapes:
                raise self._refusal(key, f"expected one shape for '{name}', got two")
            shapes[name] = tuple(int(size) for size in sizes.split("x"))
        return shapes

    def _shapes(self) -> Mapping[str, tuple[Shape, Shape, Shape]]:
        if not self._written:
            return MappingProxyType({})
        missing = [key for key in SHAPE_KEYS if key not in self._written]
        if missing:
            raise self._refusal(
                missing[0], "is missing: expected all three of the profile's shapes"
            )
        three = [self._written[key] for key in SHAPE_KEYS]
        shapes = {}
        for name in sorted(set().union(*three)):
            least, likely, most = (each.get(name) for each in three)
            if least is None or likely is None or most is None:
                raise self._refusal(
                    SHAPE_KEYS[0], f"expected '{name}' in all three of the profile's shapes"
                )
            in_order = len(least) == len(likely) == len(most) and all(
                low <= middle <= high for low, middle, high in zip(least, likely, most, strict=True)
            )
            if not in_order:
                raise self._refusal(
                    SHAPE_KEYS[0],
                    f"expected shapes of '{name}' with min <= opt <= max, got "
                    f"{_text(least)}, {_text(likely)}, {_text(most)}",
                )
            shapes[name] = (least, likely, most)
        return MappingProxyType(shapes)

    def _refusal(self, key: str, why: str) -> InvalidRequest:
        return InvalidRequest(
            f"model '{self._model}': parameter '{key}' of accelerator '{NAME}': {why}"
        )


def can_be_named(tensor: str) -> bool:
    """Whether the options can name the tensor: ONNX Runtime cuts them at the first colon, and at
    commas, and takes what is left for a name or a shape without a word."""
    return bool(tensor) and not set(tensor) & set(":,")


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))


_RANGE: Final = re.compile(r"([^=,]+)=(\d{1,9}(?:\.\.\d{1,9}){0,2})")
_SHAPE: Final = re.compile(r"\d{1,9}(?:x\d{1,9})*")
