"""Which pod a request goes to: by a balancer, or by where its client's connection happens to end.

`RoundRobin` is a gateway that balances every request. `PinnedClients` are gRPC clients without one:
each keeps a connection to one pod of the headless Service until the server's connection age (5 min,
jitter 10 %) or a drain sends it away, then picks a pod by chance; some clients ask far more than
others. A new pod gets work only as connections come to their age.
"""

from random import Random
from typing import Final, Protocol

from benchmarks.scaling.deployment import DRAIN_DELAY_S, ENDPOINT_S, Deployment, Pod
from benchmarks.scaling.timeline import Timeline

CLIENTS: Final = 16
AGE_S: Final = 300.0
AGE_JITTER: Final = 0.1
UNLIKENESS: Final = 0.7
"""The n-th client asks n to the power of minus this as much as the first."""


class Balancer(Protocol):
    """Chooses a pod for each request."""

    def choose(self) -> Pod | None:
        """None: there is no pod to send to."""


class RoundRobin:
    """See `Balancer`."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._turn = 0

    def choose(self) -> Pod | None:
        """The next one."""
        endpoints = self._deployment.endpoints
        if not endpoints:
            return None
        self._turn += 1
        return endpoints[self._turn % len(endpoints)]


class PinnedClients:
    """See `Balancer`."""

    def __init__(self, timeline: Timeline, deployment: Deployment, seed: int) -> None:
        self._timeline = timeline
        self._deployment = deployment
        self._random = Random(f"{seed}/clients")
        self._weights = [number**-UNLIKENESS for number in range(1, CLIENTS + 1)]
        self._pods: list[Pod | None] = [None] * CLIENTS
        self._connections = [0] * CLIENTS
        """Counts each client's connections: an older one's age does not end a newer one."""
        self._clients = list(range(CLIENTS))
        deployment.on_drain = self._leave

    def choose(self) -> Pod | None:
        """That of a client, which asks as often as it does."""
        (client,) = self._random.choices(self._clients, self._weights)
        pod = self._pods[client]
        if pod is None:
            self._connect(client)
            pod = self._pods[client]
        return pod

    def _connect(self, client: int) -> None:
        endpoints = self._deployment.endpoints
        if not endpoints:
            return
        self._pods[client] = self._random.choice(endpoints)
        self._connections[client] += 1
        age_s = AGE_S * self._random.uniform(1 - AGE_JITTER, 1 + AGE_JITTER)
        self._timeline.call_later(age_s, self._age, client, self._connections[client])

    def _age(self, client: int, connection: int) -> None:
        if connection == self._connections[client]:
            self._connect(client)

    def _leave(self, pod: Pod) -> None:
        """GOAWAY, spread over the drain delay; who asks the resolver earlier gets the pod again."""
        for client in self._clients:
            if self._pods[client] is pod:
                delay_s = self._random.uniform(ENDPOINT_S, DRAIN_DELAY_S)
                self._timeline.call_later(delay_s, self._age, client, self._connections[client])
