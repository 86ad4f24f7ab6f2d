"""REST calls with bodies and headers of our own, for what stock clients cannot send."""

from typing import Any

import httpx

from tests.conftest import PATIENCE, Endpoints


def rest(at: Endpoints, method: str, path: str, **options: Any) -> httpx.Response:
    """One call on a connection of its own; `options` are those of httpx."""
    # Without `verify=False` each call reads all certificates of the machine, though none is needed.
    return httpx.request(method, at.url + path, timeout=PATIENCE, verify=False, **options)


def post(at: Endpoints, path: str, **options: Any) -> httpx.Response:
    """A POST."""
    return rest(at, "POST", path, **options)


def get(at: Endpoints, path: str) -> httpx.Response:
    """A GET."""
    return rest(at, "GET", path)


def management(at: Endpoints, path: str, *, method: str = "GET", **options: Any) -> httpx.Response:
    """A call of the management port."""
    return httpx.request(method, at.management + path, timeout=PATIENCE, verify=False, **options)
