"""Probes and metrics of the management port."""

import json

import pytest
from stoker.errors import Internal, ServingError
from stoker.model import Readiness
from stoker.transport.management.endpoints import GiveMetrics, management_handler
from stoker.transport.wire.message import HttpRequest, HttpResponse, RequestHead

NOT_YET = Readiness(False, ("model 'm' is loading", "model 'n' failed"))


def ask(
    path: str,
    method: str = "GET",
    *,
    ready: Readiness = NOT_YET,
    failure: ServingError | None = None,
) -> HttpResponse:
    def metrics(accept: str, give: GiveMetrics) -> None:
        give(failure or ("text/x", (b"accept=", accept.encode())))

    handler = management_handler(
        live=lambda: Readiness(True), ready=lambda: ready, started=lambda: ready, metrics=metrics
    )
    answers: list[HttpResponse] = []
    head = RequestHead(method, path, {"accept": "text/plain"})
    assert handler.handle(HttpRequest(head, b""), answers.append) is None
    (answer,) = answers
    return answer


@pytest.mark.parametrize("path", ["/livez", "/livez/"])
def test_a_live_server_says_so(path: str) -> None:
    answer = ask(path)
    assert (answer.status, answer.pieces) == (200, (b'{"ok":true}',))


@pytest.mark.parametrize("path", ["/readyz", "/startupz"])
def test_a_server_that_is_not_ready_gives_its_reasons(path: str) -> None:
    answer = ask(path)
    body = json.loads(bytes(answer.pieces[0]))
    assert answer.status == 503
    assert body["reasons"] == list(NOT_YET.reasons)
    assert body["error"] == "model 'm' is loading; model 'n' failed"
    assert ask(path, ready=Readiness(True)).status == 200


@pytest.mark.parametrize("ready", [True, False])
def test_what_else_is_going_on_stands_in_the_body_and_changes_no_answer(ready: bool) -> None:
    answer = ask("/readyz", ready=Readiness(ready, (), ("model 'm' v1: TensorRT: building 40 s",)))
    assert answer.status == (200 if ready else 503)
    body = json.loads(bytes(answer.pieces[0]))
    assert body["ok"] is ready
    assert body["details"] == ["model 'm' v1: TensorRT: building 40 s"]


@pytest.mark.parametrize("path", ["/metrics", "/metrics/"])
def test_metrics_are_given_as_the_scraper_accepts_them(path: str) -> None:
    answer = ask(path)
    assert answer.headers == (("Content-Type", "text/x"),)
    assert answer.pieces == (b"accept=", b"text/plain")


def test_metrics_that_cannot_be_rendered_are_an_error_and_not_a_silence() -> None:
    assert ask("/metrics", failure=Internal("no")).status == 500


def test_only_reading_is_allowed() -> None:
    answer = ask("/metrics", "POST")
    assert answer.status == 405
    assert ("Allow", "GET, HEAD") in answer.headers
    assert ask("/livez", "HEAD").status == 200


def test_another_path_is_not_found() -> None:
    answer = ask("/")
    assert answer.status == 404
    assert "/readyz" in json.loads(bytes(answer.pieces[0]))["error"]
