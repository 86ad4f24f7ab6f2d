"""A way to a running server: the interface of `client/rest.py` and `client/grpc.py`.

The client speaks in the same nouns as the server (`InferRequest`, `ModelMetadata`), and knows
nothing of the server's insides.
"""

from typing import Protocol
from urllib.parse import urlsplit

from stoker.model import ModelMetadata
from stoker.request import InferRequest, InferResponse


class ClientError(Exception):
    """Why a call could not be made, or what the server said against it: one line."""


class Connection(Protocol):
    """One server. Every method raises ClientError."""

    def metadata(self, model: str, version: str) -> ModelMetadata:
        """What the model takes and gives; `version` empty: the server's choice."""

    def infer(self, request: InferRequest) -> InferResponse:
        """One answer to one request."""

    def close(self) -> None:
        """Ends the connection."""


def connect(url: str, *, timeout_s: float) -> Connection:
    """A connection by the URL's scheme: http, https, grpc or grpcs; none means http.

    Nothing is sent before the first call. Raises ClientError for a malformed URL.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ClientError(f"expected a URL such as http://localhost:8000, got {url!r}") from error
    if not host or parts.scheme not in ("http", "https", "grpc", "grpcs"):
        raise ClientError(
            f"expected a URL http://HOST:PORT, https://..., grpc://... or grpcs://..., got {url!r}"
        )
    is_secure = parts.scheme.endswith("s")
    if parts.scheme.startswith("http"):
        from stoker.client.rest import RestConnection

        return RestConnection(
            host,
            port or (443 if is_secure else 8000),
            path=parts.path.rstrip("/"),
            is_secure=is_secure,
            timeout_s=timeout_s,
        )
    from stoker.client.grpc import GrpcConnection

    return GrpcConnection(
        host, port or (443 if is_secure else 8001), is_secure=is_secure, timeout_s=timeout_s
    )
