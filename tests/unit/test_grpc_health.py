"""The health board: states by name, and who hears of their changes."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from stoker.transport.grpc.health import INFERENCE_SERVICE, SERVER, HealthBoard


def run(steps: Coroutine[Any, Any, None]) -> None:
    asyncio.run(steps)


@pytest.mark.parametrize("own", [SERVER, INFERENCE_SERVICE])
def test_the_server_is_known_and_not_serving_at_first(own: str) -> None:
    assert HealthBoard().serving(own) is False


def test_the_inference_service_always_has_the_servers_state() -> None:
    board = HealthBoard()
    board.set(SERVER, True)
    board.set(INFERENCE_SERVICE, False)
    assert board.serving(INFERENCE_SERVICE) is True


def test_a_model_is_unknown_until_set_and_after_forget() -> None:
    board = HealthBoard()
    assert board.serving("m") is None
    board.set("m", True)
    assert board.serving("m") is True
    board.forget("m")
    assert board.serving("m") is None


def test_the_server_cannot_be_forgotten() -> None:
    board = HealthBoard()
    board.forget(SERVER)
    assert board.serving(SERVER) is False


def test_show_sets_what_is_there_and_forgets_what_is_not() -> None:
    board = HealthBoard()
    board.set("old", True)
    board.show(True, {"a": True, "b": False})
    assert [board.serving(name) for name in (SERVER, INFERENCE_SERVICE, "a", "b", "old")] == [
        True,
        True,
        True,
        False,
        None,
    ]


def test_nothing_serves_again_after_drain() -> None:
    board = HealthBoard()
    board.show(True, {"m": True})
    board.drain()
    assert [board.serving(name) for name in (SERVER, INFERENCE_SERVICE, "m")] == [False] * 3
    board.show(True, {"m": True, "late": True})
    assert [board.serving(name) for name in (SERVER, "m", "late")] == [False] * 3


def test_a_watcher_hears_the_state_and_each_change() -> None:
    async def steps() -> None:
        board = HealthBoard()
        changes = board.changes("m")
        heard = [await anext(changes)]
        for change in (True, False):
            waiting = asyncio.ensure_future(anext(changes))
            await asyncio.sleep(0)
            board.set("m", change)
            heard.append(await waiting)
        waiting = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        board.forget("m")
        heard.append(await waiting)
        await changes.aclose()
        assert heard == [None, True, False, None]

    run(steps())


def test_a_change_that_was_taken_back_is_not_told() -> None:
    async def steps() -> None:
        board = HealthBoard()
        changes = board.changes("m")
        assert await anext(changes) is None
        waiting = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        board.set("m", True)
        board.forget("m")
        for _ in range(3):
            await asyncio.sleep(0)
        assert not waiting.done()
        board.set("m", False)
        assert await waiting is False
        await changes.aclose()

    run(steps())


def test_a_slow_watcher_hears_the_latest_state_only() -> None:
    async def steps() -> None:
        board = HealthBoard()
        changes = board.changes("m")
        assert await anext(changes) is None
        board.set("m", True)
        board.set("m", False)
        assert await anext(changes) is False
        await changes.aclose()

    run(steps())
