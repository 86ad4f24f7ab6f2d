"""One timer per model: what passes its moment is ended then, and shells do not pile up."""

import asyncio
import math
import weakref
from typing import cast

from stoker.engine.expiry import SHELLS, TICK, Expiry
from stoker.engine.pending import Pending
from stoker.engine.plan import RequestForm
from stoker.engine.served_model import ServedModel
from stoker.request import InferRequest

from tests.hand_loop import HandLoop

FORM = RequestForm(1, ((4,),), (0,), (0,), 4)


def entry() -> Pending:
    model = cast(ServedModel, None)  # an expiry never looks at it

    def reply(result: object) -> None: ...

    return Pending(model, InferRequest.of("m"), FORM, reply, 0.0)


class Scene:
    def __init__(self) -> None:
        self.loop = HandLoop()
        self.expired: list[tuple[float, Pending]] = []
        loop = cast(asyncio.AbstractEventLoop, self.loop)
        self.expiry = Expiry(loop, self.expire, self.loop.clock)

    def expire(self, gone: Pending) -> None:
        self.expired.append((self.loop.now, gone))
        gone.dead = True

    @property
    def timers(self) -> int:
        return sum(not timer.cancelled for timer in self.loop.timers)


def test_entries_expire_at_their_moments_in_any_order_of_coming() -> None:
    scene = Scene()
    later, sooner, never = entry(), entry(), entry()
    scene.expiry.watch(later, 3.0)
    scene.expiry.watch(sooner, 1.0)
    scene.expiry.watch(never, math.inf)
    scene.loop.advance(10.0)
    assert scene.expired == [(1.0, sooner), (3.0, later)]
    assert scene.timers == 0


def test_one_timer_stands_for_all_entries() -> None:
    scene = Scene()
    for moment in (5.0, 4.0, 3.0, 6.0):
        scene.expiry.watch(entry(), moment)
    assert scene.timers == 1


def test_what_has_ended_does_not_expire() -> None:
    scene = Scene()
    gone, left = entry(), entry()
    scene.expiry.watch(gone, 1.0)
    scene.expiry.watch(left, 2.0)
    gone.dead = True
    scene.loop.advance(3.0)
    assert [each for _, each in scene.expired] == [left]


def test_a_moment_in_the_past_expires_in_the_next_turn() -> None:
    scene = Scene()
    scene.loop.advance(5.0)
    late = entry()
    scene.expiry.watch(late, 1.0)
    assert scene.expired == []
    scene.loop.advance(0.0)
    assert scene.expired == [(5.0, late)]


def test_a_timer_that_fires_early_looks_again_one_tick_later() -> None:
    scene = Scene()
    one = entry()
    scene.expiry.watch(one, 1.0)
    (timer,) = scene.loop.timers
    scene.loop.timers.clear()
    scene.loop.now = 0.9996  # as uvloop, which rounds to milliseconds
    timer.callback()
    assert scene.expired == []
    scene.loop.advance(2 * TICK)
    assert [each for _, each in scene.expired] == [one]


def test_an_entry_may_be_watched_again_from_its_own_expiry() -> None:
    scene = Scene()
    one, seen = entry(), []

    def expire(gone: Pending) -> None:
        seen.append(scene.loop.now)
        if len(seen) == 1:
            expiry.watch(gone, 2.0)

    loop = cast(asyncio.AbstractEventLoop, scene.loop)
    expiry = Expiry(loop, expire, scene.loop.clock)
    expiry.watch(one, 1.0)
    scene.loop.advance(5.0)
    assert seen == [1.0, 2.0]


def test_entries_watched_while_the_shells_are_cleared_still_expire() -> None:
    """The heap is cleared in the middle of an expiry, and the earliest entry comes after that."""
    scene = Scene()
    first, earliest = entry(), entry()

    def expire(gone: Pending) -> None:
        scene.expire(gone)
        if gone is first:
            for _ in range(4):
                expiry.watch(entry(), 40.0)
            expiry.watch(earliest, 2.0)

    loop = cast(asyncio.AbstractEventLoop, scene.loop)
    expiry = Expiry(loop, expire, scene.loop.clock)
    expiry.watch(first, 1.0)
    for _ in range(2 * SHELLS + 1):  # all live at the first clearing: the next comes at the double
        shell = entry()
        expiry.watch(shell, 50.0)
    scene.loop.advance(3.0)
    assert [each for _, each in scene.expired] == [first, earliest]


def test_shells_do_not_pile_up_behind_a_far_moment() -> None:
    scene = Scene()
    ended = []
    for _ in range(4 * SHELLS):
        each = entry()
        scene.expiry.watch(each, 1000.0)
        each.dead = True
        ended.append(weakref.ref(each.reply))
    del each
    assert sum(reference() is not None for reference in ended) <= SHELLS + 1


def test_a_closed_expiry_has_no_timer() -> None:
    scene = Scene()
    scene.expiry.watch(entry(), 1.0)
    scene.expiry.close()
    scene.loop.advance(2.0)
    assert scene.expired == []
    assert scene.timers == 0


def came_together(*deadlines: float) -> list[Pending]:
    entries = [entry() for _ in deadlines]
    for each, deadline in zip(entries, deadlines, strict=True):
        each.deadline = deadline
    return entries


def test_requests_that_came_together_expire_each_at_its_deadline() -> None:
    scene = Scene()
    later, sooner, never = came_together(3.0, 1.0, math.inf)
    scene.expiry.watch_all([later, sooner, never], 1.0)
    assert scene.timers == 1
    scene.loop.advance(10.0)
    assert scene.expired == [(1.0, sooner), (3.0, later)]
    assert scene.expiry.is_empty


def test_one_that_is_left_of_those_that_came_together_keeps_its_deadline() -> None:
    scene = Scene()
    left, *gone = came_together(5.0, *[1.0] * (SHELLS - 1))
    scene.expiry.watch_all([left, *gone], 1.0)  # with the next one there are more than SHELLS
    for each in gone:
        each.dead = True
    scene.expiry.watch_all([*came_together(7.0)], 7.0)
    scene.loop.advance(6.0)
    assert scene.expired == [(5.0, left)]
