"""grpc.health.v1: whether the server, its inference service, or one model serves.

`HealthBoard` holds the states: who loads models and drains the server calls `set`, `show`,
`forget` and `drain` on the loop; `health_methods` answers Check and Watch from it. The board knows
neither models nor probes: a name is a name. Its methods take plain values so that callers need
not import this module.

Names: "" is the server, `inference.GRPCInferenceService` always has the same state, and every
other name is a model.  Source: grpc.health.v1, health checking protocol of gRPC.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Final

from stoker.errors import InvalidRequest, ModelNotFound
from stoker.protocol.health_pb2 import HealthCheckRequest, HealthCheckResponse
from stoker.transport.grpc.call import (
    CallContext,
    MessageBytes,
    Method,
    StreamMethod,
    answering,
    parse,
)

SERVER: Final = ""
INFERENCE_SERVICE: Final = "inference.GRPCInferenceService"
_OWN_NAMES: Final = frozenset({SERVER, INFERENCE_SERVICE})

_SERVING: Final = HealthCheckResponse(status=HealthCheckResponse.SERVING).SerializeToString()
_NOT_SERVING: Final = HealthCheckResponse(
    status=HealthCheckResponse.NOT_SERVING
).SerializeToString()
_SERVICE_UNKNOWN: Final = HealthCheckResponse(
    status=HealthCheckResponse.SERVICE_UNKNOWN
).SerializeToString()


class HealthBoard:
    """The serving state of every name, and who waits for changes. Used on the loop only."""

    def __init__(self) -> None:
        self._serving: dict[str, bool] = dict.fromkeys(_OWN_NAMES, False)
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._is_draining = False

    def set(self, service: str, serving: bool) -> None:
        """Notes a state: of the server (""), or of a model. Nothing serves again after `drain`.

        A model that is named as the inference service has no state of its own.
        """
        if service == SERVER:
            self._note(SERVER, serving)
            self._note(INFERENCE_SERVICE, serving)
        elif service not in _OWN_NAMES:
            self._note(service, serving)

    def show(self, serving: bool, models: Mapping[str, bool]) -> None:
        """Everything at once: the server's state and every model's; other models are forgotten."""
        self.set(SERVER, serving)
        for model, model_serves in models.items():
            self.set(model, model_serves)
        for gone in self._serving.keys() - models.keys():
            self.forget(gone)

    def forget(self, service: str) -> None:
        """A model that is no longer known. The server itself cannot be forgotten."""
        if service not in _OWN_NAMES and self._serving.pop(service, None) is not None:
            self._wake(service)

    def drain(self) -> None:
        """Every name stops serving, for good."""
        self._is_draining = True
        for service in self._serving:
            self._note(service, False)

    def serving(self, service: str) -> bool | None:
        """Whether the name serves; None for a name that nobody set."""
        return self._serving.get(service)

    async def changes(self, service: str) -> AsyncGenerator[bool | None, None]:
        """The name's state at once and after every change; a slow reader sees the latest only."""
        changed = asyncio.Event()
        watchers = self._watchers.setdefault(service, set())
        watchers.add(changed)
        try:
            while True:
                state = self.serving(service)
                yield state
                while state == self.serving(service):
                    await changed.wait()
                    changed.clear()
        finally:
            watchers.discard(changed)
            if not watchers:
                self._watchers.pop(service, None)

    def _note(self, service: str, serving: bool) -> None:
        state = serving and not self._is_draining
        if self._serving.get(service) != state:
            self._serving[service] = state
            self._wake(service)

    def _wake(self, service: str) -> None:
        for changed in self._watchers.get(service, ()):
            changed.set()


def health_methods(board: HealthBoard) -> dict[str, Method]:
    """Check and Watch by full name. Check of an unknown name is an error, Watch tells of it."""

    def check(request: HealthCheckRequest) -> bytes:
        serving = board.serving(request.service)
        if serving is None:
            raise ModelNotFound(
                f"Request for unknown model or service '{request.service}' in a health check"
            )
        return _SERVING if serving else _NOT_SERVING

    async def watch(
        requests: AsyncIterator[MessageBytes], context: CallContext
    ) -> AsyncGenerator[bytes, None]:
        message = await anext(requests, None)
        if message is None:
            raise InvalidRequest("Watch: expected one HealthCheckRequest, got none")
        changes = board.changes(parse(HealthCheckRequest, message).service)
        try:
            async for serving in changes:
                if serving is None:
                    yield _SERVICE_UNKNOWN
                else:
                    yield _SERVING if serving else _NOT_SERVING
        finally:
            await changes.aclose()

    return {
        "/grpc.health.v1.Health/Check": answering(HealthCheckRequest, check),
        "/grpc.health.v1.Health/Watch": StreamMethod(watch, is_endless=True),
    }
