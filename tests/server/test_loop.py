"""The event loop answers while models compute and large tensors pass through it.

Only a sanity check of what must never happen: how quick the loop is, is measured in `benchmarks/`.
"""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests import models
from tests.calls import RestClient, rows
from tests.conftest import RunningServer, Serving, sample

ROW_FLOATS = 5_000_000
"""20 MB a row."""
GENEROUS_S = 2.0


def pump(server: RunningServer, first: int, wrong: list[int], stop: threading.Event) -> None:
    """Sends large requests one after another and checks their answers."""
    with RestClient(server.at) as client:
        number = first
        while not stop.is_set():
            given = np.full((1, ROW_FLOATS), number, np.float32)
            answer = client.send("large", {"x": given}).answer().output()
            if answer.tobytes() != given.tobytes():
                wrong.append(number)
            number += 1


@pytest.mark.slow
def test_probes_and_small_requests_are_answered_while_batches_of_20_mb_run(
    serve: Serving, tmp_path: Path
) -> None:
    large = models.identity(shape=("batch", ROW_FLOATS))
    repository = models.write_repository(
        tmp_path / "repository",
        {
            "large": models.ModelEntry(large, "max_batch_size: 4\ndynamic_batching { }\n"),
            "m": models.ModelEntry(models.double(), None),
        },
    )
    server = serve(repository)
    wrong: list[int] = []
    stop = threading.Event()
    pumps = [
        threading.Thread(target=pump, args=(server, 1000 * number, wrong, stop))
        for number in range(3)
    ]
    for each in pumps:
        each.start()
    longest = 0.0
    try:
        with RestClient(server.at) as client:
            while server.at.metric("nv_inference_request_success", model="large") < 40:
                began = time.monotonic()
                assert server.at.probe("/livez")[0] == 200
                answer = client.send("m", {"x": rows(3)}).answer()
                np.testing.assert_array_equal(answer.output(), rows(6))
                longest = max(longest, time.monotonic() - began)
    finally:
        stop.set()
        for each in pumps:
            each.join()
    assert wrong == []
    assert longest < GENEROUS_S
    scraped = server.at.metrics()
    within = sample(scraped, "stoker_loop_lag_seconds_bucket", le="0.5")
    assert sample(scraped, "stoker_loop_lag_seconds_count") == within
