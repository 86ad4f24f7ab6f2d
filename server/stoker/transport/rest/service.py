"""The REST interface: requests of HTTP in, calls of the two interfaces, answers out.

Stands between a connection of any HTTP version and the engine; it holds an `InferenceEngine` and a
`ModelControl` and knows neither socket nor queue. A small inference call is decoded, submitted and
encoded on the loop without Task or Future. Work that would hold the loop is done in steps by one
thread (`transport/steps.py`, `offloaded.py`): large JSON, decompression, compression.  Hot path.
"""

import logging
from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Final

from stoker.control import ModelControl
from stoker.errors import (
    Cancelled,
    Internal,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    ServingError,
    TooLarge,
    Unsupported,
)
from stoker.inference import Cancel, InferenceEngine
from stoker.model import ModelConfig
from stoker.request import InferResponse, RequestKind
from stoker.telemetry.server_statistics import ServerStatistics, UnroutedReason
from stoker.transport.coding import inflate_small
from stoker.transport.rest import descriptions
from stoker.transport.rest.binary import LENGTH_HEADER, decode_raw_body
from stoker.transport.rest.call_head import CallHead, read_call_head
from stoker.transport.rest.codec import (
    SLOW_BYTES,
    decode,
    decode_in_steps,
    is_slow,
    known_body,
)
from stoker.transport.rest.compression import (
    COMPRESS_FROM_BYTES,
    compress_in_steps,
    request_coding,
)
from stoker.transport.rest.descriptions import ServerInfo
from stoker.transport.rest.encode import encode
from stoker.transport.rest.envelope import ALL_BINARY, Decoded, OutputForms
from stoker.transport.rest.json_data import has_json, load, without_json
from stoker.transport.rest.offloaded import Offloaded
from stoker.transport.rest.router import Endpoint, Route, resolve
from stoker.transport.steps import Steps, StepThread
from stoker.transport.wire.limits import BufferBudget, HttpLimits
from stoker.transport.wire.message import (
    JSON,
    Answer,
    HttpRequest,
    HttpResponse,
    Piece,
    RequestHead,
    error_response,
)
from stoker.transport.wire.problems import NOT_READY, OK, HttpError

log = logging.getLogger(__name__)

LARGE_JSON_BYTES: Final = 64 << 10
"""JSON from here on is decoded in the thread. On a slow machine 64 KiB of numbers take the loop
0.8 ms, as many of short texts 2.5 ms."""

_MAX_INDEX_BODY: Final = 4 << 10

_REMEMBERED_KINDS: Final = 1024
"""As many as a model's plan remembers; at the limit all are forgotten."""

