"""Attempts to build an engine: who may begin one, and which of them took their process along."""

import errno
import logging
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from stoker.runtime.tensorrt_attempts import (
    LOOK_S,
    STALE_S,
    Attempt,
    Attempts,
    TooManyAttempts,
)
from stoker.runtime.tensorrt_builder import Builder, this_process

from tests.engine_parts import PATIENCE
from tests.fake_runtime import FakeClock

NAME = "0123456789abcdef"
NEVER = 1e9
HERE = this_process()
ELSEWHERE = replace(HERE, host="pod-b", boot="another machine", pids="pid:[1]", pid=1)
"""A process whose PIDs mean nothing here."""


class Scene:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "environment"
        self.clock = FakeClock()
        self.waits = 0
        self.while_waiting: Callable[[], None] = lambda: None

    def attempts(self, here: Builder = HERE, name: str = NAME) -> Attempts:
        return Attempts(self.folder, name, here=here, clock=self.clock, heartbeat_s=NEVER)

    def wait(self, seconds: float) -> bool:
        self.waits += 1
        self.clock.advance(seconds)
        self.while_waiting()
        return True

    def begin(self, here: Builder = HERE) -> Attempt:
        attempt = self.attempts(here).begin(self.wait)
        assert attempt is not None
        return attempt

    @property
    def files(self) -> list[str]:
        return sorted(each.name for each in self.folder.iterdir())

    def path(self, number: int) -> Path:
        return self.folder / f"{NAME}.attempt-{number}"

    def beat(self, number: int = 1) -> None:
        """A heartbeat of another process, at a time of its own."""
        os.utime(self.path(number), (self.clock(), self.clock()))


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def crash(scene: Scene) -> None:
    """A process that begins an attempt and is killed in the middle of it."""
    code = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from stoker.runtime.tensorrt_attempts import Attempts\n"
        f"Attempts(Path({str(scene.folder)!r}), {NAME!r}).begin(lambda seconds: True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert ended.returncode == -9


def test_an_attempt_that_ended_leaves_nothing_behind(scene: Scene) -> None:
    attempt = scene.begin()
    assert scene.files == [f"{NAME}.attempt-1"]
    attempt.end()
    assert scene.files == []
    attempt.end()  # once more, by another thread
    scene.begin()
    assert scene.files == [f"{NAME}.attempt-1"]


