"""A scene: replicas behind a balancer under load, set up and cleared away.

    with scene(folder, 2, checks=Checks()) as on:
        on.fleet.replace("surge", on.load)
    assert not on.lost

`Form` says how long a scene of a rollout goes on, and with which times: as shipped for minutes
(`make test-rollout`), or shortened for `make test`.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.calls import wait_until
from tests.rollout.balancer import Balancer, Checks
from tests.rollout.clients import STREAMS, Kind, kinds
from tests.rollout.fleet import Fleet, Strategy
from tests.rollout.load import Failure, Load, write_models

WARM: Final = 10
"""Answers of each kind of client that are waited for: the load is under way."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a rollout is rehearsed."""

    seconds: float
    """At least so long; every replica is replaced at least once in any case."""
    drain_delay_s: float
    flags: tuple[str, ...]
    checks: Checks
    slow_checks: Checks
    """Of a proxy that notices shortly before the drain delay is over."""

    @property
    def is_long(self) -> bool:
        """For minutes, and with what is shipped."""
        return self.seconds > 0


SHORT: Final = Form(
    seconds=0,
    drain_delay_s=2.0,
    flags=("--drain-delay", "2s"),
    checks=Checks(interval_ms=400),
    slow_checks=Checks(interval_ms=1500, fall=1),
)


def long_form(seconds: float) -> Form:
    """The server's own defaults."""
    return Form(
        seconds=seconds,
        drain_delay_s=5.0,
        flags=(),
        checks=Checks(interval_ms=2000),
        slow_checks=Checks(interval_ms=4500, fall=1),
    )


@dataclass(slots=True)
class Scene:
    """What is on it, and what it came to."""

    balancer: Balancer
    fleet: Fleet
    load: Load
    flags: tuple[str, ...]
    lasted_s: float = 0.0

    @property
    def lost(self) -> list[Failure]:
        """Failed requests but those of streams."""
        return [each for each in self.load.failures if not each.client.startswith(STREAMS)]

    @property
    def streams(self) -> int:
        """Streams that are open at once."""
        return sum(each.connections for each in self.load.kinds if each.name == STREAMS)

    @property
    def stream_ends(self) -> list[Failure]:
        """Requests that a stream ended without an answer to."""
        return [each for each in self.load.failures if each.client.startswith(STREAMS)]

    def roll(self, strategy: Strategy, seconds: float) -> None:
        """Replaces one replica after the other: each at least once, and for `seconds`."""
        until = time.monotonic() + seconds
        for _ in self.fleet.serving:
            self.fleet.replace(strategy, self.load)
        while time.monotonic() < until:
            self.fleet.replace(strategy, self.load)

    def wait_until_down(self, name: str) -> None:
        """Returns when the balancer sends nothing more to a replica."""
        wait_until(lambda: not self.balancer.is_up(name), f"{name} to be down")


@contextlib.contextmanager
def scene(
    folder: Path,
    replicas: int,
    *,
    checks: Checks,
    flags: Iterable[str] = (),
    clients: Iterable[Kind] | None = None,
    repository: Path | None = None,
) -> Iterator[Scene]:
    """So many replicas under load. At the end all that drain have ended, every client has had
    answers after that, and nothing runs any more."""
    flags = tuple(flags)
    sources = repository or write_models(folder / "repository")
    with (
        Balancer(folder, checks) as balancer,
        Fleet(folder, balancer, sources, *flags) as fleet,
    ):
        for _ in range(replicas):
            fleet.start()
        with Load(kinds() if clients is None else clients, balancer.address) as load:
            on = Scene(balancer, fleet, load, flags)
            load.wait_for_answers(WARM)
            yield on
            fleet.wait_for_leavers()
            load.wait_for_answers(WARM)
            on.lasted_s = load.now
