"""What a client asks and what it gets: the values that cross from codec to engine and back.

Codecs build an `InferRequest` from bytes and turn an `InferResponse` into bytes; the engine does
everything between. Neither value knows a transport.

Both are in two parts, because clients repeat themselves and batches answer many at once: what all
requests of one client have in common is a `RequestKind`, made once; what all answers of one batch
have in common is an `OutputBatch`. The part that is made for each request is plain and small: a
frozen dataclass of ten fields took 2.7 us, this takes 0.3 (benchmarks/results/0006-grpc.md).
Nobody changes one once it is built.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from stoker.tensor import Array, DataType, Raw, Tensor, data_bytes

Parameters: TypeAlias = Mapping[str, bool | int | float | str]

NO_PARAMETERS: Final[Parameters] = MappingProxyType({})

_REMEMBERED: Final = 4096
"""Kinds that are kept; at the limit all are forgotten."""

_REMEMBERED_SHARED: Final = 256
"""Entries that batches with the same heads share: outputs by rows of an answer, for each codec."""

_REMEMBERED_BYTES: Final = 16 << 10
"""Of a kind that is kept, about: its names may be as long as a message, a gigabyte. Real ones have
some ten names of ten bytes; 300 inputs are within."""


class TensorHead(NamedTuple):
    """A tensor without its data."""

    name: str
    datatype: DataType
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class RequestKind:
    """Everything of a request but its data, id, custom parameters and times. Compared by identity:
    `kind_of` gives the same object for the same kind, as long as it remembers it."""

    model: str
    version: str = ""
    """A decimal number; empty: the highest ready version that the version policy allows."""
    inputs: tuple[TensorHead, ...] = ()
    requested_outputs: tuple[str, ...] = ()
    """Empty: every output of the model, in the configuration's order."""
    priority: int = 0
    """0: the model's default level; 1 is served first."""
    timeout_us: int = 0
    """Queue timeout in microseconds, honoured where the model's queue policy allows it."""

    @property
    def is_small(self) -> bool:
        """Whether it may be kept longer than its request."""
        size = sum(map(len, (self.model, self.version, *self.requested_outputs)))
        size += sum([len(head.name) + 16 * len(head.shape) for head in self.inputs])
        return size <= _REMEMBERED_BYTES


_kinds: dict[tuple[object, ...], RequestKind] = {}


def kind_of(
    model: str,
    version: str,
    inputs: tuple[TensorHead, ...],
    requested_outputs: tuple[str, ...] = (),
    priority: int = 0,
    timeout_us: int = 0,
) -> RequestKind:
    """The kind with these fields."""
    key = (model, version, inputs, requested_outputs, priority, timeout_us)
    kind = _kinds.get(key)
    if kind is None:
        kind = RequestKind(*key)
        if kind.is_small:
            if len(_kinds) >= _REMEMBERED:
                _kinds.clear()
            _kinds[key] = kind
    return kind


class InferRequest:
    """One client's call."""

    __slots__ = ("data", "deadline", "id", "is_retry", "kind", "parameters")

    def __init__(
        self,
        kind: RequestKind,
        data: tuple[Raw | Array, ...],
        id: str = "",
        deadline: float = math.inf,
        is_retry: bool = False,
        parameters: Parameters = NO_PARAMETERS,
    ) -> None:
        self.kind = kind
        self.data = data
        """Of each input of the kind, in order, with as many bytes as its shape takes."""
        self.id = id
        self.deadline = deadline
        """time.monotonic() seconds: a moment, not a duration."""
        self.is_retry = is_retry
        """The client declares that it tried before (`grpc-previous-rpc-attempts`)."""
        self.parameters = parameters
        """Custom ones only; the reserved ones are fields of the kind."""

    @classmethod
    def of(
        cls,
        model: str,
        version: str = "",
        id: str = "",
        inputs: Sequence[Tensor] = (),
        requested_outputs: tuple[str, ...] = (),
        *,
        priority: int = 0,
        timeout_us: int = 0,
        deadline: float = math.inf,
        parameters: Parameters = NO_PARAMETERS,
        is_retry: bool = False,
    ) -> "InferRequest":
        """A request from whole tensors."""
        heads = tuple([TensorHead(each.name, each.datatype, each.shape) for each in inputs])
        kind = kind_of(model, version, heads, requested_outputs, priority, timeout_us)
        data = tuple([each.data for each in inputs])
        return cls(kind, data, id, deadline, is_retry, parameters)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The inputs with their data."""
        return tuple(
            [Tensor(*head, data) for head, data in zip(self.kind.inputs, self.data, strict=True)]
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all data."""
        return sum(map(data_bytes, self.data))


