"""The forms that a REST body takes: JSON, binary, both at once, compressed, and raw alone.

Stock clients where they can make the form; otherwise an HTTP client that sends what is given.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import pytest
import tritonclient.http as triton  # type: ignore[import-untyped]  # ships no types
from stoker.tensor import Array, DataType

from tests.conftest import Endpoints, Serving
from tests.models import (
    SIMPLE_CONFIG,
    ModelEntry,
    double,
    identity,
    label,
    simple,
    string_concat,
    write_repository,
)
from tests.rest_call import get, post
from tests.triton_client import Given, TritonClient

JSON_LENGTH: Final = "Inference-Header-Content-Length"
INFLATE: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
}
DEFLATE: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
}


@pytest.fixture(scope="module")
def at(serve_module: Serving, tmp_path_factory: pytest.TempPathFactory) -> Endpoints:
    repository = write_repository(
        tmp_path_factory.mktemp("models"),
        {
            "simple": ModelEntry(simple(), SIMPLE_CONFIG),
            "fixed": label(),
            "variable": double(("batch", "length")),
            "plane": double(("batch", "height", "width")),
            "text": identity(DataType.BYTES, ("batch", 1)),
            "texts": string_concat(),
            "whole": double((2, 3)),
        },
    )
    return serve_module(repository).at


def row(first: int) -> Array:
    return np.arange(first, first + 16, dtype=np.int32).reshape(1, 16)


@dataclass(frozen=True)
class Body:
    """A REST request of `simple`, in parts."""

    json: dict[str, Any]
    binary: bytes = b""

    def send(self, at: Endpoints, **headers: str) -> httpx.Response:
        text = json.dumps(self.json).encode()
        return post(
            at,
            "/v2/models/simple/infer",
            content=text + self.binary,
            headers={JSON_LENGTH: str(len(text)), **headers},
        )


def as_json(name: str, array: Array) -> dict[str, Any]:
    return {
        "name": name,
        "datatype": "INT32",
        "shape": list(array.shape),
        "data": array.tolist(),
    }


def as_binary(name: str, array: Array) -> dict[str, Any]:
    return {
        "name": name,
        "datatype": "INT32",
        "shape": list(array.shape),
        "parameters": {"binary_data_size": array.nbytes},
    }


def outputs_of(answer: httpx.Response) -> dict[str, tuple[str, list[int]]]:
    """For each output, in order, the form it came in and its numbers."""
    assert answer.status_code == 200, answer.text
    size = int(answer.headers.get(JSON_LENGTH, len(answer.content)))
    at, outputs = size, {}
    for each in json.loads(answer.content[:size])["outputs"]:
        assert (each["datatype"], each["shape"]) == ("INT32", [1, 16])
        if "data" in each:
            outputs[each["name"]] = ("json", each["data"])
            continue
        end = at + each["parameters"]["binary_data_size"]
        numbers = np.frombuffer(answer.content[at:end], "<i4").tolist()
        outputs[each["name"]] = ("binary", numbers)
        at = end
    assert at == len(answer.content)
    return outputs


SUM: Final = (row(0) + row(7)).reshape(-1).tolist()
DIFFERENCE: Final = (row(0) - row(7)).reshape(-1).tolist()


@pytest.mark.parametrize("is_left_binary", [False, True])
@pytest.mark.parametrize("is_right_binary", [False, True])
@pytest.mark.parametrize("are_outputs_binary", [(False, True), (True, False), (True, True)])
def test_binary_and_json_inputs_and_outputs_mix_in_one_call(
    at: Endpoints,
    is_left_binary: bool,
    is_right_binary: bool,
    are_outputs_binary: tuple[bool, bool],
) -> None:
    with triton.InferenceServerClient(at.http) as client:
        inputs = [triton.InferInput(f"INPUT{index}", [1, 16], "INT32") for index in range(2)]
        inputs[0].set_data_from_numpy(row(0), binary_data=is_left_binary)
        inputs[1].set_data_from_numpy(row(7), binary_data=is_right_binary)
        outputs = [
            triton.InferRequestedOutput(f"OUTPUT{index}", binary_data=is_binary)
            for index, is_binary in enumerate(are_outputs_binary)
        ]
        answer = client.infer("simple", inputs, outputs=outputs)
    assert answer.as_numpy("OUTPUT0").reshape(-1).tolist() == SUM
    assert answer.as_numpy("OUTPUT1").reshape(-1).tolist() == DIFFERENCE
    for index, is_binary in enumerate(are_outputs_binary):
        assert ("data" in answer.get_output(f"OUTPUT{index}")) is not is_binary


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, {"OUTPUT0": "json", "OUTPUT1": "json"}),
        ({"parameters": {"binary_data_output": True}}, {"OUTPUT0": "binary", "OUTPUT1": "binary"}),
        (
            {"parameters": {"binary_data_output": True}, "outputs": [{"name": "OUTPUT0"}]},
            {"OUTPUT0": "json"},
        ),
        (
            {
                "outputs": [
                    {"name": "OUTPUT1", "parameters": {"binary_data": True}},
                    {"name": "OUTPUT0"},
                ]
            },
            {"OUTPUT1": "binary", "OUTPUT0": "json"},
        ),
        ({"outputs": []}, {"OUTPUT0": "json", "OUTPUT1": "json"}),
    ],
)
def test_each_output_comes_in_the_form_that_was_asked_for(
    at: Endpoints, asked: dict[str, Any], expected: dict[str, str]
) -> None:
    inputs = [as_binary("INPUT0", row(0)), as_json("INPUT1", row(7))]
    got = outputs_of(Body({"inputs": inputs, **asked}, row(0).tobytes()).send(at))
    assert {name: form for name, (form, _) in got.items()} == expected
    assert list(got) == list(expected)
    assert all(
        numbers == (SUM if name == "OUTPUT0" else DIFFERENCE) for name, (_, numbers) in got.items()
    )


def test_an_answer_without_binary_data_is_plain_json(at: Endpoints) -> None:
    inputs = [as_json("INPUT0", row(0)), as_json("INPUT1", row(7))]
    answer = Body({"id": "7", "inputs": inputs}).send(at)
    assert answer.headers["Content-Type"] == "application/json"
    assert JSON_LENGTH not in answer.headers
    assert (answer.json()["id"], answer.json()["model_version"]) == ("7", "1")


def test_a_body_is_json_whatever_its_content_type_and_unknown_keys_are_ignored(
    at: Endpoints,
) -> None:
    body = {"inputs": [as_json("INPUT0", row(0)), as_json("INPUT1", row(7))], "more": [None]}
    for content_type in ("application/x-www-form-urlencoded", "text/plain", "nonsense"):
        answer = post(
            at,
            "/v2/models/simple/infer/?any=1",
            content=json.dumps(body),
            headers={"Content-Type": content_type},
        )
        assert outputs_of(answer)["OUTPUT0"] == ("json", SUM)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_tritonclient_compresses_both_ways(at: Endpoints, coding: str) -> None:
    numbers = np.arange(40_000, dtype=np.float32).reshape(1, -1)
    for kind in ("http", "http-aio"):
        answer = TritonClient(kind, at).infer(
            "variable",
            {"x": Given(numbers, DataType.FP32)},
            ["y"],
            request_compression_algorithm=coding,
            response_compression_algorithm=coding,
        )
        assert np.array_equal(answer.outputs["y"], numbers * 2)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("is_binary", [False, True])
def test_large_answers_are_compressed_as_a_whole_and_small_ones_are_not(
    at: Endpoints, coding: str, is_binary: bool
) -> None:
    for count in (4, 40_000):
        head = {
            "inputs": [
                {
                    "name": "x",
                    "datatype": "FP32",
                    "shape": [1, count],
                    "parameters": {"binary_data_size": 4 * count},
                }
            ],
            "parameters": {"binary_data_output": is_binary},
        }
        text = json.dumps(head).encode()
        numbers = np.arange(count, dtype=np.float32)
        with httpx.stream(
            "POST",
            f"{at.url}/v2/models/variable/infer",
            content=DEFLATE[coding](text + numbers.tobytes()),
            headers={
                JSON_LENGTH: str(len(text)),
                "Content-Encoding": coding,
                "Accept-Encoding": coding,
            },
        ) as answer:
            raw = b"".join(answer.iter_raw())
        assert answer.status_code == 200
        is_large = count > 4
        assert answer.headers.get("Content-Encoding") == (coding if is_large else None)
        plain = INFLATE[coding](raw) if is_large else raw
        size = int(answer.headers.get(JSON_LENGTH, len(plain)))
        (output,) = json.loads(plain[:size])["outputs"]
        got = np.frombuffer(plain[size:], "<f4") if is_binary else np.array(output["data"])
        assert np.array_equal(got, numbers * 2)


def test_grpc_messages_are_compressed_by_tritonclient(at: Endpoints) -> None:
    numbers = np.zeros((1, 40_000), np.float32)
    for kind in ("grpc", "grpc-aio"):
        for algorithm in ("gzip", "deflate"):
            answer = TritonClient(kind, at).infer(
                "variable", {"x": Given(numbers, DataType.FP32)}, compression_algorithm=algorithm
            )
            assert np.array_equal(answer.outputs["y"], numbers)


def raw(at: Endpoints, model: str, body: bytes) -> httpx.Response:
    """A body that is one tensor and nothing else."""
    return post(at, f"/v2/models/{model}/infer", content=body, headers={JSON_LENGTH: "0"})


@pytest.mark.parametrize(
    ("model", "count", "shape"),
    [("variable", 6, [1, 6]), ("variable", 0, [1, 0]), ("whole", 6, [2, 3])],
)
def test_a_raw_body_is_the_only_input(
    at: Endpoints, model: str, count: int, shape: list[int]
) -> None:
    numbers = np.arange(count, dtype=np.float32)
    answer = raw(at, model, numbers.tobytes())
    assert answer.status_code == 200, answer.text
    size = int(answer.headers.get(JSON_LENGTH, len(answer.content)))
    (output,) = json.loads(answer.content[:size])["outputs"]
    assert output["shape"] == shape
    assert output["parameters"] == {"binary_data_size": 4 * count}
    assert np.array_equal(np.frombuffer(answer.content[size:], "<f4"), numbers * 2)


def test_a_raw_body_is_one_text_without_its_length(at: Endpoints) -> None:
    answer = raw(at, "text", "é\0漢".encode())
    size = int(answer.headers[JSON_LENGTH])
    text = "é\0漢".encode()
    assert answer.content[size:] == len(text).to_bytes(4, "little") + text


@pytest.mark.parametrize(
    ("model", "body", "words"),
    [
        ("simple", b"\0" * 128, "with 2"),
        ("texts", b"a", "with 2"),
        ("plane", b"\0" * 16, "at most one variable dimension"),
        ("variable", b"\0" * 5, "got 5 bytes"),
        ("fixed", b"\0" * 16, "16"),
        ("text", b"\xff", "element 0 is not valid UTF-8"),
    ],
)
def test_a_raw_body_that_fits_no_input_is_refused(
    at: Endpoints, model: str, body: bytes, words: str
) -> None:
    answer = raw(at, model, body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


def test_a_compressed_raw_body_is_inflated_first(at: Endpoints) -> None:
    numbers = np.arange(6, dtype=np.float32)
    answer = post(
        at,
        "/v2/models/variable/infer",
        content=gzip.compress(numbers.tobytes()),
        headers={JSON_LENGTH: "0", "Content-Encoding": "gzip"},
    )
    assert answer.status_code == 200, answer.text
    assert answer.content.endswith((numbers * 2).tobytes())


def test_chunked_bodies_are_taken(at: Endpoints) -> None:
    text = json.dumps({"inputs": [as_json("INPUT0", row(0)), as_json("INPUT1", row(7))]}).encode()
    pieces = (text[start : start + 100] for start in range(0, len(text), 100))
    answer = post(at, "/v2/models/simple/infer", content=pieces)
    assert answer.request.headers["Transfer-Encoding"] == "chunked"
    assert outputs_of(answer)["OUTPUT1"] == ("json", DIFFERENCE)


def test_names_of_models_are_percent_decoded(serve: Serving, tmp_path: Path) -> None:
    at = serve(write_repository(tmp_path, {"a model é": double()})).at
    assert get(at, "/v2/models/a%20model%20%C3%A9").json()["name"] == "a model é"
