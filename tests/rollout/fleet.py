"""The replicas behind a balancer: `stoker serve` processes that come and go as a cluster's pods do.

    surge        maxSurge 1, maxUnavailable 0: the new one is ready before an old one gets SIGTERM;
                 an old one may still drain when the next gets its own
    unavailable  maxSurge 0, maxUnavailable 1, as GPUs want it: the old one gets SIGTERM, and the
                 new one starts when it has ended and its GPU is free

How many requests were in flight at a SIGTERM is what the replica itself says in its log
(`drain_started`).
"""

import json
import signal
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, TypeAlias

from tests.calls import wait_until
from tests.conftest import StokerProcess, run_stoker
from tests.rollout.balancer import Balancer
from tests.rollout.load import Load

Strategy: TypeAlias = Literal["surge", "unavailable"]

MOST_IN_FLIGHT_WAIT_S: Final = 30.0

CLEARLY_IN_FLIGHT: Final = 14
"""Waited for before a SIGTERM, so that the AT_LEAST_IN_FLIGHT that are asserted are there when it
arrives, though some are answered meanwhile."""

AT_LEAST_IN_FLIGHT: Final = 8

TOLD_WITHIN: Final = 0.8
"""Of the drain delay: by then every connection that was there at the SIGTERM was told to leave,
which takes less than half of it for so few, and has ended with the calls that it had."""


@dataclass(slots=True)
class Replica:
    """One process and what it writes."""

    name: str
    process: StokerProcess
    log: Path
    started_s: float
    """From its start to its ready line."""

    def event(self, name: str) -> dict[str, object]:
        """The first record of that event in its log."""
        record = self.find_event(name)
        assert record is not None, f"{self.name} logged no {name}: {self.log.read_text()[-2000:]}"
        return record

    def find_event(self, name: str) -> dict[str, object] | None:
        """The same; None: it has none yet."""
        for line in self.log.read_text().splitlines():
            if line.endswith("}"):  # else it is being written
                record: dict[str, object] = json.loads(line)
                if record.get("event") == name:
                    return record
        return None


@dataclass(slots=True)
class Kill:
    """A signal to a replica and what it did with it. Moments are seconds since the load began."""

    replica: str
    moment: float
    in_flight: int = 0
    """Requests in flight when it heard the signal; of SIGKILL, a moment before."""
    lasted_s: float = 0.0
    """How long it drained, by its own log."""
    code: int | None = None
    unanswered: int = 0
    """Requests that got DRAINING when its drain timeout was over."""
    clients: int = 0
    """Those that had a connection of their own, over L4, for a second when the signal was sent."""
    stayed: int | None = None
    """Of these connections, those that were there TOLD_WITHIN of its drain delay later, when it
    still served everything. None: nobody looked in time."""


class Fleet:
    """Owns the replicas; ends those that are left with its `with` block."""

    def __init__(self, folder: Path, balancer: Balancer, repository: Path, *flags: str) -> None:
        self.kills: list[Kill] = []
        self.starts_s: list[float] = []
        self._folder = folder
        self._balancer = balancer
        self._arguments = (str(repository), *flags)
        self._serving: list[Replica] = []
        self._leaving: list[tuple[Replica, Kill]] = []
        self._looks: dict[str, threading.Thread] = {}
        """By replica, who waits to see which clients stay."""

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *reason: object) -> None:
        for look in self._looks.values():
            look.join()
        for replica in [*self._serving, *(each for each, _ in self._leaving)]:
            replica.process.process.kill()
            replica.process.wait()
            replica.process.__exit__(None, None, None)

    @property
    def oldest(self) -> Replica:
        """The replica that a rollout replaces next."""
        return self._serving[0]

    @property
    def serving(self) -> list[Replica]:
        """Those that got no signal, the oldest first."""
        return [*self._serving]

    def start(self) -> Replica:
        """Starts one more; it has traffic from when it is ready."""
        name = f"r{len(self.starts_s) + 1}"
        began = time.monotonic()
        log = self._folder / f"{name}.log"
        with log.open("w") as file:
            process = run_stoker(*self._arguments, stderr=file.fileno())
        took = time.monotonic() - began
        self.starts_s.append(took)
        replica = Replica(name, process, log, took)
        self._serving.append(replica)
        self._reap()
        self._balancer.add(name, process.at)
        return replica

    def terminate(self, replica: Replica, load: Load) -> Kill:
        """Sends SIGTERM once it has plenty of requests in flight; does not wait for its end."""
        at = replica.process.at
        wait_until(
            lambda: at.metric("stoker_requests_in_flight") >= CLEARLY_IN_FLIGHT,
            f"{CLEARLY_IN_FLIGHT} requests in flight at {replica.name}",
            MOST_IN_FLIGHT_WAIT_S,
        )
        clients = self._balancer.clients(replica.name)
        kill = Kill(replica.name, load.now, clients=len(clients))
        replica.process.terminate()
        look = threading.Thread(target=self._look, args=(replica, kill, clients))
        self._looks[replica.name] = look
        look.start()
        self._serving.remove(replica)
        self._leaving.append((replica, kill))
        self.kills.append(kill)
        return kill

    def crash(self, replica: Replica, load: Load) -> Kill:
        """Sends SIGKILL, which no process hears."""
        in_flight = int(replica.process.at.metric("stoker_requests_in_flight"))
        kill = Kill(replica.name, load.now, in_flight)
        replica.process.process.send_signal(signal.SIGKILL)
        kill.code = replica.process.wait()
        replica.process.__exit__(None, None, None)
        self._serving.remove(replica)
        self.kills.append(kill)
        return kill

    def wait_for_leavers(self) -> None:
        """Returns when all that got SIGTERM have ended."""
        while self._leaving:
            self._note_end(*self._leaving.pop(0))

    def replace(self, strategy: Strategy, load: Load) -> None:
        """Replaces the oldest."""
        old = self.oldest
        if strategy == "surge":
            self.start()
            self.terminate(old, load)
        else:
            self.terminate(old, load)
            self.wait_for_leavers()
            self.start()

    def _look(self, replica: Replica, kill: Kill, clients: set[str]) -> None:
        """Notes which of the clients stay."""
        wait_until(lambda: replica.find_event("drain_started") is not None, "a drain's beginning")
        started = replica.event("drain_started")
        delay_s = float(str(started["delay_s"]))

        def passed_s() -> float:
            return (datetime.now(UTC) - _moment(started)).total_seconds()

        threading.Event().wait(TOLD_WITHIN * delay_s - passed_s())
        stayed = clients & self._balancer.clients(replica.name)
        if passed_s() < delay_s:
            kill.stayed = len(stayed)

    def _reap(self) -> None:
        left = []
        for each in self._leaving:
            if each[0].process.process.poll() is None:
                left.append(each)
            else:
                self._note_end(*each)
        self._leaving = left

    def _note_end(self, replica: Replica, kill: Kill) -> None:
        kill.code = replica.process.wait()
        self._looks.pop(replica.name).join()
        started, ended = replica.event("drain_started"), replica.event("drained")
        kill.lasted_s = (_moment(ended) - _moment(started)).total_seconds()
        kill.in_flight = int(str(started["in_flight"]))
        kill.unanswered = int(str(ended["unanswered"]))
        replica.process.__exit__(None, None, None)
        self._balancer.remove(replica.name)


def _moment(record: dict[str, object]) -> datetime:
    return datetime.fromisoformat(str(record["time"]))
