"""A model on a GPU is prepared before it is ready: its bindings warmed, its graphs captured."""

from pathlib import Path

import numpy as np
from stoker.errors import DeviceFailed, ExecutionFailed
from stoker.runtime.cuda_graphs import GraphSupport
from stoker.runtime.session import Placement

from tests.calls import BATCHING, RestClient, ServeFake, fake_repository, rows, wait_until
from tests.conftest import Serving
from tests.fake_runtime import FakeRuntime

GPU = (Placement("cuda:0", 1, 1),) * 2
WANTED = GraphSupport(is_wanted=True)


def test_graphs_are_captured_before_the_server_is_ready(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    runtime.placements = GPU
    runtime.model.graphs = WANTED
    server = serve_fake()
    assert all(session.captured for session in runtime.sessions)
    with RestClient(server.at) as client:
        for value in range(4):
            got = client.send("m", {"x": rows(value)}).answer().output()
            np.testing.assert_array_equal(got, rows(2 * value))


def test_a_graph_that_cannot_be_captured_keeps_nobody_from_being_served(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    runtime.placements = GPU
    runtime.model.graphs = WANTED
    runtime.model.capture_error = lambda rows: ExecutionFailed("CUDA failure 900")
    server = serve_fake()
    with RestClient(server.at) as client:
        np.testing.assert_array_equal(client.send("m", {"x": rows(3)}).answer().output(), rows(6))


def test_a_device_that_breaks_while_a_model_is_prepared_fails_the_load_and_frees_it(
    serve: Serving, runtime: FakeRuntime, tmp_path: Path
) -> None:
    runtime.placements = GPU
    runtime.model.graphs = WANTED
    runtime.model.capture_error = lambda rows: DeviceFailed("the GPU is gone")
    server = serve(fake_repository(tmp_path, BATCHING), runtime=runtime, wait=False)
    wait_until(lambda: "the GPU is gone" in server.at.probe("/readyz")[1], "the reason")
    wait_until(lambda: all(session.closed for session in runtime.sessions), "closed sessions")
