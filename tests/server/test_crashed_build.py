"""A TensorRT build that ends its process is not begun for ever. Whole processes, in a row."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.calls import RestClient, rows, wait_until
from tests.conftest import Endpoints, StokerProcess, run_stoker, sample
from tests.crashing_build import BUILD, DIE, ORDERS
from tests.models import ModelEntry, scaled, write_repository

CONFIG = """
max_batch_size: 4
optimization { execution_accelerators { gpu_execution_accelerator [ { name: "tensorrt" } ] } }
"""


class Node:
    """A container that is started again and again, with a cache that stays."""

    def __init__(self, folder: Path) -> None:
        self.repository = write_repository(
            folder / "models", {"m": ModelEntry(scaled(2.0), CONFIG)}
        )
        self.cache = folder / "cache"
        self.orders = folder / "orders"
        os.mkfifo(self.orders)

    @contextmanager
    def server(self) -> Iterator[StokerProcess]:
        with run_stoker(
            str(self.repository),
            *("--trt-cache-dir", str(self.cache), "--drain-delay", "0s"),
            module="tests.crashing_build",
            environment={ORDERS: str(self.orders)},
        ) as running:
            yield running

    def crash(self) -> None:
        """Starts a process that serves, builds, and dies of it."""
        with self.server() as running:
            self.orders.write_text(DIE)
            assert running.process.wait(30) == -signal.SIGKILL

    @property
    def attempts(self) -> list[str]:
        return sorted(each.name.rpartition(".")[2] for each in self.cache.rglob("*.attempt-*"))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    yield Node(tmp_path)
    for each in tmp_path.rglob("*"):  # a published engine's folder cannot be written to
        if each.is_dir():
            each.chmod(0o755)


def detail(at: Endpoints) -> str:
    status, body = at.probe("/readyz")
    assert status == 200
    (said,) = json.loads(body)["details"]
    return str(said)


def is_in(at: Endpoints, state: str) -> bool:
    return sample(at.metrics(), "stoker_tensorrt_state", model="m", state=state) == 1


@pytest.mark.slow
def test_a_build_that_killed_two_processes_is_left_alone_by_the_third_which_serves(
    node: Node,
) -> None:
    node.crash()
    with node.server() as running:
        wait_until(
            lambda: "(an earlier attempt ended with its process: 1)" in detail(running.at),
            "a build that knows of the earlier one",
        )
        assert running.at.metric("stoker_tensorrt_crashed_builds", model="m") == 1
        node.orders.write_text(DIE)
        assert running.process.wait(30) == -signal.SIGKILL
    with node.server() as running:
        wait_until(lambda: is_in(running.at, "failed"), "a build that is given up")
        said = detail(running.at)
        assert "TensorRT: failed: 2 builds of its engine ended with the process" in said
        assert ".attempt-* in the folder of --trt-cache-dir this one is tried again" in said
        assert str(node.cache) not in said
        assert running.at.metric("stoker_tensorrt_crashed_builds", model="m") == 2
        with RestClient(running.at) as client:
            assert client.send("m", {"x": rows(3)}).answer().status == "OK"
    for each in node.cache.rglob("*.attempt-*"):  # what the sentence says
        each.unlink()
    with node.server() as running:
        node.orders.write_text(BUILD)
        wait_until(lambda: is_in(running.at, "serving"), "an engine that serves")
    assert node.attempts == []


@pytest.mark.slow
def test_a_server_that_is_told_to_end_in_the_middle_of_a_build_counts_for_no_crash(
    node: Node,
) -> None:
    node.crash()
    with node.server() as running:
        wait_until(lambda: node.attempts == ["attempt-1", "attempt-2"], "the second attempt")
        running.process.terminate()
        assert running.process.wait(30) == 0
    assert node.attempts == ["attempt-1"]


@pytest.mark.slow
def test_a_build_that_ends_well_forgets_the_crash_before_it(node: Node) -> None:
    node.crash()
    with node.server() as running:
        node.orders.write_text(BUILD)
        wait_until(lambda: is_in(running.at, "serving"), "an engine that serves")
        assert "TensorRT: ready" in detail(running.at)
    assert node.attempts == []


@pytest.mark.slow
def test_of_two_servers_that_share_a_cache_one_builds_and_the_other_waits_for_it(
    node: Node,
) -> None:
    with node.server() as first:
        wait_until(lambda: node.attempts == ["attempt-1"], "a build")
        with node.server() as second:
            wait_until(
                lambda: "(waits for another process that builds it)" in detail(second.at),
                "a server that waits",
            )
            node.orders.write_text(BUILD)
            wait_until(lambda: is_in(first.at, "serving"), "an engine that serves")
            wait_until(lambda: is_in(second.at, "serving"), "the same engine")
            found = [
                server.at.metric(f"stoker_tensorrt_cache_{each}_total", model="m")
                for server in (first, second)
                for each in ("hits", "misses")
            ]
    assert found == [0, 1, 1, 0]
    assert node.attempts == []
