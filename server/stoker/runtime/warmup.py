"""Runs a model before it is ready, so that no client pays for first-run costs.

`warm_up` runs zeros of one row and of the largest batch, then the configuration's `model_warmup`
samples. Runs here count in no statistics: they do not pass the engine. The lifecycle calls it for
each session.  Source: Triton's model configuration, "Model Warmup".
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from stoker.errors import ExecutionFailed, InvalidRequest, OutOfMemory
from stoker.model import ModelConfig, TensorConfig, WarmupInput, WarmupSample
from stoker.runtime.session import Session
from stoker.tensor import Array, DataType, decode_bytes, shape_text

log = logging.getLogger(__name__)

Feeds: TypeAlias = Mapping[str, Array]

FOLDER: Final = "warmup"
RANDOM_SEED: Final = 20260101
RANDOM_INTEGERS: Final = 10
"""Random integers are 0 to 9: valid for most tables and switches."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One warm-up sample, ready to run: arrays in the model's own shapes."""

    name: str
    rows: int
    count: int
    """How often it is run."""
    feeds: Feeds


def warm_up(config: ModelConfig, session: Session, folder: Path) -> None:
    """Runs zeros and every sample of `model_warmup`; `folder` is the model's own.

    Raises InvalidRequest for a sample that does not fit the model, and what the run raised when a
    written sample fails. Zeros are a guess: that a model cannot run them is no failure, unless
    the device broke.
    """
    outputs = [output.name for output in config.outputs]
    for rows in sorted({1, max(1, config.max_batch_size)}):
        feeds = zeros(config, session, rows)
        try:
            session.run(feeds, outputs)
        except (ExecutionFailed, OutOfMemory) as error:
            log.debug("model '%s': zeros do not run with %d row(s): %s", config.name, rows, error)
    for sample in samples(config, session, folder):
        for _ in range(sample.count):
            session.run(sample.feeds, outputs)


def zeros(config: ModelConfig, session: Session, rows: int) -> Feeds:
    """Zeros (empty text) for every input that must be given; a variable dimension is 1."""
    feeds = {}
    for tensor in required_inputs(config, session):
        shape = config.model_spec(tensor).shape
        item = tuple(max(1, size) if size < 0 else size for size in shape[config.batches :])
        feeds[tensor.name] = blank(tensor.datatype, with_rows(config, item, rows))
    return feeds


def samples(config: ModelConfig, session: Session, folder: Path) -> tuple[Sample, ...]:
    """The samples of `model_warmup` as feeds. Raises InvalidRequest naming sample and input."""
    return tuple(_sample(config, session, folder, sample) for sample in config.warmup)


def _sample(config: ModelConfig, session: Session, folder: Path, sample: WarmupSample) -> Sample:
    title = f"model '{config.name}': warm-up sample '{sample.name}'"
    rows = max(1, sample.batch_size)
    if rows > max(1, config.max_batch_size):
        raise InvalidRequest(
            f"{title}: expected a batch_size of at most {max(1, config.max_batch_size)}, got {rows}"
        )
    known = {tensor.name: tensor for tensor in config.inputs}
    missing = [each.name for each in required_inputs(config, session)]
    missing = [name for name in missing if name not in sample.inputs]
    unknown = [name for name in sample.inputs if name not in known]
    if missing or unknown:
        raise InvalidRequest(
            f"{title}: expected all inputs of the model, {', '.join(known)}; "
            f"got {', '.join(sample.inputs) or 'none'}"
        )
    feeds = {}
    for name, given in sample.inputs.items():
        row = _row(title, known[name], given, folder, rows)
        item = model_item(known[name], given.dims)
        feeds[name] = np.resize(row, with_rows(config, item, rows))
    return Sample(sample.name, rows, max(1, sample.count), feeds)


