"""Prepares faster ways to run models while they serve, and swaps them in once they are proved.

One thread a device prepares, one version after the other, below the executors' priority. It opens
the candidate's sessions, compares their outputs with those recorded while the version was loaded,
and hands them to the event loop, which swaps them in between two batches. No request waits for any
of it. A preparation that cannot be interrupted (a compiler at work) is left to end by itself: its
sessions are closed by the thread that opened them.
Owned by the event loop; what the threads write is named below.  Source: docs/gpu.md, "TensorRT".
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Final

from stoker.engine.engine import Engine
from stoker.engine.opened_version import FasterWay, OpenedVersion, RefusedWay
from stoker.engine.routing import Route
from stoker.engine.served_model import ServedModel
from stoker.errors import DeviceFailed, ExecutionFailed, Reach, ServingError
from stoker.lifecycle.memory_fit import MemoryFit
from stoker.lifecycle.upgrade import Upgrade, UpgradeState
from stoker.lifecycle.watched_session import Watch, WatchedSession, not_watched
from stoker.model import ModelVersion
from stoker.runtime.agreement import compare, disagreement
from stoker.runtime.cpu import lower_priority
from stoker.runtime.session import Placement, Session
from stoker.telemetry.log import event

logger: Final = logging.getLogger(__name__)

LAST_STEP_S: Final = 1.0
"""What a preparation may still take when the server ends."""


class Upgrades:
    """Prepares and swaps in the candidates of all versions of one server."""

    def __init__(
        self,
        engine: Engine,
        loop: asyncio.AbstractEventLoop,
        *,
        memory: MemoryFit | None = None,
        watch: Watch = not_watched,
        on_change: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        last_step_s: float = LAST_STEP_S,
    ) -> None:
        """`on_change` is called, on the loop, when a candidate serves or failed. `memory` None:
        nothing is known of it. `watch` sees runs that do not end."""
        self._watch = watch
        self._memory = memory or MemoryFit()
        self._last_step_s = last_step_s
        self._engine = engine
        self._loop = loop
        self._on_change = on_change
        self._clock = clock
        self._upgrades: dict[ModelVersion, Upgrade] = {}
        self._refused: dict[ModelVersion, RefusedWay] = {}
        self._lines: dict[str, _Line] = {}
        self._has_begun = False

    def all(self) -> list[Upgrade]:
        """Every candidate there is, by model and version."""
        return sorted(
            self._upgrades.values(), key=lambda each: (each.identity.name, each.identity.version)
        )

    def of(self, identity: ModelVersion) -> Upgrade | None:
        """The candidate of a version."""
        return self._upgrades.get(identity)

    def add(self, served: ServedModel, opened: OpenedVersion) -> None:
        """A version began to serve; its candidate, if it has one, is prepared in its turn."""
        way = opened.faster
        self._upgrades.pop(opened.identity, None)
        self._refused.pop(opened.identity, None)
        if isinstance(way, RefusedWay):
            self._refuse(opened.identity, way)
            served.describe_faster = lambda: f"{way.title}: failed: {way.reason}"
        if not isinstance(way, FasterWay):
            return
        upgrade = Upgrade(served, opened, way, self._clock)
        served.describe_faster = upgrade.sentence
        self._upgrades[opened.identity] = upgrade
        if self._has_begun:
            self._start(upgrade)

    def _refuse(self, identity: ModelVersion, way: RefusedWay) -> None:
        self._refused[identity] = way
        event(
            logger,
            "upgrade_failed",
            f"{identity}: {way.title}: failed: {way.reason}; it serves without it",
            level=logging.WARNING,
            model=identity.name,
            version=identity.version,
        )

    def sentences(self) -> tuple[str, ...]:
        """One for each version with a candidate, for whoever looks at readiness."""
        said = {
            **{each.identity: each.sentence() for each in self._upgrades.values()},
            **{key: f"{way.title}: failed: {way.reason}" for key, way in self._refused.items()},
        }
        ordered = sorted(said, key=lambda each: (each.name, each.version))
        return tuple(f"model {identity}: {said[identity]}" for identity in ordered)

    def states(self) -> dict[ModelVersion, UpgradeState]:
        """Where each version's candidate is."""
        return {
            **{each.identity: each.state for each in self._upgrades.values()},
            **dict.fromkeys(self._refused, UpgradeState.FAILED),
        }

    def begin(self) -> None:
        """The start-up loads have ended: preparing may take the device's time from here on."""
        if not self._has_begun:
            self._has_begun = True
            for upgrade in self.all():
                self._start(upgrade)

    def stop(self, identity: ModelVersion) -> None:
        """The version ends: nothing is swapped in any more. A candidate that serves is closed with
        the version's other sessions, by `close`."""
        upgrade = self._upgrades.get(identity)
        if upgrade is not None:
            upgrade.cancel()

    def broke(self, identity: ModelVersion) -> None:
        """The version cannot serve any more, by whichever of its sessions."""
        self.stop(identity)
        upgrade = self._upgrades.get(identity)
        if upgrade is not None and upgrade.end_serving(
            UpgradeState.STOPPED, "the version cannot serve any more"
        ):
            self._log(upgrade)

    def stop_all(self) -> None:
        """The server drains: the device works for its requests alone."""
        for identity in self._upgrades:
            self.stop(identity)

    async def close(self, *, runs_have_ended: bool) -> bool:
        """Ends the threads, and closes what serves where no run is under way any more. All requests
        have been answered. False if a preparation goes on, which nothing can interrupt."""
        self.stop_all()
        for line in self._lines.values():
            line.close()
        end = time.monotonic() + self._last_step_s
        for line in self._lines.values():
            left = max(0.0, end - time.monotonic())
            await self._loop.run_in_executor(None, line.join, left)
        await asyncio.sleep(0)  # what the threads posted at their end
        for upgrade in self._upgrades.values():
            if upgrade.state in (UpgradeState.BUILDING, UpgradeState.COMPARING):
                upgrade.candidate.discard()  # its thread goes on, and the process will not wait
            elif runs_have_ended:
                _close(upgrade.sessions)
        return not any(line.is_alive for line in self._lines.values())

    def _start(self, upgrade: Upgrade) -> None:
        device = upgrade.opened.sessions[0][1].device
        line = self._lines.get(device)
        if line is None:
            line = self._lines[device] = _Line(f"prepare-{device}", self._prepare)
        line.put(upgrade)

    # --- the threads that prepare ---------------------------------------------------------------

    def _prepare(self, upgrade: Upgrade) -> None:
        if not upgrade.begin():
            return
        try:
            self._open(upgrade)
            self._compare(upgrade)
            upgrade.candidate.keep()
        except InterruptedError:
            self._give_up(upgrade, UpgradeState.STOPPED, "")
        except ServingError as error:
            if isinstance(error, DeviceFailed) and error.reach is Reach.PROCESS:
                # Freeing what lies in a dead context may hang, and the process ends anyway.
                upgrade.device_failed = error
                upgrade.candidate.blame()
                upgrade.abandoned += upgrade.sessions
                upgrade.sessions.clear()
            stopped = upgrade.stop.is_set
            self._give_up(
                upgrade,
                UpgradeState.STOPPED if stopped else UpgradeState.FAILED,
                "" if stopped else error.message,
            )
        except OSError as error:
            why = f"a file or folder that it needs cannot be used: {error.strerror}"
            logger.exception("preparing a faster session of %s failed", upgrade.identity)
            self._give_up(upgrade, UpgradeState.FAILED, why)
        except Exception:
            logger.exception("preparing a faster session of %s failed", upgrade.identity)
            self._give_up(
                upgrade, UpgradeState.FAILED, "internal error; the server's log has the details"
            )
        self._post(self._finished, upgrade)

    def _open(self, upgrade: Upgrade) -> None:
        event(
            logger,
            "upgrade_building",
            f"{upgrade.candidate.title} is prepared for {upgrade.identity}, which serves meanwhile",
            model=upgrade.identity.name,
            version=upgrade.identity.version,
        )
        least = upgrade.candidate.least_bytes()
        for placement, present in upgrade.opened.sessions:
            device = present.device
            upgrade.memory_before.setdefault(
                device, self._memory.require(upgrade.identity.name, device, least)
            )
            with self._occupied(device):
                session = upgrade.candidate.open(placement, upgrade.stop)
            upgrade.sessions.append((placement, session))
            _proceed(upgrade)

    def _compare(self, upgrade: Upgrade) -> None:
        upgrade.move(UpgradeState.COMPARING)
        record = upgrade.way.record
        for _, session in upgrade.sessions:
            watched = WatchedSession(
                session,
                partial(self._watch, upgrade.identity, session.device, "a run of the comparison"),
            )
            with self._occupied(session.device):
                found = compare(watched, record, proceed=lambda: not upgrade.stop.is_set)
            upgrade.difference = max(upgrade.difference, found.difference)
            why = disagreement(found, upgrade.candidate.tolerance(record.rounding))
            if why is not None:
                raise ExecutionFailed(why)
        upgrade.preparation.device_bytes = self._taken(upgrade.memory_before)
        _proceed(upgrade)

    def _taken(self, before: Mapping[str, int | None]) -> int | None:
        """By how much the use of these devices has grown, by whomever."""
        taken = 0
        for device, used in before.items():
            now = self._memory.used(device)
            if used is None or now is None:
                return None
            taken += max(0, now - used)
        return taken

    def _occupied(self, device: str) -> AbstractContextManager[None]:
        """Runs beside it are not taken for alone on the device."""
        return self._engine.occupied(device)

    def _give_up(self, upgrade: Upgrade, state: UpgradeState, reason: str) -> None:
        _close(upgrade.sessions)
        upgrade.candidate.discard()
        upgrade.move(state, reason)

    def _post(self, callback: Callable[[Upgrade], None], upgrade: Upgrade) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, upgrade)
        except RuntimeError:  # the loop is closed: the process ends
            _close(upgrade.sessions)

    # --- the event loop -------------------------------------------------------------------------

    def _finished(self, upgrade: Upgrade) -> None:
        """The thread is done with it: swap it in, or say why not."""
        if upgrade.state is UpgradeState.COMPARING and upgrade.stop.is_set:
            _close(upgrade.sessions)
            upgrade.move(UpgradeState.STOPPED)
        elif upgrade.state is UpgradeState.COMPARING:
            route = Route(
                upgrade.candidate.covers, on_closed=lambda reason: self._closed(upgrade, reason)
            )
            upgrade.move(UpgradeState.SERVING)
            # First: from the swap on a run may find that the way has to be closed.
            upgrade.devices_before = upgrade.served.devices
            upgrade.served.devices += tuple(each.report for _, each in upgrade.sessions)
            self._engine.upgrade(upgrade.served, upgrade.sessions, route)
        upgrade.way.record.forget()
        self._log(upgrade)
        if upgrade.device_failed is not None:
            upgrade.served.stop(upgrade.device_failed, upgrade.device_failed)
        self._on_change()

    def _closed(self, upgrade: Upgrade, reason: str) -> None:
        """On an executor's thread: the version runs as before from here on. The sessions stay open
        until it is unloaded, since other instances may be in the middle of a run."""
        if not upgrade.end_serving(UpgradeState.FAILED, reason):
            return
        upgrade.served.devices = upgrade.devices_before
        self._log(upgrade)

    def _log(self, upgrade: Upgrade) -> None:
        has_failed = upgrade.state is UpgradeState.FAILED
        text = f"{upgrade.identity}: {upgrade.sentence()}"
        if has_failed:
            text += "; it serves as before"
        event(
            logger,
            f"upgrade_{upgrade.state.value}",
            text,
            level=logging.WARNING if has_failed else logging.INFO,
            model=upgrade.identity.name,
            version=upgrade.identity.version,
            build_s=round(upgrade.preparation.seconds, 3),
            difference=upgrade.difference,
            device_bytes=upgrade.preparation.device_bytes,
        )


class _Line:
    """One thread and the upgrades that wait for it. A daemon: a build must not hold the process."""

    def __init__(self, name: str, prepare: Callable[[Upgrade], None]) -> None:
        self._prepare = prepare
        self._waiting: queue.SimpleQueue[Upgrade | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    def put(self, upgrade: Upgrade) -> None:
        """Prepares it when the earlier ones are done."""
        self._waiting.put(upgrade)

    def close(self) -> None:
        """Ends the thread behind what waits. Does not wait."""
        self._waiting.put(None)

    def join(self, timeout: float) -> None:
        """Waits (blocking) until the thread has ended, at most `timeout` seconds."""
        self._thread.join(timeout)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _main(self) -> None:
        lower_priority()
        while (upgrade := self._waiting.get()) is not None:
            self._prepare(upgrade)


def _proceed(upgrade: Upgrade) -> None:
    if upgrade.stop.is_set:
        raise InterruptedError


def _close(sessions: list[tuple[Placement, Session]]) -> None:
    """Closes them, once."""
    while sessions:
        sessions.pop()[1].close()
