"""How long does a server take from its start until it is ready: what must a startup probe allow?

Each server starts `--rounds` times on all cores, as a pod does whose image is on the node: the
models' files are dropped from the page cache before each start, Python and its packages are not.
Models are opened side by side and measured one after the other. A startup probe should allow about
three times the slowest start.

    python -m benchmarks.cold_start [--rounds 5]
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import helper
from stoker.app import DEMO
from stoker.tensor import DataType

from benchmarks import networks
from benchmarks.figures import facts, spread
from benchmarks.rounds import options
from benchmarks.serving import serve
from tests import models

TIMES: Final = 3
"""What a startup probe allows of a measured start. Source: Kubernetes rules, "Probes"."""

MIB: Final = 1 << 20


@dataclass(frozen=True)
class Repository:
    """What a server is started with."""

    what: str
    folder: Path

    @property
    def files(self) -> Iterator[Path]:
        """All of its files."""
        return (each for each in self.folder.rglob("*") if each.is_file())

    def drop(self) -> None:
        """Takes its files out of the page cache."""
        for file in self.files:
            with file.open("rb") as opened:
                os.fsync(opened.fileno())  # what is not written yet stays
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def large(width: int = 1024, depth: int = 25) -> onnx.ModelProto:
    """100 MiB of weights: FP32 x [N,width] -> y [N,width] through `depth` matrices."""
    random = np.random.default_rng(1)
    nodes, weights, at = [], {}, "x"
    for layer in range(depth):
        scaled = random.standard_normal((width, width)) * width**-0.5
        weights[f"w{layer}"] = scaled.astype(np.float32)
        after = "y" if layer == depth - 1 else f"h{layer}"
        nodes.append(helper.make_node("MatMul", [at, f"w{layer}"], [after]))
        at = after
    return models.build(
        nodes,
        [models.tensor("x", DataType.FP32, ["batch", width])],
        [models.tensor("y", DataType.FP32, ["batch", width])],
        weights,
    )


def repositories(folder: Path) -> Iterator[Repository]:
    """From next to nothing to what takes long."""
    yield Repository("the demo models", DEMO)
    wanted: dict[str, tuple[Callable[[], onnx.ModelProto], int]] = {
        "10 small networks (`mlp`)": (networks.mlp, 10),
        "1 network of 100 MiB": (large, 1),
        "1 convolutional network (`resnetlike`)": (networks.resnetlike, 1),
        "4 convolutional networks (`resnetlike`)": (networks.resnetlike, 4),
    }
    for number, (what, (make, count)) in enumerate(wanted.items()):
        model = make()
        named = {f"m{each}": model for each in range(count)}
        yield Repository(what, models.write_repository(folder / str(number), named))


def start(repository: Repository) -> float:
    """Seconds until ready."""
    repository.drop()
    began = time.monotonic()
    with serve(repository.folder, core=None):
        return time.monotonic() - began


def main() -> None:
    """Prints one table."""
    parser = options(__doc__, rounds=5, seconds=0)
    given = parser.parse_args()
    print(facts())
    print()
    print(f"| models | files MiB | ready after s | {TIMES} x the slowest s |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for repository in repositories(Path(folder)):
            ready = [start(repository) for _ in range(given.rounds)]
            size = sum(each.stat().st_size for each in repository.files) / MIB
            print(
                f"| {repository.what} | {size:.1f} | {spread(ready, 1)} "
                f"| {TIMES * max(ready):.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
