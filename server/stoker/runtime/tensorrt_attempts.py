"""Attempts to build a TensorRT engine: files that outlive a process which its build takes along.

A builder that crashes, or that the kernel kills for memory, raises nothing: the process is gone,
the next one builds again and is gone as well. So each attempt leaves a file before it begins, and
takes it away when it ends in any other way than with its process. Beside the engine's own folder:

    <environment>/<name>.attempt-1, .attempt-2 ...   who builds, in words; its time is a heartbeat

  1. An attempt is made by creating its file, which of several processes only one can; so the file
     is also the claim by which they build one engine once.
  2. An attempt follows another only if that one's process is gone. `MOST_ATTEMPTS` that are gone,
     and the engine is not tried again until somebody takes the files away.
  3. A build that ended, well or not, takes away its own file and those before it: what does not
     kill every time is no reason to give up. One that was told to stop takes away its own only.
  4. Whether a process is gone is known where it shares this one's PIDs. Elsewhere (another pod, a
     container that ran here before) its heartbeat tells: gone is whose file did not change for
     `STALE_S` by the clock of the one who looks, since machines' clocks differ; a volume that hangs
     for both, or a machine that was frozen, stops that clock as well. What was found to
     be gone gets the time 0, which says so to all; a heartbeat that returns takes that back.
Files, as the cache's folders, may lie on a volume that pods of several nodes share.
"""

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

from stoker.runtime.tensorrt_builder import Builder, this_process
from stoker.telemetry.log import event

log = logging.getLogger(__name__)

MOST_ATTEMPTS: Final = 2
"""The second one tells a crash from a node that lost its power, or a pod that was killed."""
HEARTBEAT_S: Final = 5.0
STALE_S: Final = 60.0
"""Twelve heartbeats: a shared volume that hangs for some seconds kills nobody."""
LOOK_S: Final = 2.0
"""Between two looks at another's attempt. No file system that pods share tells of changes."""
REMOVED_WITHIN_S: Final = 1.0
"""For the file of an attempt that was stopped, when the process ends."""
GONE: Final = 0
"""The time of an attempt whose process is known to be gone, in nanoseconds since the epoch."""

Wait = Callable[[float], bool]
"""Waits so many seconds; False: nobody waits for the engine any more."""


class TooManyAttempts(Exception):
    """Every attempt took its process with it."""

    def __init__(self, last: Builder | None, files: str, forget: Callable[[], None]) -> None:
        """`files`: a pattern of the files to take away, below the root of the cache. `forget`
        takes them away."""
        super().__init__(files)
        self.last = last
        self.files = files
        self.forget = forget


class Attempt:
    """One that is under way in this process. Ends once; any thread may end it."""

    def __init__(self, path: Path | None, number: int, heartbeat_s: float = HEARTBEAT_S) -> None:
        """`path` None: the folder cannot be written to, and nobody will know of it."""
        self.number = number
        self._path = path
        self._has_ended = threading.Event()
        self._ending = threading.Lock()
        self._was_stopped = False
        self._heart: threading.Thread | None = None
        if path is not None:
            self._heart = threading.Thread(
                target=self._beat, args=(path, heartbeat_s), name="build-heartbeat", daemon=True
            )
            self._heart.start()

    @property
    def is_remembered(self) -> bool:
        """Whether another process will know of it."""
        return self._path is not None

    def _beat(self, path: Path, heartbeat_s: float) -> None:
        while not self._has_ended.wait(heartbeat_s):
            with contextlib.suppress(OSError):  # somebody took it away, or the volume is
                os.utime(path)
        if self._was_stopped:
            with contextlib.suppress(OSError):
                path.unlink()

    def end(self, *, was_stopped: bool = False) -> None:
        """The build is over, and the process is there: nothing is left of this attempt.

        `was_stopped` is for the event loop, which no volume may hold up: the heartbeat's thread
        removes the file. Ending it once more waits for that, at most `REMOVED_WITHIN_S`.
        """
        path = self._finish(was_stopped=was_stopped)
        if was_stopped:
            return
        if path is None:
            if self._heart is not None:
                self._heart.join(REMOVED_WITHIN_S)
            return
        for number in range(self.number, 0, -1):
            with contextlib.suppress(OSError):
                path.with_suffix(f".attempt-{number}").unlink(missing_ok=True)

    def blame(self) -> None:
        """What it did ends the process: its file stays, as after a crash."""
        path = self._finish()
        if path is not None:
            with contextlib.suppress(OSError):
                os.utime(path, ns=(GONE, GONE))

    def _finish(self, *, was_stopped: bool = False) -> Path | None:
        """Ends the heartbeat. The file, to whoever comes first."""
        with self._ending:
            if self._has_ended.is_set():
                return None
            self._was_stopped = was_stopped
            self._has_ended.set()
            return self._path


