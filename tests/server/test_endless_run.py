"""A run that does not end keeps nobody waiting: its client is told, and the process goes."""

import signal
import time
from pathlib import Path

import numpy as np

from tests import models
from tests.calls import RestClient, wait_until
from tests.conftest import run_stoker


def test_sigterm_ends_the_process_while_a_run_goes_on(tmp_path: Path) -> None:
    repository = models.write_repository(tmp_path / "repository", {"m": models.counting()})
    with run_stoker(str(repository), "--drain-delay", "0s", "--drain-timeout", "200ms") as process:
        at = process.at
        with RestClient(at) as client:
            call = client.send("m", {"n": np.array([10**10])})
            wait_until(
                lambda: (
                    at.metric("stoker_model_requests_in_flight", model="m") == 1
                    and at.metric("nv_inference_pending_request_count", model="m") == 0
                ),
                "a run",
            )
            began = time.monotonic()
            process.process.send_signal(signal.SIGTERM)
            answer = call.answer()
            assert (answer.status, "shutting down" in answer.error) == ("503", True)
        assert process.wait() == 0
        assert time.monotonic() - began < 10
