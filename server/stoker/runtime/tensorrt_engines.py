"""The engines that one candidate opens: taken from the cache, or built, each as an attempt.

Between the candidate (`tensorrt.py`), which says what an engine is and how it is opened, and the
folder of the cache with its attempts (`tensorrt_cache.py`, `tensorrt_attempts.py`).
  1. An attempt begins before anything of an engine is loaded or built, and ends when its answers
     were compared, or it is given up. Should the process end in between, the next one knows.
  2. A build is an attempt of all processes that share the cache: they wait for each other, and two
     deaths are the last. An engine that is loaded is an attempt of this machine's alone: all pods
     may load at once. Two deaths, and it is taken for damaged: it is removed and built anew.
Used by the thread that prepares; `blame` and what ends attempts, by any.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

from stoker.errors import InvalidRequest
from stoker.runtime.candidate import CandidateRefused, Preparation, Stop
from stoker.runtime.session import Session
from stoker.runtime.tensorrt_attempts import Attempt, Attempts, TooManyAttempts
from stoker.runtime.tensorrt_cache import Building, EngineCache, EngineIdentity, folder_bytes
from stoker.telemetry.log import event

log = logging.getLogger(__name__)

TITLE: Final = "TensorRT"

OpenIn: TypeAlias = Callable[[Path], Session]
"""Opens a session whose engine lies in this folder, or is built there. Raises ServingError, and
InterruptedError where nobody waits for it any more."""


class Engines:
    """Those of one candidate, by their keys."""

    def __init__(
        self,
        root: Path | None,
        preparation: Preparation,
        *,
        is_cached: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`root` None: nothing can be kept, nor remembered. Not `is_cached`: nothing is kept."""
        self._is_cached = is_cached and root is not None
        self._remembers = root is not None
        # Without a root nothing is looked for and nothing kept, so that none is needed.
        self._cache = EngineCache(root or Path())
        self._preparation = preparation
        self._clock = clock
        self._buildings: dict[str, Building] = {}
        """Those that this process has just built."""
        self._attempts: list[Attempt] = []
        """This process's, until its engines are kept or given up."""
        self._loads: set[str] = set()
        """Keys of engines that one of the attempts loads."""
        self._left_out: set[str] = set()
        """Keys of engines of the cache that are no good and could not be removed."""

    def open(
        self, identity: EngineIdentity, stop: Stop, lay: Callable[[Path], None], open_in: OpenIn
    ) -> Session:
        """A session of this engine. `lay` puts what a build reads into its folder.

        Raises as `open_in`, and CandidateRefused where too many builds ended their processes.
        """
        building = self._buildings.get(identity.key)
        if building is not None:
            return open_in(building.path)
        while True:
            session = self._known(identity, stop, open_in) if self._is_cached else None
            if session is not None:
                return session
            if self._may_build(identity, stop):
                return self._build(identity, lay, open_in)

    def keep(self) -> None:
        """They were proved right: other processes may have them."""
        for building in self._buildings.values():
            if building.publish() is None:
                building.discard()  # ONNX Runtime has read it; another process's is there to stay
        self._buildings.clear()
        self._end_attempts()

    def discard(self) -> None:
        """Removes what was not kept. Harmless when repeated."""
        for building in list(self._buildings.values()):
            building.discard()
        self._buildings.clear()
        self._end_attempts()

    def blame(self) -> None:
        """What they did ends this process."""
        for attempt in list(self._attempts):
            attempt.blame()

    def _end_attempts(self) -> None:
        self._loads.clear()
        while self._attempts:
            self._attempts.pop().end()

    def _known(self, identity: EngineIdentity, stop: Stop, open_in: OpenIn) -> Session | None:
        """A session of an engine in the cache; None where there is none that can be loaded."""
        if identity.key in self._left_out:
            return None
        was_there = self._cache.has(identity)
        found = self._cache.find(identity, lambda: not stop.is_set)
        if found is None:
            if was_there:
                self._leave_out(identity)
            return None
        try:
            if identity.key not in self._loads:
                self._begin(self._cache.loads(identity), stop, "a process that loads it")
                self._loads.add(identity.key)
            session = open_in(found)
        except TooManyAttempts as error:
            event(
                log,
                "engine_cache",
                "a TensorRT engine of the cache ended the processes that loaded it, and is built "
                f"anew: {found.name}",
                level=logging.WARNING,
            )
            self._cache.remove(found)
            if not self._leave_out(identity):
                error.forget()
            return None
        except InvalidRequest as error:  # no memory, or a broken device, says nothing of the engine
            if stop.is_set:
                raise
            event(
                log,
                "engine_cache",
                f"an engine of the cache is built anew: {error.message}",
                level=logging.WARNING,
            )
            self._cache.remove(found)
            self._leave_out(identity)
            return None
        self._preparation.hits += 1
        self._preparation.nbytes = folder_bytes(found)
        return session

    def _leave_out(self, identity: EngineIdentity) -> bool:
        """What is no good and still there, as on a read-only volume, is passed over: it is neither
        looked at again, nor waited for, and this process builds its own."""
        if self._cache.has(identity):
            self._left_out.add(identity.key)
        return identity.key in self._left_out

    def _may_build(self, identity: EngineIdentity, stop: Stop) -> bool:
        """False where another process has built it meanwhile."""
        if not self._remembers:
            return True
        attempts = self._cache.builds(identity, is_shared=self._is_cached)
        try:
            attempt = self._begin(
                attempts,
                stop,
                "another process that builds it",
                lambda: (
                    self._is_cached
                    and identity.key not in self._left_out
                    and self._cache.has(identity)
                ),
            )
        except TooManyAttempts as error:
            self._preparation.crashes = attempts.crashed
            raise CandidateRefused(TITLE, _given_up(attempts.crashed, error)) from error
        if attempt is None:
            return False
        self._preparation.crashes = attempts.crashed
        if not attempt.is_remembered:
            event(
                log,
                "engine_cache",
                "the TensorRT cache cannot be written to: a build that ends this process will not "
                "be remembered",
                level=logging.WARNING,
            )
        return True

    def _begin(
        self,
        attempts: Attempts,
        stop: Stop,
        whom: str,
        is_done: Callable[[], bool] = lambda: False,
    ) -> Attempt | None:
        def wait(seconds: float) -> bool:
            self._preparation.doing = f"waits for {whom}"
            return stop.proceeds(seconds)

        try:
            attempt = attempts.begin(wait, is_done)
        finally:
            self._preparation.doing = ""
        if attempt is not None:
            self._attempts.append(attempt)
            stop.on_set(lambda: attempt.end(was_stopped=True))
        return attempt

    def _build(
        self, identity: EngineIdentity, lay: Callable[[Path], None], open_in: OpenIn
    ) -> Session:
        began = self._clock()
        building = self._cache.build(identity, keep=self._is_cached)
        self._buildings[identity.key] = building
        lay(building.path)
        self._preparation.misses += 1
        session = open_in(building.path)
        self._preparation.seconds += self._clock() - began
        self._preparation.nbytes = building.nbytes
        return session


def _given_up(crashed: int, error: TooManyAttempts) -> str:
    """For clients as well: no name of a machine, which the log has."""
    when = f", the last one begun {error.last.began}" if error.last else ""
    return (
        f"{crashed} builds of its engine ended with the process that built{when}: it is not tried "
        "again. The server's last log and the node's kernel log say of what; another "
        "precision_mode, trt_builder_optimization_level or max_workspace_size_bytes makes another "
        f"engine, and without the files {error.files} in the folder of --trt-cache-dir this one is "
        "tried again"
    )