class Attempts:
    """The attempts to build one engine. Methods block on the disk; one thread calls them."""

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        here: Builder | None = None,
        clock: Callable[[], float] = time.monotonic,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        """`folder` is the environment's; it is made where it is missing."""
        self._folder = folder
        self._name = name
        self._here = here or this_process()
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._buried: set[int] = set()
        """Found to be gone by this one, which a file of another user may not show."""

    @property
    def crashed(self) -> int:
        """Attempts that are known to have taken their process along."""
        return sum(self._time(each) == GONE or each in self._buried for each in self._numbers())

    def begin(self, wait: Wait, is_done: Callable[[], bool] = lambda: False) -> Attempt | None:
        """The next attempt, this process's own, once no other process makes one. None: `is_done`
        while another's was waited for, so that none is needed.

        Raises TooManyAttempts, and InterruptedError where `wait` says that nobody waits.
        """
        seen: tuple[int, int | None] | None = None
        still = 0.0
        looked = self._clock()

        def is_done_after_a_pause() -> bool:
            if not wait(LOOK_S):
                raise InterruptedError
            return is_done()

        while True:
            last = max(self._numbers(), default=0)
            is_alive = last > 0 and not self._is_over(last)
            now, before = self._clock(), looked
            looked = now
            if is_alive and (last, self._time(last)) != seen:
                seen, still = (last, self._time(last)), 0.0
            elif is_alive:  # of a volume that hung, or a frozen machine, only this much is counted
                still += min(now - before, 2 * LOOK_S)
            if is_alive and still < STALE_S:
                if is_done_after_a_pause():
                    return None
                continue
            if is_alive:
                self._bury(last)
            if last >= MOST_ATTEMPTS:
                files = f"{self._folder.name}/{self._name}.attempt-*"
                raise TooManyAttempts(self._read(last), files, self._forget)
            try:
                path = self._create(last + 1)
                is_first = path is not None
            except OSError as error:
                event(log, "engine_cache", f"attempts cannot be remembered: {error.strerror}")
                path, is_first = None, True
            if not is_first:  # another process was; a list of the folder may not show it yet
                if is_done_after_a_pause():
                    return None
                continue
            attempt = Attempt(path, last + 1, self._heartbeat_s)
            if is_done():  # another process ended between the caller's look and this one's claim
                attempt.end()
                return None
            return attempt

    def _forget(self) -> None:
        for number in self._numbers():
            with contextlib.suppress(OSError):
                self._path(number).unlink()

    def _is_over(self, number: int) -> bool:
        """Whether the attempt's process is known to be gone."""
        if self._time(number) == GONE:
            return True
        builder = self._read(number)
        if builder is None or not builder.is_gone(self._here):
            return False
        self._bury(number)
        return True

    def _bury(self, number: int) -> None:
        builder = self._read(number)
        self._buried.add(number)
        where = f", on {builder.host}, begun {builder.began}" if builder else ""
        event(
            log,
            "engine_attempt",
            f"an attempt at the TensorRT engine '{self._name}' ended with its process "
            f"(number {number} of {MOST_ATTEMPTS}{where})",
            level=logging.WARNING,
        )
        with contextlib.suppress(OSError):
            os.utime(self._path(number), ns=(GONE, GONE))

    def _create(self, number: int) -> Path | None:
        """The attempt's file; None where there is one. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(number)
        began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        here = {**asdict(self._here), "began": began}
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return None
        try:
            os.write(descriptor, json.dumps(here).encode())
            os.fsync(descriptor)
        except OSError:  # a full disk: what nobody ends would count as a crash
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        with contextlib.suppress(OSError):  # not every file system syncs folders
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)  # the name: a machine that goes down with the build is a crash
            finally:
                os.close(folder)
        return path

    def _numbers(self) -> list[int]:
        found = []
        try:
            names = os.listdir(self._folder)
        except OSError:
            return []
        for name in names:
            key, _, number = name.rpartition(".attempt-")
            if key == self._name and number.isdecimal():
                found.append(int(number))
        return found

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._name}.attempt-{number}"

    def _time(self, number: int) -> int | None:
        try:
            return self._path(number).stat().st_mtime_ns
        except OSError:
            return None

    def _read(self, number: int) -> Builder | None:
        """None where it is being written, or is no attempt's file."""
        try:
            return Builder(**json.loads(self._path(number).read_text()))
        except (OSError, ValueError, TypeError):
            return None
