"""A whole server on the GPU under load: every path that a batch can take gives the right answers.

The traffic itself is held against a server on the CPU in tests/server/test_gpu_traffic.py.
"""

from pathlib import Path

import pytest

from tests.conftest import run_stoker
from tests.gpu import networks
from tests.gpu.conftest import Record
from tests.gpu.traffic import largest_difference
from tests.models import ModelEntry, write_repository

pytestmark = pytest.mark.gpu

ALLOWED = 1e-4
EXACT = 'parameters { key: "use_tf32" value { string_value: "0" } }'
BATCHED = f"max_batch_size: 8 dynamic_batching {{ }} {EXACT}"

PATHS = {
    "plain": BATCHED,
    "graphs": f"{BATCHED} optimization {{ cuda {{ graphs: true }} }}",
    "pair": f"{BATCHED} instance_group {{ kind: KIND_GPU count: 2 }}",
    "delayed": (
        f"max_batch_size: 8 dynamic_batching {{ max_queue_delay_microseconds: 2000 }} {EXACT}"
    ),
    "beside": "max_batch_size: 8 instance_group { kind: KIND_CPU }",
}
"""Names and configurations of the models; `beside` is on the CPU of the same server."""


@pytest.mark.parametrize("name", PATHS)
def test_clients_at_once_get_their_own_rows(
    name: str, tmp_path: Path, record_property: Record
) -> None:
    chosen = {name, "plain"} if name == "beside" else {name}
    entries = {each: ModelEntry(networks.launches(), PATHS[each]) for each in chosen}
    folder = write_repository(tmp_path / "models", entries)
    with run_stoker(str(folder), "--device", "auto", "--drain-delay", "0") as server:
        apart = largest_difference(server.at, name, networks.launches(), (64,), tmp_path)
        rows = server.at.metric("nv_inference_count", model=name)
        runs = server.at.metric("nv_inference_exec_count", model=name)
    record_property("largest difference", apart)
    record_property("rows a batch", rows / runs)
    assert apart <= ALLOWED


def test_convolutions_get_their_own_rows(tmp_path: Path, record_property: Record) -> None:
    folder = write_repository(tmp_path / "models", {"cnn": ModelEntry(networks.cnn(), BATCHED)})
    with run_stoker(str(folder), "--device", "gpu", "--drain-delay", "0") as server:
        apart = largest_difference(server.at, "cnn", networks.cnn(), (3, 32, 32), tmp_path)
    record_property("largest difference", apart)
    assert apart <= ALLOWED
