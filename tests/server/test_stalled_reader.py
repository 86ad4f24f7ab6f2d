"""A client that does not read its answer gets its own bytes when it does, and costs little memory.

Large answers are views of pooled output buffers (`engine/outputs.py`) that leave the process when
the client's socket has room. A buffer that were used again too early would send one client the
answer of another.
"""

import http.client
import socket
from pathlib import Path

import numpy as np
import pytest
from stoker.tensor import Array

from tests import models
from tests.calls import (
    PATIENCE,
    GrpcClient,
    RestClient,
    rest_answer,
    rest_request,
    statistics,
    wait_until,
)
from tests.conftest import RunningServer, Serving

ITEM = 1 << 16
"""Floats a row: 256 KiB, above the size from which outputs live in pooled buffers."""
LARGE_ROWS = 64
"""16 MiB: more than the kernel buffers of a connection hold."""
BATCHES = 1000
GROWTH_BYTES = 128 << 20
"""What memory may grow by during the batches: they make 560 MiB in all."""


def numbered(size: int, first: int) -> Array:
    """FP32 [size, ITEM]; no two rows of different `first` are alike."""
    return np.arange(first, first + size, dtype=np.float32)[:, None] + np.linspace(
        0, 0.5, ITEM, dtype=np.float32
    )


class StalledReader:
    """Sends a request over a connection of tiny buffers and reads nothing."""

    def __init__(self, server: RunningServer, given: Array) -> None:
        self.given = given
        plug = socket.socket()
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plug.settimeout(PATIENCE)
        plug.connect(("127.0.0.1", server.at.http_port))
        self._connection = http.client.HTTPConnection("127.0.0.1", server.at.http_port)
        self._connection.sock = plug
        path, headers, body = rest_request("m", {"x": given})
        self._connection.request("POST", path, body, headers)

    def read(self) -> Array:
        """Reads at last."""
        response = self._connection.getresponse()
        answer = rest_answer(response, response.read())
        self._connection.close()
        return answer.output()


def wait_for_answers(server: RunningServer, count: int) -> None:
    wait_until(lambda: statistics(server).success_count == count, f"{count} answers")


def resident_bytes(server: RunningServer) -> float:
    return server.at.metric("stoker_process_resident_memory_bytes")


@pytest.mark.slow
@pytest.mark.parametrize("readers", [1, 6], ids=["one", "more than there are buffers"])
def test_a_stalled_reader_gets_its_own_bytes_after_a_thousand_more_batches(
    serve: Serving, tmp_path: Path, readers: int
) -> None:
    held_by_kernel = int(Path("/proc/sys/net/ipv4/tcp_wmem").read_text().split()[2])
    assert held_by_kernel < LARGE_ROWS * ITEM * 4, "the kernel would take the whole answer"
    entry = models.ModelEntry(
        models.identity(shape=("batch", ITEM)), f"max_batch_size: {LARGE_ROWS}\n"
    )
    server = serve(models.write_repository(tmp_path / "repository", {"m": entry}))
    stalled = []
    for number in range(readers):
        stalled.append(StalledReader(server, numbered(LARGE_ROWS, 1000 * number)))
        wait_for_answers(server, number + 1)
    with RestClient(server.at) as rest, GrpcClient(server.at) as grpc:
        before = resident_bytes(server)
        for number in range(BATCHES):
            size = 1 if number % 50 else LARGE_ROWS  # one that overwrites all of a buffer
            given = numbered(size, 100_000 + number)
            client = rest if number % 10 != 1 else grpc
            answer = client.send("m", {"x": given}).answer().output()
            assert answer.tobytes() == given.tobytes()
        grown = resident_bytes(server) - before
    assert statistics(server).execution_count >= BATCHES + readers
    assert grown < GROWTH_BYTES
    for reader in stalled:
        assert reader.read().tobytes() == reader.given.tobytes()


def test_readers_that_go_away_without_reading_give_their_buffers_back(
    serve: Serving, tmp_path: Path
) -> None:
    entry = models.ModelEntry(
        models.identity(shape=("batch", ITEM)), f"max_batch_size: {LARGE_ROWS}\n"
    )
    server = serve(models.write_repository(tmp_path / "repository", {"m": entry}))
    given = numbered(LARGE_ROWS, 0)
    with RestClient(server.at) as client:
        client.send("m", {"x": given}).answer().output()
        before = resident_bytes(server)
        for number in range(1, 31):  # half a gigabyte in all
            reader = client.send("m", {"x": given})
            wait_for_answers(server, number + 1)
            reader.cancel()
            assert server.at.probe("/livez")[0] == 200
        assert resident_bytes(server) - before < GROWTH_BYTES
        np.testing.assert_array_equal(client.send("m", {"x": given}).answer().output(), given)
