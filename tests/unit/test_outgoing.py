"""Large answers go out in shares: nothing lost, doubled or reordered, memory freed at the end."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.transport.wire.limits import TURN_BYTES, BufferBudget
from stoker.transport.wire.outgoing import AnswerWriter, Outgoing


@given(st.lists(st.binary(max_size=40)), st.lists(st.integers(1, 50), min_size=1))
def test_shares_joined_are_the_pieces_joined(pieces: list[bytes], limits: list[int]) -> None:
    outgoing = Outgoing()
    outgoing.add(pieces)
    sent, turn = b"", 0
    while outgoing.size:
        limit = limits[turn % len(limits)]
        share = b"".join(outgoing.take(limit))
        assert 0 < len(share) <= limit
        sent += share
        turn += 1
    assert sent == b"".join(pieces)
    assert outgoing.take(10) == []


def test_what_is_cleared_is_not_sent() -> None:
    outgoing = Outgoing()
    outgoing.add([b"abc", memoryview(b"def")])
    outgoing.clear()
    assert outgoing.size == 0
    assert outgoing.take(10) == []


class Kernel:
    """A transport whose kernel takes `room` bytes at once, and the turns of a loop by hand."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken = b""
        self.held = b""
        self.budget = BufferBudget(1 << 30)
        self.callbacks: list[Callable[[], None]] = []
        self.largest = 0

    def set_write_buffer_limits(self, high: int) -> None:
        assert high == 0

    def get_write_buffer_size(self) -> int:
        return len(self.held)

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.writelines([data])

    def writelines(self, pieces: list[bytes]) -> None:
        data = b"".join(pieces)
        self.largest = max(self.largest, len(data))
        self.taken += data[: self.room]
        self.held += data[self.room :]

    def next_turn(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    def turn(self, writer: AnswerWriter) -> None:
        """One turn of the loop; a kernel that was full has room again."""
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback()
        if self.held:
            writer.pause()
            self.taken, self.held = self.taken + self.held, b""
            writer.resume()


class Share:
    """A lease that counts its releases."""

    def __init__(self) -> None:
        self.released = 0

    def release(self) -> None:
        self.released += 1


@pytest.mark.parametrize("room", [1 << 30, TURN_BYTES // 3])
def test_a_large_answer_leaves_in_shares_and_frees_its_memory_after_the_last(room: int) -> None:
    kernel, done, lease = Kernel(room), [], Share()
    writer = AnswerWriter(kernel, kernel, lambda: done.append(True))  # type: ignore[arg-type]  # the parts of a transport that it uses
    answer = bytes(range(256)) * (TURN_BYTES * 5 // 2 // 256)
    kernel.budget.charge(len(answer))
    writer.lease(lease)
    writer.write([answer[:100], memoryview(answer)[100:]], len(answer))
    turns = 0
    while not done:
        assert lease.released == 0
        assert writer.is_paused
        kernel.turn(writer)
        turns += 1
        assert turns < 20
    assert kernel.taken == answer
    assert kernel.largest <= TURN_BYTES
    assert lease.released == 1
    assert kernel.budget.used == 0
    assert not writer.is_paused
    assert turns >= 3


def test_a_small_answer_is_one_write_and_free_at_once() -> None:
    kernel, done, lease = Kernel(1 << 30), [], Share()
    writer = AnswerWriter(kernel, kernel, lambda: done.append(True))  # type: ignore[arg-type]  # the parts of a transport that it uses
    kernel.budget.charge(6)
    writer.lease(lease)
    writer.write([b"abc", b"def"], 6)
    assert kernel.taken == b"abcdef"
    assert lease.released == 1
    assert kernel.budget.used == 0
    assert not writer.is_paused
    assert not done


def test_a_lost_connection_frees_what_it_never_sent() -> None:
    kernel, lease = Kernel(0), Share()
    writer = AnswerWriter(kernel, kernel, lambda: None)  # type: ignore[arg-type]  # the parts of a transport that it uses
    kernel.budget.charge(TURN_BYTES * 2)
    writer.lease(lease)
    writer.write([bytes(TURN_BYTES * 2)], TURN_BYTES * 2)
    assert writer.has_shares
    writer.drop()
    assert lease.released == 1
    assert kernel.budget.used == 0
    assert not writer.has_shares