class Lease(Protocol):
    """A share in a pooled output buffer. Its memory is reused after the last release."""

    def release(self) -> None:
        """Gives the share back. Called once, when the answer's bytes have left the process."""


class OutputBatch:
    """What the answers of one run have in common. `arrays` may be views of a leased buffer."""

    __slots__ = ("arrays", "encoded", "heads", "lease", "model", "shared", "version")

    def __init__(
        self,
        model: str,
        version: str,
        heads: tuple[TensorHead, ...],
        arrays: tuple[Raw | Array, ...],
        lease: Lease | None = None,
        shared: dict[object, Any] | None = None,
    ) -> None:
        self.model = model
        self.version = version
        self.heads = heads
        """Name, datatype and shape of each output; the first dimension counts all rows."""
        self.arrays = arrays
        self.lease = lease
        """Each answer has a share."""
        self.encoded: dict[object, Any] = {}
        """What a codec made of the whole, for the next answers."""
        self.shared: dict[object, Any] = {} if shared is None else shared
        """What a codec made of all but the arrays, for all batches of this model with such heads.
        The loop's own; see `share`."""

    def share(self, key: object, value: Any) -> None:
        """Keeps an entry of `shared`; at the limit all are forgotten."""
        if len(self.shared) >= _REMEMBERED_SHARED:
            self.shared.clear()
        self.shared[key] = value


class InferResponse:
    """One answer: some rows of a batch.

    With a lease its outputs are valid until `lease.release()`. Whoever takes the response releases
    it, after the last byte was copied or handed to the kernel; one that is dropped unsent as well.
    """

    __slots__ = ("batch", "id", "parameters", "rows", "start", "wanted")

    def __init__(
        self,
        batch: OutputBatch,
        wanted: tuple[int, ...],
        start: int,
        rows: int,
        id: str = "",
        parameters: Parameters = NO_PARAMETERS,
    ) -> None:
        self.batch = batch
        self.wanted = wanted
        """Which outputs of the batch, in the order of the answer."""
        self.start = start
        self.rows = rows
        """-1: the outputs as they are, which may have no rows."""
        self.id = id
        self.parameters = parameters

    @classmethod
    def of(
        cls,
        model: str,
        version: str,
        id: str,
        outputs: Sequence[Tensor],
        parameters: Parameters = NO_PARAMETERS,
        lease: Lease | None = None,
    ) -> "InferResponse":
        """An answer of whole tensors."""
        heads = tuple([TensorHead(each.name, each.datatype, each.shape) for each in outputs])
        batch = OutputBatch(model, version, heads, tuple([each.data for each in outputs]), lease)
        return cls(batch, tuple(range(len(heads))), 0, -1, id, parameters)

    @property
    def model(self) -> str:
        """The model's name."""
        return self.batch.model

    @property
    def version(self) -> str:
        """The version that answered."""
        return self.batch.version

    @property
    def lease(self) -> Lease | None:
        """The answer's share in what its outputs are views of."""
        return self.batch.lease

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """The outputs with their data."""
        batch, start, rows = self.batch, self.start, self.rows
        outputs = []
        for index in self.wanted:
            head, array = batch.heads[index], batch.arrays[index]
            if rows < 0:
                outputs.append(Tensor(*head, array))
            else:
                shape = (rows, *head.shape[1:])
                outputs.append(Tensor(head.name, head.datatype, shape, array[start : start + rows]))
        return tuple(outputs)
