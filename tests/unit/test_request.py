"""What requests have in common is one object, so that what is known of it is found again."""

from stoker.request import InferRequest
from stoker.tensor import DataType, Tensor


def request(value: float, **custom: bool | int | float | str) -> InferRequest:
    data = bytes([int(value)] * 8)
    inputs = (Tensor("x", DataType.FP32, (1, 2), data),)
    return InferRequest.of("m", "1", id=str(value), inputs=inputs, parameters=custom)


def test_requests_that_differ_in_data_id_and_custom_parameters_are_of_one_kind() -> None:
    first, second = request(1, trace="a"), request(2, trace="b", seed=7)
    assert first.kind is second.kind
    assert first.parameters == {"trace": "a"}
    assert second.parameters == {"trace": "b", "seed": 7}


def test_a_request_for_another_output_is_of_another_kind() -> None:
    whole = request(1)
    part = InferRequest.of("m", "1", inputs=whole.inputs, requested_outputs=("y",))
    assert part.kind is not whole.kind
    assert part.inputs == whole.inputs
