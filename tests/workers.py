"""What test processes side by side have in common.

`make test` shares the files of tests out to several processes, the workers of pytest-xdist. Hooks
about tests that ended run in the process that started them as well, but that one collects nothing:
what a summary has to know of the collection, each worker tells it. They share a folder, and a test
that is marked `alone`, since it measures time, has the machine for itself:

1. Every test holds the room while it runs, a lone one exclusively, the others together.
2. Who wants the room holds the door until it is in, so that one who waits to be alone is not passed
   by for ever.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Protocol, TypeAlias

import pytest

Told: TypeAlias = dict[str, list[str]]
"""Names of tests under what is told of them."""

_KEY: Final = "stoker"


class Worker(Protocol):
    """A worker, for the process that starts it; xdist has no types of its own."""

    workerinput: dict[str, str]


def told_by(config: pytest.Config) -> Told | None:
    """Where this process leaves what it tells; None unless it is a worker."""
    output: dict[str, Told] | None = getattr(config, "workeroutput", None)
    return None if output is None else output.setdefault(_KEY, {})


def told_of(worker: object) -> Told:
    """What a worker left, for the hook `pytest_testnodedown`; nothing if it crashed."""
    output: dict[str, Told] = getattr(worker, "workeroutput", {})
    return output.get(_KEY, {})


def shared_folder(config: pytest.Config) -> Path | None:
    """The folder that all workers of a run share; None unless this process is one."""
    given: dict[str, str] | None = getattr(config, "workerinput", None)
    return None if given is None else Path(given[_KEY])


class Workers:
    """A plugin of every test run (conftest)."""

    def __init__(self) -> None:
        self._folder: TemporaryDirectory[str] | None = None

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Worker) -> None:
        """In the process that starts a worker."""
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="stoker-tests-")
        node.workerinput[_KEY] = self._folder.name

    def pytest_unconfigure(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # before the time limit of the test begins
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        folder = shared_folder(item.config)
        if folder is None:
            return (yield)
        with turn(folder, is_alone=item.get_closest_marker("alone") is not None):
            return (yield)


@contextmanager
def turn(folder: Path, *, is_alone: bool) -> Iterator[None]:
    """Waits for its turn in the room of this folder, and leaves the room at the end."""
    with (folder / "door").open("w") as door, (folder / "room").open("w") as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if is_alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(room, fcntl.LOCK_UN)  # a process that a test forked has it open as well
