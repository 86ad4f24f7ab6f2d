"""Pods in invented time: they start slowly, serve, drain, and cost a GPU from first to last.

A new pod is pending (scheduled, image pulled), then warms up (models loaded, costs measured), then
is ready; a GPU pod takes 60 to 180 s for that, by its number and the seed, whatever scales the
Deployment. The balancer hears of a change two seconds late. A pod that is taken away serves what
reaches it for the drain delay, finishes what is in flight, and gives its GPU back at its end. Pods
that are not ready are taken first, then the youngest, as a ReplicaSet does.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from random import Random
from typing import Final

from benchmarks.scaling.hpa import PodView
from benchmarks.scaling.server import Model, SimulatedServer
from benchmarks.scaling.timeline import Timeline, Timer

START_S: Final = (60.0, 180.0)
PENDING_SHARE: Final = 0.4
"""Of a start: until the image is there and the container runs."""
ENDPOINT_S: Final = 2.0
"""From a change of readiness until balancers and resolvers know."""
DRAIN_DELAY_S: Final = 5.0
DRAIN_LOOK_S: Final = 0.25


class Phase(Enum):
    """Where a pod is in its life."""

    PENDING = "pending"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"


class Pod:
    """One pod and its GPU."""

    def __init__(self, name: str, created: float) -> None:
        self.name = name
        self.created = created
        self.phase = Phase.PENDING
        self.began = created
        """When its container began to run."""
        self.ready_changed = created
        self.server: SimulatedServer | None = None
        self.next: Timer | None = None
        """The next step of its start."""

    def view(self) -> PodView:
        """As the HPA's controller sees it."""
        return PodView(
            self.name,
            is_running=self.phase is not Phase.PENDING,
            is_ready=self.phase is Phase.READY,
            started=self.began,
            ready_changed=self.ready_changed,
            is_terminating=self.phase is Phase.DRAINING,
        )


class Deployment:
    """`replicas` pods, or on the way there."""

    def __init__(
        self, timeline: Timeline, models: Sequence[Model], *, replicas: int, seed: int
    ) -> None:
        """Its first pods are ready at once."""
        self.replicas = replicas
        self.pods: list[Pod] = []
        """All that hold a GPU, in the order in which they were made."""
        self.endpoints: list[Pod] = []
        """Those that balancers know and send to."""
        self.on_running: Callable[[Pod], None] = lambda pod: None
        self.on_endpoint: Callable[[Pod], None] = lambda pod: None
        self.on_drain: Callable[[Pod], None] = lambda pod: None
        self._timeline = timeline
        self._models = models
        self._seed = seed
        self._made = 0
        self._gone_s = 0.0
        for _ in range(replicas):
            self._start(self._make())

    def begin(self) -> None:
        """Makes the first pods ready; the callbacks are set."""
        for pod in self.pods:
            if pod.next is not None:
                pod.next.cancel()
            self._run(pod, warm_s=0.0)
            self.endpoints.append(pod)
            self.on_endpoint(pod)

    def scale(self, replicas: int) -> None:
        """As the HPA does."""
        self.replicas = replicas
        living = [pod for pod in self.pods if pod.phase is not Phase.DRAINING]
        for _ in range(replicas - len(living)):
            self._start(self._make())
        surplus = len(living) - replicas
        if surplus > 0:
            order = {Phase.PENDING: 0, Phase.WARMING: 1, Phase.READY: 2}
            living.sort(key=lambda pod: (order[pod.phase], -pod.ready_changed, pod.name))
            for pod in living[:surplus]:
                self._stop(pod)

    @property
    def gpu_s(self) -> float:
        """Seconds of GPUs held since the beginning, over all pods."""
        now = self._timeline.now
        return self._gone_s + sum([now - pod.created for pod in self.pods])

    def _make(self) -> Pod:
        self._made += 1
        pod = Pod(f"pod-{self._made}", self._timeline.now)
        self.pods.append(pod)
        return pod

    def _start(self, pod: Pod) -> None:
        start_s = Random(f"{self._seed}/{pod.name}").uniform(*START_S)
        pending_s = start_s * PENDING_SHARE
        pod.next = self._timeline.call_later(pending_s, self._run, pod, start_s - pending_s)

    def _run(self, pod: Pod, warm_s: float) -> None:
        pod.phase = Phase.WARMING
        pod.began = pod.ready_changed = self._timeline.now
        self.on_running(pod)
        if warm_s:
            pod.next = self._timeline.call_later(warm_s, self._ready, pod)
        else:
            self._ready(pod)

    def _ready(self, pod: Pod) -> None:
        pod.next = None
        pod.phase = Phase.READY
        pod.ready_changed = self._timeline.now
        pod.server = SimulatedServer(self._timeline, self._models)
        if self._timeline.now > 0.0:
            self._timeline.call_later(ENDPOINT_S, self._publish, pod)

    def _publish(self, pod: Pod) -> None:
        if pod.phase is Phase.READY:
            self.endpoints.append(pod)
            self.on_endpoint(pod)

    def _stop(self, pod: Pod) -> None:
        was_serving = pod.phase is Phase.READY
        pod.phase = Phase.DRAINING
        pod.ready_changed = self._timeline.now
        if pod.next is not None:
            pod.next.cancel()
        if not was_serving:  # its container is killed, or was never made
            self._end(pod)
            return
        self.on_drain(pod)
        self._timeline.call_later(ENDPOINT_S, self._withdraw, pod)
        self._timeline.call_later(DRAIN_DELAY_S, self._leave, pod)

    def _withdraw(self, pod: Pod) -> None:
        if pod in self.endpoints:
            self.endpoints.remove(pod)

    def _leave(self, pod: Pod) -> None:
        if pod.server is not None and pod.server.in_flight():
            self._timeline.call_later(DRAIN_LOOK_S, self._leave, pod)
        else:
            self._end(pod)

    def _end(self, pod: Pod) -> None:
        self.pods.remove(pod)
        self._gone_s += self._timeline.now - pod.created