def _row(title: str, tensor: TensorConfig, given: WarmupInput, folder: Path, rows: int) -> Array:
    """One row of data, or all `rows` of them where a file holds so many, in any shape."""
    name, datatype = tensor.name, tensor.datatype
    if given.datatype is not datatype or not _fits(given.dims, tensor.dims):
        raise InvalidRequest(
            f"{title}, input '{name}': expected {datatype.wire} {shape_text(tensor.dims)}, "
            f"got {given.datatype.wire} {shape_text(given.dims)}"
        )
    size = math.prod(given.dims)
    if given.source == "random" and datatype is not DataType.BYTES:
        return random_values(datatype, (size,), np.random.default_rng(RANDOM_SEED), RANDOM_INTEGERS)
    if given.source == "file":
        return _read(f"{title}, input '{name}'", datatype, folder / FOLDER / given.file, size, rows)
    return blank(datatype, (size,))


def _read(title: str, datatype: DataType, path: Path, size: int, rows: int) -> Array:
    home = path.parent.parent / FOLDER
    if not path.resolve().is_relative_to(home.resolve()):
        raise InvalidRequest(f"{title}: expected a file inside of the model's '{FOLDER}' folder")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{title}: cannot read '{FOLDER}/{path.name}'") from error
    if datatype is DataType.BYTES:
        try:
            return decode_bytes(raw, size, tensor=path.name)
        except InvalidRequest:
            return decode_bytes(raw, size * rows, tensor=path.name)
    expected = size * datatype.size
    if len(raw) not in (expected, expected * rows):
        raise InvalidRequest(
            f"{title}: expected {expected} bytes for one row in '{FOLDER}/{path.name}', "
            f"got {len(raw)}"
        )
    if datatype is DataType.BOOL:
        return np.not_equal(np.frombuffer(raw, np.uint8), 0)
    return np.frombuffer(raw, datatype.numpy)


def _fits(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    return len(shape) == len(declared) and all(
        size >= 0 and want in (-1, size) for size, want in zip(shape, declared, strict=True)
    )


def model_item(tensor: TensorConfig, item: tuple[int, ...]) -> tuple[int, ...]:
    """The model's shape of one row for a client's: each -1 of a reshape takes the client's size."""
    if tensor.reshape is None:
        return item
    free = iter([size for size, want in zip(item, tensor.dims, strict=True) if want < 0])
    return tuple(next(free) if want < 0 else want for want in tensor.reshape)


def with_rows(config: ModelConfig, item: tuple[int, ...], rows: int) -> tuple[int, ...]:
    """The whole shape of `rows` rows; models without batch dimension have just the item."""
    return (rows, *item) if config.batches else item


def required_inputs(config: ModelConfig, session: Session) -> list[TensorConfig]:
    """Configured inputs without those that the configuration or the model makes optional."""
    optional = {spec.name for spec in session.inputs if spec.optional}
    return [each for each in config.inputs if not each.optional and each.name not in optional]


def blank(datatype: DataType, shape: tuple[int, ...]) -> Array:
    """Zeros; for BYTES empty texts."""
    if datatype is DataType.BYTES:
        return np.full(shape, "", object)
    return np.zeros(shape, datatype.numpy)


def random_values(
    datatype: DataType, shape: tuple[int, ...], random: np.random.Generator, integers: int
) -> Array:
    """Normal floats, integers of 0 to `integers` - 1, fair booleans; not for BYTES."""
    if datatype is DataType.BOOL:
        return np.asarray(random.integers(0, 2, shape)).astype(np.bool_)
    if datatype is DataType.BF16:
        return bfloat16(np.asarray(random.standard_normal(shape)))
    if datatype.numpy.kind == "f":
        return np.asarray(random.standard_normal(shape)).astype(datatype.numpy)
    greatest = int(np.iinfo(datatype.numpy).max)
    return np.asarray(random.integers(0, min(integers, greatest), shape)).astype(datatype.numpy)


def bfloat16(values: Array) -> Array:
    """FP32 values as BF16 bits, cut off rather than rounded: precise enough for samples."""
    return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
