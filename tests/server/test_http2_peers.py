"""Clients that others wrote speak HTTP/2 to the REST port of a real server."""

import httpx
import pytest
from stoker.app import DEMO

from tests.conftest import PATIENCE, Endpoints, Serving
from tests.digit import BODY, INFER, digit_of
from tests.tools import output_of, require_tool

IMAGES = DEMO.parent / "images"


@pytest.fixture(scope="module")
def at(serve_module: Serving) -> Endpoints:
    return serve_module(DEMO).at


def test_curl_with_prior_knowledge_gets_its_digit(at: Endpoints) -> None:
    curl = [require_tool("curl"), "-s", "--http2-prior-knowledge"]
    written = ["-w", "\n%{http_version} %{http_code}", "-d", f"@{BODY}"]
    answer, _, facts = output_of(*curl, *written, at.url + INFER).rpartition("\n")
    assert facts == "2 200"
    assert digit_of(answer) == [7]


def test_nghttp_gets_its_digit(at: Endpoints) -> None:
    nghttp = require_tool("nghttp")
    answer = output_of(nghttp, "-d", str(BODY), "-H", ":method: POST", at.url + INFER)
    assert digit_of(answer) == [7]


def test_h2load_has_every_request_answered(at: Endpoints) -> None:
    h2load = require_tool("h2load")
    said = output_of(h2load, "-n", "2000", "-c", "8", "-m", "16", "-d", str(BODY), at.url + INFER)
    assert "2000 succeeded, 0 failed, 0 errored, 0 timeout" in said
    assert "2000 2xx" in said


def test_httpx_gets_answers_and_errors_on_one_connection(at: Endpoints) -> None:
    with httpx.Client(http1=False, http2=True, base_url=at.url) as client:
        answers = [client.post(INFER, content=BODY.read_bytes()) for _ in range(3)]
        assert {each.http_version for each in answers} == {"HTTP/2"}
        assert [digit_of(each.text) for each in answers] == [[7]] * 3
        assert client.get("/v2/health/ready").status_code == 200
        assert client.get("/nope").status_code == 404
        wrong = client.post(INFER, content=b"{")
        assert (wrong.status_code, wrong.headers["content-type"]) == (400, "application/json")
        zipped = client.post(
            INFER, content=BODY.read_bytes(), headers={"Accept-Encoding": "gzip", "X-A": "b"}
        )
        assert digit_of(zipped.text) == [7]


def test_a_large_tensor_is_answered_whole(at: Endpoints) -> None:
    texts = ["x" * 5000] * 4000
    text = {"name": "text", "shape": [4000, 1], "datatype": "BYTES", "data": texts}
    with httpx.Client(http1=False, http2=True, base_url=at.url, timeout=PATIENCE) as client:
        answer = client.post("/v2/models/echo/infer", json={"inputs": [text]})
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["data"] == texts
