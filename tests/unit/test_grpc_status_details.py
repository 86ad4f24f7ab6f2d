"""The details of a failed gRPC call, read back by Google's own messages."""

import math

import hpack
import pytest
from google.rpc.error_details_pb2 import (  # type: ignore[import-untyped]  # no py.typed
    ErrorInfo,
    RetryInfo,
)
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]  # no py.typed
from hypothesis import given
from hypothesis import strategies as st
from stoker import errors
from stoker.errors import ErrorCode, Overloaded, ServingError
from stoker.transport.grpc.call_end import details, failed_at_once, percent_encoded
from stoker.transport.grpc.status_details import status_details
from stoker.transport.status import STATUS

LEAVES = [each for each in vars(errors).values() if isinstance(each, type)
          and issubclass(each, ServingError) and each is not ServingError]  # fmt: skip
CLIENTS_LIMIT = 8 << 10
"""Bytes of trailers that gRPC core takes by default (grpc.max_metadata_size)."""
LONGEST_FIELDS = (("grpc-accept-encoding", "identity,deflate,gzip"),)
LONG_AGO = 10 * 365 * 24 * 3600.0
"""Seconds; nobody says a longer time to retry."""


def fields_of(block: bytes, *, limit: int = 1 << 16) -> dict[str, str]:
    """The fields of a header block; hpack raises where they are larger than `limit`."""
    fields = hpack.Decoder(max_header_list_size=limit).decode(block)
    return {str(name): str(value) for name, value in fields}


def details_of(error: ServingError) -> Status:
    message = details(error.message)
    encoded = status_details(error, message, percent_encoded(message))
    assert encoded is not None
    return Status.FromString(encoded)


@pytest.mark.parametrize("leaf", LEAVES)
def test_a_status_has_the_calls_code_and_text_and_our_reason(leaf: type[ServingError]) -> None:
    status = details_of(leaf("input 'x': é"))
    assert (status.code, status.message) == (STATUS[leaf.code].grpc, "input 'x': é")
    (only,) = status.details
    info = ErrorInfo()
    assert only.Unpack(info)
    assert (info.reason, info.domain) == (leaf.code.name, "stoker")


def test_every_error_code_has_a_reason() -> None:
    assert {leaf.code for leaf in LEAVES} == set(ErrorCode)


@given(st.text(max_size=200), st.none() | st.floats(-1, LONG_AGO))
def test_a_status_is_the_bytes_that_googles_messages_give(
    message: str, retry_after: float | None
) -> None:
    error = Overloaded(message, retry_after=retry_after)
    expected = Status(code=8, message=details(message).decode())
    expected.details.add().Pack(ErrorInfo(reason="OVERLOADED", domain="stoker"))
    if retry_after is not None:
        retry = RetryInfo()
        retry.retry_delay.FromMilliseconds(max(0, math.ceil(retry_after * 1000)))
        retry.retry_delay.SetInParent()
        expected.details.add().Pack(retry)
    assert details_of(error).SerializeToString() == expected.SerializeToString()
    assert details_of(error) == expected


@given(
    st.text(max_size=20) | st.sampled_from(["x", "é", "€", "%", "\n"]),
    st.integers(0, 3000),
    st.sampled_from([None, 0.0, 1.0, LONG_AGO]),
)
def test_trailers_are_small_enough_for_clients_whatever_the_text(
    text: str, times: int, retry_after: float | None
) -> None:
    error = Overloaded(text * times, retry_after=retry_after)
    fields = fields_of(failed_at_once(error, more=LONGEST_FIELDS), limit=CLIENTS_LIMIT)
    assert fields["grpc-status"] == "8"


@pytest.mark.parametrize(("text", "is_there"), [("x", True), ("%", False), ("€", False)])
def test_details_that_do_not_fit_beside_the_text_are_left_out_whole(
    text: str, is_there: bool
) -> None:
    fields = fields_of(failed_at_once(Overloaded(text * 3000)))
    assert ("grpc-status-details-bin" in fields) is is_there
    assert fields["grpc-message"].endswith("...")
