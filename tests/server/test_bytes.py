"""BYTES elements of every kind: empty, long, with zero bytes, none at all, and not text."""

import numpy as np
import pytest
from stoker.protocol import inference_pb2 as pb
from stoker.tensor import DataType
from tritonclient.utils import serialize_byte_tensor  # type: ignore[import-untyped]  # no types

from tests.conftest import Endpoints, Serving
from tests.grpc_call import grpc_infer
from tests.models import identity, write_repository
from tests.rest_call import post
from tests.triton_client import CLIENTS, PROTOCOLS, Given, Refused, TritonClient

NOT_TEXT = b"\xff\xfe"


@pytest.fixture(scope="module")
def at(serve_module: Serving, tmp_path_factory: pytest.TempPathFactory) -> Endpoints:
    model = identity(DataType.BYTES, ("batch", "length"))
    return serve_module(write_repository(tmp_path_factory.mktemp("models"), {"echo": model})).at


def echo(at: Endpoints, kind: str, *elements: bytes, is_binary: bool = True) -> list[object]:
    """The elements of one row, there and back."""
    row = np.array([elements], object).reshape(1, len(elements))
    client = TritonClient(kind, at)
    answer = client.infer(
        "echo", {"x": Given(row, DataType.BYTES, is_binary)}, ["y"], binary_outputs=is_binary
    )
    assert answer.outputs["y"].shape == (1, len(elements))
    return list(answer.outputs["y"].flat)


# aiohttp tells programs that send a large body at once to send it in pieces; tritonclient does not.
@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
@pytest.mark.parametrize("kind", CLIENTS)
def test_empty_long_and_zero_bytes_come_back(at: Endpoints, kind: str) -> None:
    elements = (b"", "é漢🎉".encode(), b"a\0b\0", b"\0", b"", b"x" * (1 << 20), b"after")
    assert echo(at, kind, *elements) == list(elements)


@pytest.mark.parametrize("kind", CLIENTS)
def test_no_elements_come_back_as_none(at: Endpoints, kind: str) -> None:
    assert echo(at, kind) == []


def test_json_strings_come_back_with_zero_bytes_and_all(at: Endpoints) -> None:
    texts = ("", "é漢🎉", "a\0b", '"\\\n', "x" * (1 << 20))
    got = echo(at, "http", *(each.encode() for each in texts), is_binary=False)
    assert got == list(texts)


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_bytes_that_are_not_text_are_refused_with_the_index(at: Endpoints, kind: str) -> None:
    with pytest.raises(Refused, match="element 2 is not valid UTF-8 at byte 1") as refused:
        echo(at, kind, b"good", b"", b"a" + NOT_TEXT, b"good")
    assert refused.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")
    assert echo(at, kind, b"good") == [b"good"]


def test_typed_bytes_that_are_not_text_are_refused_with_the_index(at: Endpoints) -> None:
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="BYTES", shape=[1, 2])
    tensor.contents.bytes_contents.extend([b"good", NOT_TEXT])
    request = pb.ModelInferRequest(model_name="echo", inputs=[tensor])
    with pytest.raises(Exception, match="element 1 is not valid UTF-8"):
        grpc_infer(at, request)


def test_half_a_surrogate_pair_in_json_is_refused_with_the_index(at: Endpoints) -> None:
    body = r'{"inputs":[{"name":"x","datatype":"BYTES","shape":[1,2],"data":["a","\ud800"]}]}'
    answer = post(at, "/v2/models/echo/infer", content=body)
    assert answer.status_code == 400
    assert "element 1" in answer.json()["error"]


def test_a_length_that_reaches_beyond_the_data_is_refused(at: Endpoints) -> None:
    whole = serialize_byte_tensor(np.array([b"one", b"two"], object)).item()
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="BYTES", shape=[1, 2])
    for raw, words in (
        (whole[:-1], "element 1 of 2: expected 3 bytes, got 2"),
        (whole + b"\0", "1 bytes after the last one"),
        (whole[:4], "fewer than their 2 length prefixes"),
        (b"\xff\xff\xff\xff" + whole[4:], "element 0 of 2: expected 4294967295 bytes"),
    ):
        request = pb.ModelInferRequest(model_name="echo", inputs=[tensor], raw_input_contents=[raw])
        with pytest.raises(Exception, match=words):
            grpc_infer(at, request)
