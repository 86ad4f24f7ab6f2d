"""What the engine adds to the observation of a call: when it waited, which batches it ran in.

Used while tracing or the access log is on: calls that somebody looks at are handed to an
`ObservedEngine`, all others to the engine proper, where they meet nothing of this but the end of a
batch that observed ones may be in. A server that observes nothing asks no question on the way of a
request. Runs on the event loop.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from stoker.engine.execution import Batch, Entry, Outcome, Run
from stoker.engine.finishing import Finishing
from stoker.engine.lone import LoneOutcome
from stoker.engine.pending import Pending
from stoker.errors import ServingError
from stoker.inference import Cancel, Reply
from stoker.model import ModelConfig, ModelMetadata, Readiness
from stoker.request import InferRequest, InferResponse
from stoker.telemetry.observation import (
    BatchRecord,
    BatchRun,
    Observation,
    RequestRun,
    SpanIdentity,
    current,
)
from stoker.telemetry.observer import Observer
from stoker.telemetry.statistics import ModelStatistics
from stoker.telemetry.trace_context import trace_id_text

if TYPE_CHECKING:
    from stoker.engine.engine import Engine
    from stoker.engine.plan import RequestForm
    from stoker.engine.served_model import ServedModel


class ObservedEngine:
    """An `InferenceEngine` that notes the call which a request belongs to (`observation.current`)
    before the engine proper has it."""

    def __init__(self, engine: "Engine", observer: Observer) -> None:
        self._engine = engine
        self._clock = observer.clock

    def submit(self, request: InferRequest, reply: Reply) -> Cancel:
        """See `InferenceEngine`."""
        observation = current.get()
        if observation is None:
            return self._engine.submit(request, reply)
        kind = request.kind
        observation.model, observation.version = kind.model, kind.version
        observation.client_id = request.id
        observation.submitted = self._clock()
        pending = partial(_pending, observation)
        if observation.span is None and observation.stream is None:
            # Its line says nothing of the answer that its transport does not know.
            return self._engine.submit(request, reply, pending)

        def answered(result: InferResponse | ServingError) -> None:
            observation.answered = self._clock()
            if isinstance(result, ServingError):
                observation.code = result.code.value
            reply(result)

        return self._engine.submit(request, answered, pending)

    async def infer(self, request: InferRequest) -> InferResponse:
        """See `InferenceEngine`. Not observed: no transport calls it."""
        return await self._engine.infer(request)

    def metadata(self, model: str, version: str = "") -> ModelMetadata:
        """See `InferenceEngine`."""
        return self._engine.metadata(model, version)

    def config(self, model: str, version: str = "") -> ModelConfig:
        """See `InferenceEngine`."""
        return self._engine.config(model, version)

    def statistics(self, model: str = "", version: str = "") -> Sequence[ModelStatistics]:
        """See `InferenceEngine`."""
        return self._engine.statistics(model, version)

    def ready(self, model: str | None = None, version: str = "") -> Readiness:
        """See `InferenceEngine`."""
        return self._engine.ready(model, version)


class ObservedPending(Pending):
    """A request that says at its end how far it came."""

    __slots__ = ("observation",)

    observation: Observation | None
    """None: it ended in the queue, where shells keep nothing of their clients."""

    def end(self, result: InferResponse | ServingError) -> None:
        """Ends the request, see `Pending`."""
        observation = self.observation
        if self.counts and observation is not None:
            observation.rows = self.rows
            observation.version = self.model.plan.version
            # Of a request that is run in parts the whole never waits: its moment is its arrival.
            if self.started and self.taken > self.arrived:
                observation.taken = self.taken
            if observation.span is not None and isinstance(result, InferResponse):
                self._note_exemplar(observation.span)
        if not self.started:
            self.observation = None
        super().end(result)

    def _note_exemplar(self, span: SpanIdentity) -> None:
        model = self.model
        request_ns = round((model.clock() - self.arrived) * 1e9)
        model.statistics.note_exemplar(request_ns, trace_id_text(span.trace_id), time.time())

    def answer(self, result: InferResponse | ServingError) -> None:
        """Ends the request, see `Pending`. One that was admitted, and not run and answered with
        its batch, ends here."""
        if self.counts and self.observation is not None:
            self.observation.was_queued = True
        super().answer(result)

    def cancel(self) -> None:
        """The client went away, see `Pending`."""
        self.model.note_started()  # whether it runs is to be said
        super().cancel()


def _pending(
    observation: Observation,
    model: "ServedModel",
    request: InferRequest,
    form: "RequestForm",
    reply: Reply,
    now: float,
) -> ObservedPending:
    entry = ObservedPending(model, request, form, reply, now)
    entry.observation = observation
    return entry


class ObservedFinishing(Finishing):
    """Notes each batch at the requests that were in it, before they are answered."""

    def __init__(self, model: "ServedModel", observer: Observer, *, keeps_order: bool) -> None:
        super().__init__(model, keeps_order=keeps_order)
        self._served = model
        self._observer = observer

    def finish(self, outcome: Outcome) -> None:
        """See `Finishing`."""
        self._note(outcome)
        super().finish(outcome)

    def finish_arrivals(self, outcome: Outcome) -> None:
        """See `Finishing`."""
        self._note(outcome)
        super().finish_arrivals(outcome)

    def answer_lone(self, outcome: LoneOutcome) -> None:
        """See `Finishing`."""
        if type(outcome.entry) is ObservedPending:
            self._note(_as_batch(outcome))
        super().answer_lone(outcome)

    def _note(self, outcome: Outcome) -> None:
        batch = outcome.batch
        observed = [
            entry.observation
            for entry, _ in batch.entries
            if type(entry) is ObservedPending and entry.observation is not None
        ]
        if not observed:
            return
        run_s = sum([run.infer_ns for run in outcome.runs]) / 1e9
        ended = batch.taken + outcome.seconds
        traced = tuple([each.span for each in observed if each.span is not None])
        identity = None
        if traced:
            runs = tuple([_batch_run(run) for run in outcome.runs])
            # The executor's time begins a little after the batch was taken.
            ended = max([ended, *[run.ended for run in runs]])
            identity = self._observer.new_batch()
            if identity is not None:
                self._observer.batch(self._record(outcome, identity, runs, traced, ended))
        run = RequestRun(batch.taken, ended, run_s, batch.rows, None)
        linked = run
        if identity is not None:
            linked = RequestRun(batch.taken, ended, run_s, batch.rows, identity)
        for observation in observed:
            if not observation.ended:  # else it was cancelled, or too late: it has said all
                observation.runs += (run if observation.span is None else linked,)

    def _record(
        self,
        outcome: Outcome,
        identity: SpanIdentity,
        runs: tuple[BatchRun, ...],
        links: tuple[SpanIdentity, ...],
        ended: float,
    ) -> BatchRecord:
        batch, model = outcome.batch, self._served
        devices = model.device_names
        return BatchRecord(
            identity,
            model=model.plan.identity.name,
            version=str(model.plan.identity.version),
            device=devices[0] if len(devices) == 1 else "",
            rows=batch.rows,
            requests=len(batch.entries),
            taken=batch.taken,
            ended=ended,
            runs=runs,
            links=links,
            failure=_failure(batch.entries, outcome),
        )


def _as_batch(lone: LoneOutcome) -> Outcome:
    rows = lone.entry.rows
    batch = Batch([(lone.entry, lone.request)], rows, lone.end, lone.taken, 0)
    run = Run(
        rows,
        1,
        round((lone.laid - lone.began) * 1e9),
        round((lone.ran - lone.laid) * 1e9),
        round((lone.ended - lone.ran) * 1e9),
        lone.began,
    )
    return Outcome(batch, [lone.response], [run], alone=lone.alone, seconds=lone.ended - lone.taken)


def _batch_run(run: Run) -> BatchRun:
    return BatchRun(
        run.began, run.input_ns / 1e9, run.infer_ns / 1e9, run.output_ns / 1e9, run.rows
    )


def _failure(entries: Sequence[Entry], outcome: Outcome) -> str:
    """The code of the first error where not one request of the batch was answered well."""
    codes = [result.code.value for result in outcome.results if isinstance(result, ServingError)]
    return codes[0] if codes and len(codes) == len(entries) else ""
