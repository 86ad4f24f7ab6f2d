"""The server's own fixed bindings on the GPU, against its level 0, for models of each kind.

`tests/unit/test_fixed.py` has the steps on a stand-in for the CUDA runtime.
"""

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.gpu import checks, networks
from tests.gpu.conftest import Record
from tests.gpu.level1 import Level1
from tests.gpu.served import open_on

pytestmark = pytest.mark.gpu

ALLOWED = 1e-5
ROWS = range(1, 9)


@pytest.mark.parametrize(
    ("model", "item"),
    [(networks.cnn(), (3, 32, 32)), (networks.launches(), (64,)), (networks.heavy(64), (1024,))],
    ids=["cnn", "launches", "heavy"],
)
def test_level_1_answers_as_level_0_at_every_batch_size(
    tmp_path: Path, record_property: Record, model: onnx.ModelProto, item: tuple[int, ...]
) -> None:
    session = open_on("cuda:0", tmp_path, model, use_tf32="0")
    level1 = Level1(session)

    apart = [level1.distance(networks.random((rows, *item), rows)) for rows in ROWS]

    x = networks.random((8, *item), 1)
    fixed = checks.seconds_of(lambda: level1.run(x))
    plain = checks.seconds_of(lambda: session.run({"x": x}, ["y"]))
    record_property("largest difference", max(apart))
    record_property("level 1 us", float(np.median(fixed)) * 1e6)
    record_property("level 0 us", float(np.median(plain)) * 1e6)
    level1.close()
    assert max(apart) <= ALLOWED
