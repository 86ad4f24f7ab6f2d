"""The body of an inference call: bytes -> `InferRequest` and the forms its outputs shall have.

Stands between the router and the engine; its counterpart for answers is `encode.py`. The body is
JSON, or JSON followed by the raw bytes of its binary inputs (`binary.py`). What needs the model's
configuration is the engine's business: names, datatypes and shapes are only well-formed here.
Source: Open Inference Protocol v2, "Inference", with Triton's binary tensor data, schedule policy
and parameters extensions.  Hot path.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from stoker.errors import InvalidRequest, ServingError, TooLarge
from stoker.request import InferRequest, RequestKind
from stoker.tensor import Array, DataType, Raw, Tensor, element_count, from_raw
from stoker.transport.rest import json_data, known_calls
from stoker.transport.rest.binary import cut
from stoker.transport.rest.envelope import Decoded, Envelope, Input, envelope_of
from stoker.transport.rest.json_frame import read_in_steps
from stoker.transport.rest.json_pieces import Pieces, to_tensor_in_steps
from stoker.transport.steps import Steps

_REMEMBERED: Final = 256
"""JSON parts that are kept: one per client, model and shape. At the limit all are forgotten."""
_REMEMBERED_BYTES: Final = 2 << 10

SLOW_BYTES: Final = 256 << 10
"""Raw BYTES of this size take up to 10 ms to become text, raw BOOL 0.1 ms."""
_COPIED: Final = frozenset((DataType.BYTES, DataType.BOOL))


# Parsing depends on nothing but the text, and a client that sends its tensors as binary data sends
# the same JSON with each request: 11 us become 0.1 us. Texts with an id are not kept.
_remembered: dict[bytes, Envelope] = {}


class KnownBody:
    """A body of small JSON and binary tensors that may come again with other data."""

    __slots__ = ("forms", "kind", "only", "parameters", "sizes", "text", "total")

    def __init__(self, text: bytes, envelope: Envelope, kind: RequestKind) -> None:
        sizes = envelope.sizes or ()
        self.text = text
        """Its JSON, all of it."""
        self.total = len(text) + envelope.total
        self.sizes = sizes
        self.only = len(sizes) == 1
        """All behind the JSON is the data of one input."""
        self.kind = kind
        self.parameters = envelope.parameters
        self.forms = envelope.forms

    def fits(self, body: bytes | memoryview) -> bool:
        """Whether the body is like this but for its data."""
        return type(body) is bytes and len(body) == self.total and body.startswith(self.text)

    def request(self, body: bytes | memoryview) -> InferRequest:
        """The call of a body that fits."""
        at = len(self.text)
        if self.only:
            return InferRequest(self.kind, (body[at:],), parameters=self.parameters)
        data: list[Raw | Array] = []
        for size in self.sizes:
            data.append(body[at : at + size])
            at += size
        return InferRequest(self.kind, tuple(data), parameters=self.parameters)


def known_body(
    model: str, version: str, body: bytes | memoryview, json_size: int | None
) -> KnownBody | None:
    """The layout of a body that `decode` has read, if another may be like it."""
    if json_size is None or json_size > _REMEMBERED_BYTES or type(body) is not bytes:
        return None
    text = body[:json_size]
    envelope = _remembered.get(text)  # has no id
    if envelope is None or not envelope.sizes or len(body) != json_size + envelope.total:
        return None
    return KnownBody(text, envelope, envelope.kind(model, version))


def decode(
    model: str, version: str, body: bytes | memoryview, json_size: int | None, max_json_bytes: int
) -> Decoded:
    """The call of `model` whose body this is; `json_size` as the header says, None without it.

    Raises InvalidRequest, Unsupported, or TooLarge for JSON over `max_json_bytes`.
    """
    if json_size is None and type(body) is bytes and len(body) <= max_json_bytes:
        known = known_calls.read(model, version, body)
        if known is not None:
            return known
        parsed = _parse(body)
        call = _call(model, version, body, len(body), parsed)
        known_calls.learn(body, parsed)
        return call
    if (
        json_size is None
        or json_size > _REMEMBERED_BYTES
        or json_size > len(body)
        or json_size > max_json_bytes
    ):
        text = _json_part(body, json_size, max_json_bytes)
        return _call(model, version, body, len(text), _parse(text))
    text = bytes(body[:json_size])
    envelope = _remembered.get(text) or _parse(text)
    sizes = envelope.sizes
    if sizes is None or len(body) != json_size + envelope.total:
        return _call(model, version, body, json_size, envelope)
    # A client that repeats itself: all but the data is known.
    kind = envelope.kinds.get((model, version)) or envelope.kind(model, version)
    return KnownBody(text, envelope, kind).request(body), envelope.forms


def decode_in_steps(
    model: str, version: str, body: bytes | memoryview, json_size: int | None, max_json_bytes: int
) -> Steps[Decoded]:
    """`decode` of large JSON, in steps."""
    text = _json_part(body, json_size, max_json_bytes)
    if len(text) < json_data.PIECES_FROM_BYTES:
        return decode(model, version, body, json_size, max_json_bytes)
    envelope = envelope_of((yield from read_in_steps(text)))
    inputs = []
    for each in envelope.inputs:
        if isinstance(each.data, Pieces):
            json_data.check_has_json(each.name, each.datatype)
            tensor = yield from to_tensor_in_steps(each.name, each.datatype, each.shape, each.data)
            inputs.append(replace(each, data=tensor))
        else:
            inputs.append(each)
    return _call(model, version, body, len(text), replace(envelope, inputs=tuple(inputs)))


def is_slow(body: bytes | memoryview, json_size: int) -> bool:
    """Whether a body with small JSON has large binary data that `decode` would copy, not view."""
    try:
        text = _json_part(body, json_size, json_size)
        envelope = _remembered.get(bytes(text)) or _parse(text)
    except ServingError:
        return False  # `decode` says why
    return any(
        each.datatype in _COPIED and each.binary_size >= SLOW_BYTES for each in envelope.inputs
    )


def _json_part(
    body: bytes | memoryview, json_size: int | None, max_json_bytes: int
) -> bytes | memoryview:
    size = len(body) if json_size is None else json_size
    if size > len(body):
        raise InvalidRequest(
            f"expected inference-header-content-length up to the body's {len(body)} bytes, "
            f"got {size}"
        )
    if size > max_json_bytes:
        raise TooLarge(f"expected JSON of at most {max_json_bytes} bytes, got {size}")
    return body if size == len(body) else body[:size]


def _call(
    model: str, version: str, body: bytes | memoryview, json_size: int, envelope: Envelope
) -> Decoded:
    """The request, its binary data cut out of the body."""
    inputs = []
    at = json_size
    for each in envelope.inputs:
        if each.binary_size < 0:
            data = each.data
            if type(data) is not Tensor:
                data = json_data.to_tensor(each.name, each.datatype, each.shape, data)
            inputs.append(data)
            continue
        block = cut(each.name, body, at, each.binary_size)
        at += each.binary_size
        inputs.append(from_raw(each.name, each.datatype, each.shape, block))
    if at != len(body):
        raise InvalidRequest(
            f"expected the body to end after its last input, got {len(body) - at} bytes more"
        )
    request = InferRequest.of(
        model,
        version,
        envelope.id,
        inputs,
        envelope.requested_outputs,
        priority=envelope.priority,
        timeout_us=envelope.timeout_us,
        parameters=envelope.parameters,
    )
    return request, envelope.forms


def _sizes(inputs: Sequence[Input]) -> tuple[int, ...] | None:
    """See `Envelope.sizes`."""
    for each in inputs:
        if each.binary_size < 0 or each.datatype in _COPIED:
            return None
        try:
            count = element_count(each.shape, tensor=each.name)
        except InvalidRequest:  # whoever reads the data says so
            return None
        if count * each.datatype.size != each.binary_size:
            return None
    return tuple([each.binary_size for each in inputs])


def _parse(text: bytes | memoryview) -> Envelope:
    envelope = envelope_of(json_data.load(text))
    if (
        not envelope.id
        and len(text) <= _REMEMBERED_BYTES
        and type(text) is bytes
        and all(each.binary_size >= 0 for each in envelope.inputs)
    ):
        if len(_remembered) >= _REMEMBERED:
            _remembered.clear()
        sizes = _sizes(envelope.inputs)
        envelope = replace(envelope, sizes=sizes, total=sum(sizes or ()))
        _remembered[text] = envelope
    return envelope
