"""The one table of statuses, against design's section "Errors"."""

import grpc
import pytest
from stoker import errors
from stoker.errors import ErrorCode, ServingError
from stoker.transport.status import STATUS
from stoker.transport.wire.problems import REASONS

TABLE = """
INVALID_REQUEST INVALID_ARGUMENT 400
MODEL_NOT_FOUND NOT_FOUND 404
MODEL_NOT_READY UNAVAILABLE 503
OVERLOADED RESOURCE_EXHAUSTED 429
DEADLINE_EXCEEDED DEADLINE_EXCEEDED 504
CANCELLED CANCELLED 499
TOO_LARGE RESOURCE_EXHAUSTED 413
UNAUTHENTICATED UNAUTHENTICATED 401
PERMISSION_DENIED PERMISSION_DENIED 403
DRAINING UNAVAILABLE 503
UNSUPPORTED UNIMPLEMENTED 501
EXECUTION_FAILED INTERNAL 500
OUT_OF_MEMORY RESOURCE_EXHAUSTED 503
DEVICE_FAILED UNAVAILABLE 503
ALREADY_EXISTS ALREADY_EXISTS 400
INTERNAL INTERNAL 500
"""


def test_the_table_says_what_the_design_says() -> None:
    rows = [line.split() for line in TABLE.split("\n") if line]
    expected = {ErrorCode(code): (grpc_name, int(http)) for code, grpc_name, http in rows}
    assert {code: (each.grpc_name, each.http) for code, each in STATUS.items()} == expected


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_has_a_status_that_grpc_and_http_know(code: ErrorCode) -> None:
    status = STATUS[code]
    assert grpc.StatusCode[status.grpc_name].value[0] == status.grpc
    assert status.http in REASONS


def test_every_code_has_one_error() -> None:
    leaves = [each for each in vars(errors).values() if isinstance(each, type)]
    codes = [
        each.code for each in leaves if issubclass(each, ServingError) and each is not ServingError
    ]
    assert sorted(code.value for code in codes) == sorted(code.value for code in ErrorCode)
