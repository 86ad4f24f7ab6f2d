"""The check of the server's hot path, on the CPU's memory."""

from pathlib import Path

import onnx
import pytest

from tests.gpu import networks
from tests.gpu.level1 import Level1
from tests.models import open_on_cpu


@pytest.mark.parametrize(
    ("model", "width"),
    [(networks.launches(depth=4), 64), (networks.increment(1 << 13), 1 << 13)],
    ids=["copied", "lent"],
)
def test_fixed_bindings_answer_as_plain_runs_at_every_batch_size(
    tmp_path: Path, model: onnx.ModelProto, width: int
) -> None:
    level1 = Level1(open_on_cpu(tmp_path, model))

    apart = [level1.distance(networks.random((rows, width), rows)) for rows in range(1, 9)]

    level1.close()
    assert max(apart) <= 1e-6


def test_a_model_without_fixed_shapes_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="input 'x' has no fixed shape"):
        Level1(open_on_cpu(tmp_path, networks.increment()))
