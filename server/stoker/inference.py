"""The first of the two interfaces: serve. Transports hold an `InferenceEngine`, never the engine.

All methods are called on the event loop's thread.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from stoker.errors import ServingError
from stoker.model import ModelConfig, ModelMetadata, Readiness
from stoker.request import InferRequest, InferResponse
from stoker.telemetry.statistics import ModelStatistics

Reply: TypeAlias = Callable[[InferResponse | ServingError], None]
"""Called on the loop, exactly once per submitted request, perhaps before `submit` returns."""

Cancel: TypeAlias = Callable[[], None]
"""Ends a request early: it is answered with Cancelled, unless it has its answer already."""


class InferenceEngine(Protocol):
    """Answers inference requests and questions about the models that answer them."""

    def submit(self, request: InferRequest, reply: Reply) -> Cancel:
        """Takes a request without a Task or Future. Never raises: refusals go to `reply`."""

    async def infer(self, request: InferRequest) -> InferResponse:
        """`submit`, awaitable. Raises ServingError; cancelling the await cancels the request."""

    def metadata(self, model: str, version: str = "") -> ModelMetadata:
        """Raises ModelNotFound, ModelNotReady, InvalidRequest (malformed version)."""

    def config(self, model: str, version: str = "") -> ModelConfig:
        """The effective configuration. Raises as `metadata`."""

    def statistics(self, model: str = "", version: str = "") -> Sequence[ModelStatistics]:
        """Of one version, of every ready version of a model, or of all. Raises as `metadata`."""

    def ready(self, model: str | None = None, version: str = "") -> Readiness:
        """Of the server (model None), a model, or a version. Unknown names are not ready.

        Raises InvalidRequest for a malformed version.
        """