def test_an_attempt_whose_process_was_killed_counts_and_is_followed_at_once(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    crash(scene)
    with caplog.at_level(logging.WARNING):
        attempt = scene.begin()
    assert attempt.number == 2
    assert scene.waits == 0
    assert scene.attempts().crashed == 1
    (record,) = caplog.records
    assert "ended with its process (number 1 of 2" in record.message
    assert f"on {HERE.host}, begun 2" in record.message


def test_two_attempts_that_killed_their_processes_are_the_last_ones(scene: Scene) -> None:
    crash(scene)
    crash(scene)
    for _ in range(2):  # and it is known for good, not found out each time
        with pytest.raises(TooManyAttempts) as refused:
            scene.attempts().begin(scene.wait)
        assert refused.value.last is not None
        assert refused.value.last.host == HERE.host
        assert refused.value.files == f"environment/{NAME}.attempt-*"
        assert scene.attempts().crashed == 2
    assert scene.waits == 0
    assert scene.attempts(name="another").begin(scene.wait) is not None


def test_an_attempt_that_ends_well_forgets_the_crashes_before_it(scene: Scene) -> None:
    crash(scene)
    scene.begin().end()
    assert scene.files == []


def test_an_attempt_that_is_stopped_counts_for_nothing_and_forgets_nothing(scene: Scene) -> None:
    crash(scene)
    attempt = scene.begin()
    attempt.end(was_stopped=True)
    attempt.end()  # what the builder does when it returns at last
    assert scene.files == [f"{NAME}.attempt-1"]
    assert scene.begin().number == 2


def test_whoever_tells_an_attempt_to_stop_waits_for_no_volume(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = scene.begin()
    works, removed_by = threading.Event(), []
    remove = os.unlink

    def hang(path: Path) -> None:
        assert works.wait(PATIENCE)
        removed_by.append(threading.current_thread())
        remove(path)

    monkeypatch.setattr(os, "unlink", hang)
    attempt.end(was_stopped=True)  # as the event loop does
    works.set()
    attempt.end()  # as what closes the server does
    assert scene.files == []
    assert removed_by != [threading.current_thread()]


def test_an_attempt_that_is_to_blame_for_the_end_of_the_process_counts_as_a_crash(
    scene: Scene,
) -> None:
    attempt = scene.begin()
    attempt.blame()
    attempt.end()
    assert scene.attempts().crashed == 1
    assert scene.begin().number == 2


def test_an_attempt_of_a_process_that_runs_elsewhere_is_waited_for_as_long_as_its_heart_beats(
    scene: Scene,
) -> None:
    other = scene.begin(ELSEWHERE)

    def beat() -> None:
        if scene.clock() > 10 * STALE_S:
            other.end()
        else:
            scene.beat()

    scene.while_waiting = beat
    attempt = scene.begin()
    assert attempt.number == 1
    assert scene.waits * LOOK_S > 9 * STALE_S


def test_an_attempt_elsewhere_without_a_heartbeat_is_gone_whatever_its_clock_says(
    scene: Scene,
) -> None:
    scene.begin(ELSEWHERE)
    os.utime(scene.path(1), (4e9, 4e9))  # a machine of the year 2096
    assert scene.begin().number == 2
    assert STALE_S <= scene.waits * LOOK_S < STALE_S + 2 * LOOK_S
    assert scene.attempts(ELSEWHERE).crashed == 1


def test_a_heartbeat_that_returns_takes_a_wrong_verdict_back(scene: Scene) -> None:
    scene.begin(ELSEWHERE)
    scene.begin().end(was_stopped=True)
    assert scene.attempts().crashed == 1
    scene.clock.advance(7)
    scene.beat()
    assert scene.attempts().crashed == 0


def test_what_another_process_has_built_meanwhile_needs_no_attempt(scene: Scene) -> None:
    other = scene.begin(ELSEWHERE)
    published: list[bool] = []

    def publish() -> None:
        published.append(True)
        other.end()

    scene.while_waiting = publish
    assert scene.attempts().begin(scene.wait, lambda: bool(published)) is None
    assert scene.files == []


def test_what_was_built_just_before_the_claim_needs_no_attempt_and_leaves_none(
    scene: Scene,
) -> None:
    assert scene.attempts().begin(scene.wait, lambda: True) is None
    assert scene.files == []


def test_nobody_waits_for_another_process_once_the_version_is_gone(scene: Scene) -> None:
    scene.begin(ELSEWHERE)
    with pytest.raises(InterruptedError):
        scene.attempts().begin(lambda seconds: False)
    assert scene.files == [f"{NAME}.attempt-1"]


def test_of_many_that_begin_at_once_one_does_and_the_others_wait_for_it(scene: Scene) -> None:
    start = threading.Barrier(8)
    begun: list[Attempt] = []
    interrupted: list[int] = []

    def begin() -> None:
        start.wait()
        try:
            attempt = scene.attempts().begin(lambda seconds: False)
        except InterruptedError:
            interrupted.append(1)
        else:
            assert attempt is not None
            begun.append(attempt)

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(begun), len(interrupted)) == (1, 7)
    assert scene.attempts().crashed == 0


def test_a_file_that_is_being_written_or_is_no_attempts_is_waited_for_and_then_counts(
    scene: Scene,
) -> None:
    scene.folder.mkdir()
    scene.path(1).write_text('{"host": "po')
    (scene.folder / f"{NAME}.attempt-x").write_text("")
    (scene.folder / f"{NAME}0.attempt-2").write_text("")
    assert scene.begin().number == 2
    assert scene.waits * LOOK_S >= STALE_S


def test_the_heart_beats_until_the_attempt_ends(scene: Scene) -> None:
    attempts = Attempts(scene.folder, NAME, here=HERE, heartbeat_s=0.001)
    attempt = attempts.begin(scene.wait)
    assert attempt is not None
    os.utime(scene.path(1), (1, 1))
    while scene.path(1).stat().st_mtime == 1:  # the test's time limit bounds it
        pass
    attempt.end()
    assert scene.files == []


def test_a_folder_that_cannot_be_written_to_costs_the_memory_and_not_the_build(
    scene: Scene,
) -> None:
    scene.folder.write_bytes(b"")  # for root, who may write everywhere
    attempt = scene.begin()
    assert not attempt.is_remembered
    attempt.end()


def test_an_attempt_whose_file_cannot_be_written_leaves_none_that_would_count_as_a_crash(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(descriptor: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", disk_full)
    attempt = scene.begin()
    assert not attempt.is_remembered
    assert scene.files == []


def test_a_file_system_that_cannot_sync_folders_has_attempts_that_end(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def of_files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", of_files_only)
    attempt = scene.begin()
    assert attempt.is_remembered
    attempt.end()
    assert scene.files == []


def test_an_attempt_that_the_list_of_the_folder_does_not_show_yet_is_waited_for(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a network file system does, which keeps a folder's list for some seconds."""
    other = scene.begin(ELSEWHERE)
    look = os.listdir
    looks = 0

    def old_list(folder: Path) -> list[str]:
        nonlocal looks
        looks += 1
        assert looks < 100, "it is looked for without a pause"
        return look(folder) if scene.waits > 2 else []

    monkeypatch.setattr(os, "listdir", old_list)

    def end() -> None:
        if scene.waits == 5:
            other.end()

    scene.while_waiting = end
    assert scene.begin().number == 1
    assert scene.waits == 5


def test_a_volume_that_hangs_for_the_one_who_looks_accuses_nobody(scene: Scene) -> None:
    other = scene.begin(ELSEWHERE)
    ended = False

    def hang() -> None:
        nonlocal ended
        if scene.waits < 5:
            scene.clock.advance(10 * STALE_S)  # of which the builder slept as well
        elif not ended:
            ended = True
            other.end()

    scene.while_waiting = hang
    assert scene.begin().number == 1
    assert scene.waits == 5


def test_attempts_count_where_their_files_cannot_be_marked_as_gone(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A volume that is mounted read-only, or files of another user."""
    crash(scene)
    crash(scene)

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    attempts = scene.attempts()
    with pytest.raises(TooManyAttempts):
        attempts.begin(scene.wait)
    assert attempts.crashed == 2


def process(root: Path, pid: int, line: str) -> Path:
    (root / str(pid)).mkdir(parents=True)
    (root / str(pid) / "stat").write_text(line)
    return root


@pytest.mark.parametrize(
    ("line", "gone"),
    [
        ("7 (stoker) S 1 " + "0 " * 17 + "555 0", False),
        ("7 (a) (b) S 1 " + "0 " * 17 + "555 0", False),
        ("7 (stoker) S 1 " + "0 " * 17 + "556 0", True),
        ("7 (stoker) Z 1 " + "0 " * 17 + "555 0", True),
    ],
)
def test_a_process_is_known_by_its_number_and_its_start(
    tmp_path: Path, line: str, gone: bool
) -> None:
    root = process(tmp_path, 7, line)
    builder = Builder("pod-a", "boot", "pid:[2]", 7, "555")
    assert builder.is_gone(replace(builder, pid=8), root) is gone
    assert replace(builder, pid=9).is_gone(builder, root) is True


def test_processes_of_another_machine_or_container_cannot_be_seen(tmp_path: Path) -> None:
    builder = Builder("pod-a", "boot", "pid:[2]", 7, "555")
    assert builder.is_gone(replace(builder, boot="another"), tmp_path) is None
    assert builder.is_gone(replace(builder, pids="pid:[3]"), tmp_path) is None
    for boot, pids in (("", ""), ("", "pid:[2]"), ("boot", "")):
        unknown = Builder("pod-a", boot, pids, 7, "555")
        assert unknown.is_gone(unknown, tmp_path) is None


def test_this_process_is_seen_by_itself() -> None:
    assert HERE.is_gone(HERE) is False
    assert HERE.pid == os.getpid()
