"""One run: a trace, a signal, a seed; what it cost and what the clients got.

Clients do not wait for each other (open loop), give each request a deadline, and do not repeat what
is refused. A request is late when its answer takes longer than the latency target, or when it gets
none: refused, expired, or nobody there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from stoker.errors import ServingError
from stoker.inference import Reply
from stoker.request import InferResponse

from benchmarks.scaling.balancing import Balancer, PinnedClients, RoundRobin
from benchmarks.scaling.deployment import Deployment, Pod
from benchmarks.scaling.hpa import Autoscaler, Sample, Spec
from benchmarks.scaling.signals import Scraper, Signal, scraped_names
from benchmarks.scaling.timeline import Timeline
from benchmarks.scaling.traces import Arrival, Trace, row_seconds

TARGET_S: Final = 1.0
"""Latency target of a request, at the server: four full batches of `cases.py`."""
DEADLINE_S: Final = 2.0
SYNC_S: Final = 15.02
"""The controller's loop: its period begins anew when a turn is over."""
NOTE_S: Final = 15.0


@dataclass(frozen=True)
class Moment:
    """How it stood."""

    at: float
    replicas: int
    ready: int
    offered: float
    """GPUs of work a second since the moment before."""
    late: int
    requests: int


@dataclass(frozen=True)
class Result:
    """What a run came to."""

    trace: str
    signal: str
    seed: int
    gpu_hours: float
    requests: int
    late: int
    refused: int
    most_replicas: int
    changes: int
    """How often the number of replicas changed."""
    moments: tuple[Moment, ...] = ()

    @property
    def late_share(self) -> float:
        """Share of the requests that were late or got no answer."""
        return self.late / self.requests


class Simulation:
    """See the module."""

    def __init__(self, trace: Trace, signal: Signal, hpa: Spec, seed: int) -> None:
        """`hpa` gives behaviour and bounds; its metrics are the signal's."""
        self._trace = trace
        self._signal = signal
        self._seed = seed
        self._arrivals: Sequence[Arrival] = trace.arrivals(seed)
        self._next = 0
        self._timeline = Timeline()
        self._hpa = Autoscaler(replace(hpa, metrics=signal.metrics))
        self._names = scraped_names(signal)
        self._scrapers: dict[Pod, Scraper] = {}
        self._late = self._refused = self._requests = 0
        self._changes = 0
        self._most = hpa.min_replicas
        self._offered_s = 0.0
        self._moments: list[Moment] = []
        self._noted = (0, 0, 0.0)
        self._deployment = Deployment(
            self._timeline, trace.models, replicas=hpa.min_replicas, seed=seed
        )
        self._deployment.on_running = self._watch
        self._balancer: Balancer = RoundRobin(self._deployment)
        if trace.is_pinned:
            self._balancer = PinnedClients(self._timeline, self._deployment, seed)
        self._row_s = [row_seconds(model) for model in trace.models]
        self._kinds = {
            (model, rows, width): trace.models[model].kind(rows, width)
            for model, rows, width in {(one.model, one.rows, one.width) for one in self._arrivals}
        }

    def run(self) -> Result:
        """Plays the trace to its end."""
        timeline = self._timeline
        self._deployment.begin()
        timeline.call_later(SYNC_S, self._sync)
        timeline.call_later(NOTE_S, self._note)
        if self._arrivals:
            timeline.call_at(self._arrivals[0].at, self._arrive)
        timeline.run(self._trace.seconds)
        gpu_hours = self._deployment.gpu_s / 3600
        timeline.run(self._trace.seconds + DEADLINE_S + 1.0)  # the last ones are answered
        return Result(
            self._trace.name,
            self._signal.name,
            self._seed,
            gpu_hours,
            self._requests,
            self._late,
            self._refused,
            self._most,
            self._changes,
            tuple(self._moments),
        )

    def _arrive(self) -> None:
        arrivals, timeline = self._arrivals, self._timeline
        arrival = arrivals[self._next]
        self._next += 1
        self._requests += 1
        self._offered_s += arrival.rows * self._row_s[arrival.model]
        pod = self._balancer.choose()
        if pod is None or pod.server is None:
            self._late += 1
            self._refused += 1
        else:
            kind = self._kinds[arrival.model, arrival.rows, arrival.width]
            pod.server.submit(kind, self._reply(timeline.now), timeline.now + DEADLINE_S)
        if self._next < len(arrivals):
            timeline.call_at(arrivals[self._next].at, self._arrive)

    def _reply(self, came: float) -> Reply:
        def reply(result: InferResponse | ServingError) -> None:
            if isinstance(result, ServingError):
                self._late += 1
                self._refused += 1
            elif self._timeline.now - came > TARGET_S:
                self._late += 1

        return reply

    def _watch(self, pod: Pod) -> None:
        self._scrapers[pod] = Scraper(self._timeline, pod, self._names, self._seed)

    def _sync(self) -> None:
        now, deployment = self._timeline.now, self._deployment
        pods = [pod.view() for pod in deployment.pods]
        samples: dict[str, dict[str, Sample]] = {}
        for metric in self._signal.metrics:
            samples[metric.name] = {
                pod.name: sample
                for pod in deployment.pods
                if pod in self._scrapers
                and (sample := self._scrapers[pod].sample(metric.name, now)) is not None
            }
        desired = self._hpa.sync(now, deployment.replicas, pods, samples)
        if desired != deployment.replicas:
            self._changes += 1
            self._most = max(self._most, desired)
            deployment.scale(desired)
            for gone in [pod for pod in self._scrapers if pod not in deployment.pods]:
                del self._scrapers[gone]
        if now + SYNC_S < self._trace.seconds:
            self._timeline.call_later(SYNC_S, self._sync)

    def _note(self) -> None:
        late, requests, offered_s = self._noted
        self._noted = (self._late, self._requests, self._offered_s)
        self._moments.append(
            Moment(
                self._timeline.now,
                len(self._deployment.pods),
                len(self._deployment.endpoints),
                (self._offered_s - offered_s) / NOTE_S,
                self._late - late,
                self._requests - requests,
            )
        )
        if self._timeline.now + NOTE_S <= self._trace.seconds:
            self._timeline.call_later(NOTE_S, self._note)
