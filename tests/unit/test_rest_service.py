"""The REST service by itself: what it keeps of a head, and of a kind of request."""

import gc
import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from types import MappingProxyType

import pytest
from stoker.model import ModelConfig, TensorConfig
from stoker.request import RequestKind
from stoker.tensor import DataType
from stoker.transport.rest.call_head import CallHead
from stoker.transport.rest.descriptions import ServerInfo
from stoker.transport.rest.service import RestService
from stoker.transport.wire.limits import BufferBudget, HttpLimits
from stoker.transport.wire.message import HttpRequest, HttpResponse, RequestHead

from tests.engine_double import CONFIG, MODEL, ControlDouble, EngineDouble

CALL = json.dumps(
    {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
).encode()


class Engine(EngineDouble):
    """Its output's datatype may change, as by a reload."""

    def __init__(self, datatype: DataType) -> None:
        super().__init__()
        self.effective = self.with_output(datatype)

    def with_output(self, datatype: DataType) -> ModelConfig:
        return replace(CONFIG, outputs=(TensorConfig("x", datatype, (2,)),))

    def config(self, model: str, version: str = "") -> ModelConfig:
        super().config(model, version)
        return self.effective


@pytest.fixture
def engine() -> Engine:
    return Engine(DataType.FP32)


@pytest.fixture
def service(engine: Engine) -> Iterator[RestService]:
    service = RestService(
        engine, ControlDouble(), ServerInfo("s", "1", ()), HttpLimits(), BufferBudget(1 << 30)
    )
    yield service
    service.close()


def a_head(**headers: str) -> RequestHead:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return RequestHead("POST", f"/v2/models/{MODEL}/infer", MappingProxyType(fields))


def answer_of(service: RestService, head: RequestHead, body: bytes) -> HttpResponse:
    answers: list[HttpResponse] = []
    service.handle(HttpRequest(head, body), answers.append)
    (answer,) = answers
    return answer


def test_a_head_that_serves_many_calls_is_read_once(service: RestService, engine: Engine) -> None:
    head = a_head()
    assert answer_of(service, head, CALL).status == 200
    meaning = head.meaning
    assert isinstance(meaning, CallHead)
    assert answer_of(service, head, CALL).status == 200
    assert head.meaning is meaning
    assert answer_of(service, head, b"no call").status == 400
    assert len(engine.requests) == 2


def test_bodies_of_one_head_are_read_each_by_its_own_layout(
    service: RestService, engine: Engine
) -> None:
    def body(name: str, *sizes: int, id: str = "") -> bytes:
        call = {
            **({"id": id} if id else {}),
            "inputs": [
                {
                    "name": f"{name}{place}",
                    "shape": [size // 4],
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": size},
                }
                for place, size in enumerate(sizes)
            ],
            "parameters": {"binary_data_output": True},
        }
        text = json.dumps(call).ljust(400).encode()
        return text + bytes(range(sum(sizes)))

    head = a_head(inference_header_content_length="400")
    bodies = [body("a", 8), body("a", 8), body("b", 8), body("a", 4, 8), body("a", 4, 8)]
    bodies += [body("a", 8, id="seven"), body("a", 8)]
    for each in bodies:
        assert answer_of(service, head, each).status == 200
    assert answer_of(service, head, bodies[0][:-1]).status == 400
    assert answer_of(service, head, bodies[0] + b"x").status == 400
    seen = [
        (
            each.id,
            [
                (head.name, bytes(data))
                for head, data in zip(each.kind.inputs, each.data, strict=True)
            ],
        )
        for each in engine.requests
    ]
    one, two = bytes(range(8)), bytes(range(4, 12))
    both = [("a0", bytes(range(4))), ("a1", two)]
    assert seen == [
        ("", [("a0", one)]),
        ("", [("a0", one)]),
        ("", [("b0", one)]),
        ("", both),
        ("", both),
        ("seven", [("a0", one)]),
        ("", [("a0", one)]),
    ]


def test_a_compressed_body_is_inflated_each_time_its_head_comes(service: RestService) -> None:
    head = a_head(content_encoding="gzip")
    for _ in range(3):
        assert answer_of(service, head, gzip.compress(CALL)).status == 200


def test_a_head_that_cannot_be_read_is_refused_each_time(service: RestService) -> None:
    for status, head in (
        (400, a_head(inference_header_content_length="x")),
        (415, a_head(content_encoding="br")),
    ):
        assert [answer_of(service, head, CALL).status for _ in range(2)] == [status, status]
        assert head.meaning is None


def test_what_has_no_json_form_after_a_reload_is_refused(
    service: RestService, engine: Engine
) -> None:
    assert [answer_of(service, a_head(), CALL).status for _ in range(2)] == [200, 200]
    engine.effective = engine.with_output(DataType.FP16)
    for _ in range(2):
        refused = answer_of(service, a_head(), CALL)
        assert refused.status == 400
        assert b"FP16 has no JSON form" in refused.pieces[0]
    engine.effective = engine.with_output(DataType.FP32)
    assert answer_of(service, a_head(), CALL).status == 200


def test_a_kind_whose_names_are_long_is_not_kept(service: RestService, engine: Engine) -> None:
    """Each may be as long as a body of JSON, and the engine has not refused it yet."""
    call = json.loads(CALL)
    call["inputs"][0]["name"] = "x" * (20 << 10)
    answer_of(service, a_head(), json.dumps(call).encode())
    engine.requests.clear()
    gc.collect()
    kinds = [each for each in gc.get_objects() if isinstance(each, RequestKind)]
    assert not [each for each in kinds if any(len(head.name) > 1 << 14 for head in each.inputs)]
