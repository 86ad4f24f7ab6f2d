"""The REST interface: requests of HTTP in, calls of the two interfaces, answers out.

Stands between a connection of any HTTP version and the engine; it holds an `InferenceEngine` and a
`ModelControl` and knows neither socket nor queue. A small inference call is decoded, submitted and
encoded on the loop without Task or Future. Work that would hold the loop goes to one thread: large
JSON, decompression, compression.  Hot path.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from stoker.control import ModelControl
from stoker.errors import Cancelled, Internal, InvalidRequest, ServingError
from stoker.inference import Cancel, InferenceEngine
from stoker.request import InferRequest, InferResponse
from stoker.transport.rest import descriptions
from stoker.transport.rest.binary import LENGTH_HEADER, decode_raw_body, json_size
from stoker.transport.rest.codec import ALL_BINARY, Decoded, OutputForms, decode
from stoker.transport.rest.compression import (
    COMPRESS_FROM_BYTES,
    compressed,
    inflate,
    request_coding,
    response_coding,
)
from stoker.transport.rest.descriptions import ServerInfo
from stoker.transport.rest.encode import encode
from stoker.transport.rest.json_data import has_json, load, without_json
from stoker.transport.rest.router import Endpoint, Route, resolve
from stoker.transport.wire.limits import BufferBudget, HttpLimits
from stoker.transport.wire.message import (
    JSON,
    Answer,
    HttpRequest,
    HttpResponse,
    RequestHead,
    error_response,
)
from stoker.transport.wire.problems import NOT_READY, OK, HttpError

log = logging.getLogger(__name__)

LARGE_JSON_BYTES: Final = 256 << 10
"""JSON from here on is decoded in the thread. 256 KiB take 0.4 ms by simdjson, but 2 ms where the
standard parser decides. No parser lets go of the GIL: what the thread gains is that the loop runs
between parsing, copying and converting."""

_MAX_INDEX_BODY: Final = 4 << 10

T = TypeVar("T")


class RestService:
    """A `Handler` of the whole REST interface. `close` it after its server."""

    def __init__(
        self,
        engine: InferenceEngine,
        control: ModelControl,
        info: ServerInfo,
        limits: HttpLimits,
        budget: BufferBudget,
        *,
        compresses: bool = True,
    ) -> None:
        self._engine = engine
        self._control = control
        self._limits = limits
        self.budget = budget
        self._compresses = compresses
        self._metadata = descriptions.server_metadata(info)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rest-codec")
        self._answers: dict[Endpoint, Callable[[Route, HttpRequest], HttpResponse]] = {
            Endpoint.SERVER_LIVE: self._server_live,
            Endpoint.SERVER_READY: self._server_ready,
            Endpoint.SERVER_METADATA: self._server_metadata,
            Endpoint.MODEL_READY: self._model_ready,
            Endpoint.MODEL_METADATA: self._model_metadata,
            Endpoint.MODEL_CONFIG: self._model_config,
            Endpoint.STATISTICS: self._statistics,
            Endpoint.REPOSITORY_INDEX: self._index,
        }

    def close(self) -> None:
        """Ends the thread. Jobs that have not begun are dropped."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def body_limit(self, head: RequestHead) -> int:
        """See `Handler`: a body that is JSON as a whole is bounded more narrowly."""
        route = resolve(head.method, head.path)
        if route.endpoint is not Endpoint.INFER:
            return _MAX_INDEX_BODY
        headers = head.headers
        if LENGTH_HEADER in headers or request_coding(headers.get("content-encoding")):
            return self._limits.max_message_bytes
        return self._limits.max_json_bytes

    def handle(self, request: HttpRequest, answer: Answer) -> Cancel | None:
        """See `Handler`."""
        try:
            head = request.head
            route = resolve(head.method, head.path)
            if route.endpoint is Endpoint.INFER:
                return self._infer(route, request, answer)
            response = self._answers[route.endpoint](route, request)
        except (ServingError, HttpError) as error:
            response = error_response(error)
        except Exception as error:
            response = _unforeseen(error)
        answer(response)
        return None

    # Inference.

    def _infer(self, route: Route, request: HttpRequest, answer: Answer) -> Cancel | None:
        headers, body = request.head.headers, request.body
        size = json_size(headers)
        coding = request_coding(headers.get("content-encoding"))
        if self._compresses and "accept-encoding" in headers:
            wanted = response_coding(headers["accept-encoding"])
            if wanted is not None:
                answer = partial(self._answer_compressed, wanted, answer)
        if coding is not None or (len(body) if size is None else size) >= LARGE_JSON_BYTES:
            return _Offloaded(self, route, body, size, coding, answer).begin()
        return self.submit(self.read(route, body, size), answer)

    def read(self, route: Route, body: bytes | memoryview, size: int | None) -> Decoded:
        """The call that this plain body is. On the loop: a body without JSON needs the engine."""
        if size == 0:
            config = self._engine.config(route.model, route.version)
            return decode_raw_body(route.model, route.version, body, config), ALL_BINARY
        return self.decode(route, body, size)

    def decode(self, route: Route, body: bytes | memoryview, size: int | None) -> Decoded:
        """The call that a plain body with JSON is. On any thread."""
        return decode(route.model, route.version, body, size, self._limits.max_json_bytes)

    def inflated_limit(self, size: int | None) -> int:
        """Bytes that a compressed body may become: of JSON as a whole, or of any body."""
        limits = self._limits
        most = limits.max_json_bytes if size is None else limits.max_message_bytes
        return min(most, self.budget.limit)

    def submit(self, decoded: Decoded, answer: Answer) -> Cancel:
        """Gives the call to the engine."""
        request, forms = decoded
        if not forms.all_binary:
            self._check_forms(request, forms)
        return self._engine.submit(request, partial(_answer_inference, forms, answer))

    def _check_forms(self, request: InferRequest, forms: OutputForms) -> None:
        """Refuses, before the model runs, outputs that are to be JSON and have no JSON form."""
        for output in self._engine.config(request.model, request.version).outputs:
            if (
                not has_json(output.datatype)
                and not forms.is_binary(output.name)
                and (not forms.listed or output.name in forms.listed)
            ):
                raise without_json(output.name, output.datatype)

    def _answer_compressed(self, coding: str, answer: Answer, response: HttpResponse) -> None:
        """Compresses a large answer in the thread; failing to is no error."""
        if response.status != OK or response.size < COMPRESS_FROM_BYTES:
            answer(response)
            return

        def done(outcome: HttpResponse | Exception) -> None:
            if isinstance(outcome, Exception):
                answer(response)
                return
            if response.lease is not None:
                response.lease.release()
            answer(outcome)

        try:
            self.offload(partial(compressed, response, coding), done)
        except RuntimeError:  # the service was closed
            answer(response)

    def offload(self, work: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        """Runs `work` in the thread and then `done` with its outcome on the loop, exactly once."""
        loop = asyncio.get_running_loop()

        def finished(future: Future[T]) -> None:
            outcome: T | Exception
            try:
                outcome = future.result()
            except CancelledError:
                outcome = Cancelled("the server closed before it read the request")
            except Exception as error:
                outcome = error
            loop.call_soon_threadsafe(done, outcome)

        self._thread.submit(work).add_done_callback(finished)

    # Everything else.

    def _server_live(self, route: Route, request: HttpRequest) -> HttpResponse:
        return HttpResponse(OK, JSON, (b'{"live":true}',))

    def _server_ready(self, route: Route, request: HttpRequest) -> HttpResponse:
        state = self._engine.ready()
        return HttpResponse(
            OK if state.ready else NOT_READY, JSON, (descriptions.readiness(state),)
        )

    def _server_metadata(self, route: Route, request: HttpRequest) -> HttpResponse:
        return HttpResponse(OK, JSON, (self._metadata,))

    def _model_ready(self, route: Route, request: HttpRequest) -> HttpResponse:
        state = self._engine.ready(route.model, route.version)
        if not state.ready:
            self._engine.metadata(route.model, route.version)  # raises for what is not there
        body = descriptions.readiness(state, name=route.model)
        return HttpResponse(OK if state.ready else NOT_READY, JSON, (body,))

    def _model_metadata(self, route: Route, request: HttpRequest) -> HttpResponse:
        metadata = self._engine.metadata(route.model, route.version)
        return HttpResponse(OK, JSON, (descriptions.model_metadata(metadata),))

    def _model_config(self, route: Route, request: HttpRequest) -> HttpResponse:
        return HttpResponse(OK, JSON, (self._engine.config(route.model, route.version).json,))

    def _statistics(self, route: Route, request: HttpRequest) -> HttpResponse:
        counted = self._engine.statistics(route.model, route.version)
        return HttpResponse(OK, JSON, (descriptions.statistics(counted),))

    def _index(self, route: Route, request: HttpRequest) -> HttpResponse:
        ready_only = False
        if request.body:
            top = load(request.body)
            if not isinstance(top, dict):
                raise InvalidRequest("expected the body to be a JSON object, or empty")
            ready_only = top.get("ready", False)
            if not isinstance(ready_only, bool):
                raise InvalidRequest("expected `ready` to be a boolean")
        return HttpResponse(OK, JSON, (descriptions.index(self._control.index(ready_only)),))


class _Offloaded:
    """A call whose body is inflated or decoded in the thread before it is submitted."""

    __slots__ = (
        "_answer",
        "_body",
        "_cancel",
        "_coding",
        "_is_cancelled",
        "_reserved",
        "_route",
        "_service",
        "_size",
    )

    def __init__(
        self,
        service: RestService,
        route: Route,
        body: bytes | memoryview,
        size: int | None,
        coding: str | None,
        answer: Answer,
    ) -> None:
        self._service = service
        self._route = route
        self._body = body
        self._size = size
        self._coding = coding
        self._answer = answer
        self._cancel: Cancel | None = None
        self._is_cancelled = False
        self._reserved = 0

    def begin(self) -> Cancel:
        """Starts it."""
        self._service.offload(self._work, self._decoded)
        return self.cancel

    def cancel(self) -> None:
        """Before the engine has it: it is answered when the thread is done with its bytes."""
        self._is_cancelled = True
        if self._cancel is not None:
            self._cancel()

    def _work(self) -> Decoded | None:
        """In the thread. None where the rest is to be read on the loop."""
        if self._is_cancelled:
            return None
        if self._coding is not None:
            self._body = inflate(self._body, self._coding, self._service.inflated_limit(self._size))
        if self._size == 0:
            return None
        return self._service.decode(self._route, self._body, self._size)

    def _decoded(self, outcome: Decoded | Exception | None) -> None:
        """On the loop."""
        service = self._service
        try:
            if isinstance(outcome, Exception):
                raise outcome
            if self._is_cancelled:
                raise Cancelled("the client went away")
            if self._coding is not None:
                size = len(self._body)
                service.budget.reserve(size)
                self._reserved = size
            if outcome is None:
                outcome = service.read(self._route, self._body, self._size)
            self._cancel = service.submit(outcome, self._finish)
        except (ServingError, HttpError) as error:
            self._finish(error_response(error))
        except Exception as error:
            self._finish(_unforeseen(error))

    def _finish(self, response: HttpResponse) -> None:
        self._service.budget.release(self._reserved)
        self._reserved = 0
        self._answer(response)


def _answer_inference(
    forms: OutputForms, answer: Answer, outcome: InferResponse | ServingError
) -> None:
    """Encodes the engine's answer. Hot path."""
    try:
        response = (
            error_response(outcome) if isinstance(outcome, ServingError) else encode(outcome, forms)
        )
    except ServingError as error:
        response = error_response(error)
    except Exception as error:
        response = _unforeseen(error)
    answer(response)


def _unforeseen(error: Exception) -> HttpResponse:
    """A bug of ours as the client sees it: logged once with its traceback, told without it."""
    log.error("unforeseen %s in the REST interface", type(error).__name__, exc_info=error)
    return error_response(Internal("the server failed to answer; its log has the reason"))


def rest_handler(
    engine: InferenceEngine,
    control: ModelControl,
    info: ServerInfo,
    limits: HttpLimits,
    budget: BufferBudget,
) -> RestService:
    """The `Handler` of the REST port. `budget` is the one of the servers that use it."""
    return RestService(engine, control, info, limits, budget)
