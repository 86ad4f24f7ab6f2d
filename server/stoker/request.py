"""What a client asks and what it gets: the values that cross from codec to engine and back.

Codecs build an `InferRequest` from bytes and turn an `InferResponse` into bytes; the engine does
everything between. Neither value knows a transport.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Protocol, TypeAlias

from stoker.tensor import Tensor

Parameters: TypeAlias = Mapping[str, bool | int | float | str]

NO_PARAMETERS: Final[Parameters] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One client's call. Built once by a codec; nothing changes it afterwards."""

    model: str
    version: str = ""
    """A decimal number; empty: the highest ready version that the version policy allows."""
    id: str = ""
    inputs: tuple[Tensor, ...] = ()
    requested_outputs: tuple[str, ...] = ()
    """Empty: every output of the model, in the configuration's order."""
    priority: int = 0
    """0: the model's default level; 1 is served first."""
    timeout_us: int = 0
    """Queue timeout in microseconds, honoured where the model's queue policy allows it."""
    deadline: float = math.inf
    """time.monotonic() seconds: a moment, not a duration."""
    parameters: Parameters = field(default_factory=lambda: NO_PARAMETERS)
    """Custom parameters only; the reserved ones became fields."""
    is_retry: bool = False
    """The client declares that it tried before (`grpc-previous-rpc-attempts`)."""


class Lease(Protocol):
    """A share in a pooled output buffer. Its memory is reused after the last release."""

    def release(self) -> None:
        """Gives the share back. Called once, when the answer's bytes have left the process."""


@dataclass(frozen=True, slots=True)
class InferResponse:
    """One answer. `outputs` may be views of a leased buffer: valid until `lease.release()`."""

    model: str
    version: str
    id: str
    outputs: tuple[Tensor, ...]
    parameters: Parameters = field(default_factory=lambda: NO_PARAMETERS)
    lease: Lease | None = None
    """Set when the outputs live in a pooled buffer. Whoever takes the response releases it, after
    the last byte was copied or handed to the kernel; a response that is dropped unsent as well."""
