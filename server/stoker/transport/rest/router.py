"""Paths of the REST interface: method and path -> endpoint, model and version.

Pure; it knows which paths exist, not what they answer. Paths of the protocol that are not served
are known too, so that their answer says that instead of "no such path".
Source: Open Inference Protocol v2 over REST, with Triton's extensions.  Hot path.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final
from urllib.parse import unquote_to_bytes

from stoker.errors import Unsupported
from stoker.transport.wire.problems import HttpError, Problem


class Endpoint(Enum):
    """What a path asks for."""

    SERVER_LIVE = auto()
    SERVER_READY = auto()
    SERVER_METADATA = auto()
    MODEL_READY = auto()
    MODEL_METADATA = auto()
    MODEL_CONFIG = auto()
    STATISTICS = auto()
    REPOSITORY_INDEX = auto()
    INFER = auto()
    UNSERVED = auto()


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes."""

    endpoint: Endpoint
    model: str = ""
    version: str = ""


_GET: Final = ("GET", "HEAD")
_POST: Final = ("POST",)
_BOTH: Final = ("GET", "HEAD", "POST")

_Known = tuple[Endpoint, tuple[str, ...]]

_OF_MODEL: Final[dict[tuple[str, ...], _Known]] = {
    (): (Endpoint.MODEL_METADATA, _GET),
    ("ready",): (Endpoint.MODEL_READY, _GET),
    ("config",): (Endpoint.MODEL_CONFIG, _GET),
    ("stats",): (Endpoint.STATISTICS, _GET),
    ("infer",): (Endpoint.INFER, _POST),
    ("generate",): (Endpoint.UNSERVED, _POST),
    ("generate_stream",): (Endpoint.UNSERVED, _POST),
    ("trace", "setting"): (Endpoint.UNSERVED, _BOTH),
}
"""What follows `/v2/models/NAME` or `/v2/models/NAME/versions/N`."""

_OF_SERVER: Final[dict[tuple[str, ...], _Known]] = {
    (): (Endpoint.SERVER_METADATA, _GET),
    ("health", "live"): (Endpoint.SERVER_LIVE, _GET),
    ("health", "ready"): (Endpoint.SERVER_READY, _GET),
    ("models", "stats"): (Endpoint.STATISTICS, _GET),
    ("repository", "index"): (Endpoint.REPOSITORY_INDEX, _POST),
    ("logging",): (Endpoint.UNSERVED, _BOTH),
    ("trace", "setting"): (Endpoint.UNSERVED, _BOTH),
}
"""What follows `/v2`."""

_REMEMBERED_PATHS: Final = 1024
"""Paths that are kept: models by endpoints. At the limit all are forgotten."""

_remembered: dict[tuple[str, str], Route] = {}


def resolve(method: str, path: str) -> Route:
    """The route of a request. `path` is as sent: percent-encoded, without query.

    Raises HttpError (no such path, wrong method, malformed encoding) and Unsupported for paths of
    the protocol that are not served.
    """
    known = _remembered.get((method, path))
    if known is not None:
        return known
    route = _resolve(method, path)
    if len(_remembered) >= _REMEMBERED_PATHS:
        _remembered.clear()
    _remembered[method, path] = route
    return route


def _resolve(method: str, path: str) -> Route:
    segments = tuple(map(_decoded, path.removesuffix("/").split("/")[1:]))
    found = _find(segments)
    if found is None:
        raise HttpError(Problem.NO_SUCH_PATH, f"no such path: '{path}'")
    route, methods = found
    if method not in methods:
        raise HttpError(
            Problem.METHOD_NOT_ALLOWED,
            f"expected method {' or '.join(methods)} for '{path}', got {method}",
            (("Allow", ", ".join(methods)),),
        )
    if route.endpoint is Endpoint.UNSERVED:
        raise Unsupported(f"'{path}' is part of the protocol, but this server does not serve it")
    return route


def _find(segments: tuple[str, ...]) -> tuple[Route, tuple[str, ...]] | None:
    if segments[:1] != ("v2",):
        return None
    rest = segments[1:]
    known = _OF_SERVER.get(rest)
    if known is not None:
        return Route(known[0]), known[1]
    if rest[:1] == ("models",) and len(rest) > 1 and rest[1]:
        model, tail, version = rest[1], rest[2:], ""
        if tail[:1] == ("versions",) and len(tail) > 1:
            version, tail = tail[1], tail[2:]
            if not (version.isascii() and version.isdecimal()):
                return None
        known = _OF_MODEL.get(tail)
        return None if known is None else (Route(known[0], model, version), known[1])
    if rest[:1] == ("repository",):
        return _in_repository(rest[1:])
    if rest[:1] in (("systemsharedmemory",), ("cudasharedmemory",)):
        return _in_shared_memory(rest[1:])
    return None


def _in_repository(rest: tuple[str, ...]) -> tuple[Route, tuple[str, ...]] | None:
    # A repository's name may stand first. Triton ignores it in `index`; so do we.
    for tail in (rest, rest[1:]):
        if tail == ("index",):
            return Route(Endpoint.REPOSITORY_INDEX), _POST
        if len(tail) == 3 and tail[0] == "models" and tail[2] in ("load", "unload"):
            return Route(Endpoint.UNSERVED), _POST
    return None


def _in_shared_memory(rest: tuple[str, ...]) -> tuple[Route, tuple[str, ...]] | None:
    if rest[:1] == ("region",) and len(rest) > 1:
        rest = rest[2:]
    elif rest == ("register",):
        return None
    if rest == ("status",):
        return Route(Endpoint.UNSERVED), _GET
    if rest in (("register",), ("unregister",)):
        return Route(Endpoint.UNSERVED), _POST
    return None


def _decoded(segment: str) -> str:
    if "%" not in segment:
        return segment
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError as error:
        raise HttpError(
            Problem.MALFORMED, f"expected a path of percent-encoded UTF-8, got '{segment}'"
        ) from error
