"""Paths of the REST interface."""

import pytest
from stoker.errors import Unsupported
from stoker.transport.rest.router import Endpoint, Route, resolve
from stoker.transport.wire.problems import HttpError, Problem


@pytest.mark.parametrize(
    ("method", "path", "route"),
    [
        ("GET", "/v2", Route(Endpoint.SERVER_METADATA)),
        ("HEAD", "/v2/", Route(Endpoint.SERVER_METADATA)),
        ("GET", "/v2/health/live", Route(Endpoint.SERVER_LIVE)),
        ("GET", "/v2/health/ready/", Route(Endpoint.SERVER_READY)),
        ("GET", "/v2/models/stats", Route(Endpoint.STATISTICS)),
        ("GET", "/v2/models/m", Route(Endpoint.MODEL_METADATA, "m")),
        ("GET", "/v2/models/m/versions/3", Route(Endpoint.MODEL_METADATA, "m", "3")),
        ("GET", "/v2/models/m/ready", Route(Endpoint.MODEL_READY, "m")),
        ("GET", "/v2/models/m/versions/3/ready", Route(Endpoint.MODEL_READY, "m", "3")),
        ("GET", "/v2/models/m/config", Route(Endpoint.MODEL_CONFIG, "m")),
        ("GET", "/v2/models/m/versions/3/stats", Route(Endpoint.STATISTICS, "m", "3")),
        ("POST", "/v2/models/m/infer", Route(Endpoint.INFER, "m")),
        ("POST", "/v2/models/stats/infer", Route(Endpoint.INFER, "stats")),
        ("POST", "/v2/models/m/versions/03/infer", Route(Endpoint.INFER, "m", "03")),
        ("POST", "/v2/models/a%20b%2Fc%C3%A4/infer", Route(Endpoint.INFER, "a b/cä")),
        ("POST", "/v2/repository/index", Route(Endpoint.REPOSITORY_INDEX)),
        ("POST", "/v2/repository/any/index", Route(Endpoint.REPOSITORY_INDEX)),
    ],
)
def test_a_path_leads_to_its_endpoint(method: str, path: str, route: Route) -> None:
    assert resolve(method, path) == route
    assert resolve(method, path) == route


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/models/m",
        "/v2//",
        "/v2/health",
        "/v2/models",
        "/v2/models//infer",
        "/v2/models/m/nothing",
        "/v2/models/m/versions",
        "/v2/models/m/versions/x/infer",
        "/v2/models/m/versions/-1",
        "/v2/models/m/versions/²",
        "/v2/models/m/versions//infer",
        "/v2/repository/a/b/index",
        "/v2/systemsharedmemory",
        "/v2/systemsharedmemory/register",
        "*",
    ],
)
def test_an_unknown_path_is_not_found(path: str) -> None:
    with pytest.raises(HttpError) as raised:
        resolve("GET", path)
    assert raised.value.problem is Problem.NO_SUCH_PATH


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v2", "GET, HEAD"),
        ("DELETE", "/v2/models/m", "GET, HEAD"),
        ("GET", "/v2/models/m/infer", "POST"),
        ("GET", "/v2/repository/index", "POST"),
        ("GET", "/v2/repository/models/m/load", "POST"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(method: str, path: str, allowed: str) -> None:
    with pytest.raises(HttpError) as raised:
        resolve(method, path)
    assert raised.value.problem is Problem.METHOD_NOT_ALLOWED
    assert raised.value.headers == (("Allow", allowed),)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/models/m/generate"),
        ("POST", "/v2/models/m/versions/1/generate_stream"),
        ("GET", "/v2/trace/setting"),
        ("POST", "/v2/models/m/trace/setting"),
        ("GET", "/v2/logging"),
        ("POST", "/v2/repository/models/m/load"),
        ("POST", "/v2/repository/r/models/m/unload"),
        ("GET", "/v2/systemsharedmemory/status"),
        ("GET", "/v2/systemsharedmemory/region/r/status"),
        ("POST", "/v2/cudasharedmemory/region/r/register"),
        ("POST", "/v2/cudasharedmemory/unregister"),
    ],
)
def test_a_path_of_the_protocol_that_is_not_served_says_so(method: str, path: str) -> None:
    with pytest.raises(Unsupported, match="does not serve"):
        resolve(method, path)


def test_a_name_that_is_not_utf8_is_malformed() -> None:
    with pytest.raises(HttpError) as raised:
        resolve("GET", "/v2/models/%ff")
    assert raised.value.problem is Problem.MALFORMED
