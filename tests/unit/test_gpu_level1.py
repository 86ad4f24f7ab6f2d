"""The check of the server's hot path, on the CPU's memory."""

from pathlib import Path

from tests.gpu import networks
from tests.gpu.level1 import Level1
from tests.models import open_on_cpu


def test_fixed_bindings_answer_as_plain_runs_at_every_batch_size(tmp_path: Path) -> None:
    level1 = Level1(open_on_cpu(tmp_path, networks.launches(depth=4)))

    apart = [level1.distance(networks.random((rows, 64), rows)) for rows in range(1, 9)]

    assert max(apart) <= 1e-6