_UNROUTED: Final[dict[type[ServingError], UnroutedReason]] = {
    ModelNotFound: UnroutedReason.UNKNOWN_MODEL,
    ModelNotReady: UnroutedReason.NOT_READY,
    TooLarge: UnroutedReason.TOO_LARGE,
    Overloaded: UnroutedReason.TOO_LARGE,  # of the budget: the engine's own do not come here
}
"""As what a refused call counts; all other errors are MALFORMED."""


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
        statistics: ServerStatistics | None = None,
    ) -> None:
        self._engine = engine
        self._control = control
        self._limits = limits
        self.budget = budget
        self._compresses = compresses
        self._metadata = descriptions.server_metadata(info)
        self._server_statistics = statistics or ServerStatistics()
        self.thread = StepThread("rest-codec")
        self._printable: dict[RequestKind, ModelConfig] = {}
        """Kinds of requests whose outputs all have a JSON form, by this configuration."""
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

    def over(self, engine: InferenceEngine) -> "RestService":
        """The same service, with its thread and what it remembers, over another engine that answers
        alike. It is not closed by itself."""
        other = copy(self)
        other._engine = engine
        return other

    def close(self) -> None:
        """Ends the thread. Unfinished work is dropped."""
        self.thread.close()

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
        head = request.head
        call = head.meaning
        if type(call) is CallHead:
            return self._infer(call, request.body, answer)
        try:
            route = resolve(head.method, head.path)
            if route.endpoint is Endpoint.INFER:
                return self._begin(route, request, answer)
            response = self._answers[route.endpoint](route, request)
        except (ServingError, HttpError) as error:
            response = error_response(error)
        except Exception as error:
            response = unforeseen(error)
        answer(response)
        return None

    # Inference.

    def _begin(self, route: Route, request: HttpRequest, answer: Answer) -> Cancel | None:
        """An inference call with a head that is new."""
        try:
            call = read_call_head(route, request.head.headers)
        except Exception as error:
            answer(self.refusal(error, route))
            return None
        request.head.meaning = call
        return self._infer(call, request.body, answer)

    def _infer(self, call: CallHead, body: Piece, answer: Answer) -> Cancel | None:
        known = call.body
        if known is not None and known.fits(body):  # a client that repeats itself
            forms = known.forms
            return self._engine.submit(
                known.request(body), partial(_answer_inference, forms, answer)
            )
        try:
            route, size = call.route, call.json_size
            if call.answer_coding is not None and self._compresses:
                answer = partial(self._answer_compressed, call.answer_coding, answer)
            if call.coding is not None:
                plain = inflate_small(body, call.coding, self.inflated_limit(size))
                if plain is None:
                    return Offloaded(self, route, size, answer).begin(body, call.coding)
                self.budget.reserve(len(plain))
                answer = partial(self._answer_reserved, len(plain), answer)
                body = plain
            if (len(body) if size is None else size) >= LARGE_JSON_BYTES or (
                size and len(body) - size >= SLOW_BYTES and is_slow(body, size)
            ):
                return Offloaded(self, route, size, answer).begin(body, None)
            if size == 0:
                decoded = self.read(route, body, size)
            else:
                limit = self._limits.max_json_bytes
                decoded = decode(route.model, route.version, body, size, limit)
            request, forms = decoded
            if not forms.all_binary:
                self.check_forms(decoded)
            elif call.coding is None and call.answer_coding is None:
                call.body = known_body(route.model, route.version, body, size)
        except Exception as error:
            answer(self.refusal(error, call.route))
            return None
        return self._engine.submit(request, partial(_answer_inference, forms, answer))

    def read(self, route: Route, body: Piece, size: int | None) -> Decoded:
        """The call that this plain body is. On the loop: a body without JSON needs the engine."""
        if size == 0:
            config = self._engine.config(route.model, route.version)
            return decode_raw_body(route.model, route.version, body, config), ALL_BINARY
        return decode(route.model, route.version, body, size, self._limits.max_json_bytes)

    def read_in_steps(self, route: Route, body: Piece, size: int | None) -> Steps[Decoded]:
        """The call that this plain body with JSON is."""
        limit = self._limits.max_json_bytes
        return decode_in_steps(route.model, route.version, body, size, limit)

    def inflated_limit(self, size: int | None) -> int:
        """Bytes that a compressed body may become: of JSON as a whole, or of any body."""
        limits = self._limits
        most = limits.max_json_bytes if size is None else limits.max_message_bytes
        return min(most, self.budget.limit)

    def submit(self, decoded: Decoded, answer: Answer) -> Cancel:
        """Gives the call, which was checked, to the engine."""
        request, forms = decoded
        return self._engine.submit(request, partial(_answer_inference, forms, answer))

    def refusal(self, error: Exception, route: Route) -> HttpResponse:
        """The answer of a call that never reaches the engine, which is counted here. Where there is
        no such model, that is what is wrong, whatever the body has."""
        if isinstance(error, InvalidRequest | Unsupported):
            try:
                self._engine.config(route.model, route.version)
            except ServingError as missing:
                error = missing
        if not isinstance(error, ServingError | HttpError):
            return unforeseen(error)
        if not isinstance(error, Cancelled):
            reason = UnroutedReason.MALFORMED
            if isinstance(error, ServingError):
                reason = _UNROUTED.get(type(error), reason)
            self._server_statistics.record_unrouted(reason)
        return error_response(error)

    def check_forms(self, decoded: Decoded) -> None:
        """Refuses, before the model runs, outputs that are to be JSON and have no JSON form."""
        request, forms = decoded
        if forms.all_binary:
            return
        kind = request.kind
        config = self._engine.config(kind.model, kind.version)
        if forms.all_json and self._printable.get(kind) is config:
            return
        for output in config.outputs:
            if (
                not has_json(output.datatype)
                and not forms.is_binary(output.name)
                and (not forms.listed or output.name in forms.listed)
            ):
                raise without_json(output.name, output.datatype)
        if forms.all_json and kind.is_small:
            if len(self._printable) >= _REMEMBERED_KINDS:
                self._printable.clear()
            self._printable[kind] = config

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
            self.thread.run(compress_in_steps(response, coding), done, _reserve_nothing)
        except RuntimeError:  # the service was closed
            answer(response)

    def _answer_reserved(self, size: int, answer: Answer, response: HttpResponse) -> None:
        """Gives back what an inflated body took."""
        self.budget.release(size)
        answer(response)

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


def _reserve_nothing(size: int) -> None:
    """Answers exist already when they are compressed: the connection charges for them."""


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
        response = unforeseen(error)
    answer(response)


def unforeseen(error: Exception) -> HttpResponse:
    """A bug of ours as the client sees it: logged once with its traceback, told without it."""
    log.error("unforeseen %s in the REST interface", type(error).__name__, exc_info=error)
    return error_response(Internal("the server failed to answer; its log has the reason"))


def rest_handler(
    engine: InferenceEngine,
    control: ModelControl,
    info: ServerInfo,
    limits: HttpLimits,
    budget: BufferBudget,
    *,
    statistics: ServerStatistics | None = None,
) -> RestService:
    """The `Handler` of the REST port. `budget` is the one of the servers that use it."""
    return RestService(engine, control, info, limits, budget, statistics=statistics)
