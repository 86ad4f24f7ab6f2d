"""`stoker infer` and the README's curl body against the running demo."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from stoker.app import DEMO
from stoker.cli import main

from tests.conftest import PATIENCE, Endpoints, Serving
from tests.rest_call import post

IMAGES: Final = DEMO.parent / "images"
DIGITS: Final = range(10)


@pytest.fixture(scope="module")
def at(serve_module: Serving) -> Endpoints:
    return serve_module(DEMO).at


@pytest.fixture(params=["http", "grpc"])
def url(at: Endpoints, request: pytest.FixtureRequest) -> str:
    return at.url if request.param == "http" else f"grpc://{at.grpc}"


def infer(
    capsys: pytest.CaptureFixture[str], url: str, model: str, *arguments: str
) -> dict[str, list[object]]:
    """The outputs that the command prints as JSON, each as a flat list."""
    code = main(["infer", model, "--url", url, "--format", "json", *arguments])
    printed = capsys.readouterr()
    assert (code, printed.err) == (0, "")
    answer = json.loads(printed.out)
    assert (answer["model_name"], answer["model_version"]) == (model, "1")
    return {each["name"]: np.array(each["data"]).ravel().tolist() for each in answer["outputs"]}


@pytest.mark.parametrize("digit", DIGITS)
def test_every_image_of_a_digit_is_classified_right(
    capsys: pytest.CaptureFixture[str], url: str, digit: int
) -> None:
    outputs = infer(capsys, url, "digits", "--input", f"@{IMAGES / f'digit-{digit}.png'}")
    assert outputs["digit"] == [digit]
    assert np.argmax(np.array(outputs["probabilities"], np.float64)) == digit


def test_the_body_of_a_request_is_an_input_as_well(
    capsys: pytest.CaptureFixture[str], url: str
) -> None:
    outputs = infer(capsys, url, "digits", "--input", f"@{IMAGES / 'digit-7.json'}")
    assert outputs["digit"] == [7]


def test_without_a_url_the_port_is_that_of_the_environment(
    capsys: pytest.CaptureFixture[str], at: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOKER_HTTP_PORT", str(at.http_port))
    assert main(["infer", "echo", "--input", "hello"]) == 0
    assert "hello" in capsys.readouterr().out


def test_the_body_of_the_readmes_curl_is_classified_right(at: Endpoints) -> None:
    answer = post(
        at,
        "/v2/models/digits/infer",
        content=(IMAGES / "digit-7.json").read_bytes(),
        headers={"Content-Type": "application/x-www-form-urlencoded"},  # what curl -d says
    )
    assert answer.status_code == 200, answer.text
    outputs = {each["name"]: each["data"] for each in answer.json()["outputs"]}
    assert outputs["digit"] == [7]


def test_arrays_come_from_npy_files(
    capsys: pytest.CaptureFixture[str], url: str, tmp_path: Path
) -> None:
    numbers = np.arange(32, dtype=np.int64).reshape(2, 16)
    np.save(tmp_path / "left.npy", numbers)
    np.save(tmp_path / "right.npy", numbers[:, ::-1])
    left, right = tmp_path / "left.npy", tmp_path / "right.npy"
    outputs = infer(
        capsys, url, "simple", "--input", f"INPUT0=@{left}", "--input", f"INPUT1=@{right}"
    )
    assert outputs["OUTPUT0"] == (numbers + numbers[:, ::-1]).ravel().tolist()
    assert outputs["OUTPUT1"] == (numbers - numbers[:, ::-1]).ravel().tolist()


def test_all_inputs_come_from_one_json_file(
    capsys: pytest.CaptureFixture[str], url: str, tmp_path: Path
) -> None:
    file = tmp_path / "inputs.json"
    file.write_text(json.dumps({"INPUT0": [list(range(16))], "INPUT1": [[1] * 16]}))
    outputs = infer(capsys, url, "simple", "--input", f"@{file}", "--output", "OUTPUT0")
    assert outputs == {"OUTPUT0": list(range(1, 17))}


def test_json_comes_from_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"text": [["é"], ["b"]]}'))
    assert infer(capsys, url, "echo", "--input", "@-") == {"echo": ["é", "b"]}


def test_text_comes_from_the_command_line(capsys: pytest.CaptureFixture[str], url: str) -> None:
    assert infer(capsys, url, "echo", "--input", "text=hello, é") == {"echo": ["hello, é"]}


def test_an_error_of_the_server_is_one_line_and_code_1(
    capsys: pytest.CaptureFixture[str], url: str
) -> None:
    code = main(["infer", "nope", "--url", url, "--input", "1"])
    printed = capsys.readouterr()
    assert (code, printed.out) == (1, "")
    assert "Request for unknown model: 'nope' is not found" in printed.err
    assert len(printed.err.splitlines()) == 1


def test_the_process_writes_an_output_as_npy(url: str) -> None:
    process = subprocess.run(
        [
            *(sys.executable, "-m", "stoker", "infer", "digits", "--url", url),
            *("--input", f"@{IMAGES / 'digit-3.png'}", "--format", "npy", "--output", "digit"),
        ],
        capture_output=True,
        timeout=PATIENCE,
        check=True,
    )
    assert np.load(io.BytesIO(process.stdout)).tolist() == [[3]]
