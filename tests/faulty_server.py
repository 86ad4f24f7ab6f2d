"""`python -m tests.faulty_server serve ...`: a whole server process with the fake runtime's GPU.

The process is Stoker's own in all but ONNX Runtime: the same settings, ports, signals and end. A
model runs on `cuda:0`, one whose name begins with `cpu` on the CPU. What a run does, its data say,
the first value of `x`:

    GOOD     y = 2x
    STICKY   the device's context dies in it
    HANGS    it does not end
    WAITS    it takes WAIT_S
"""

import sys
import threading
import time
from collections.abc import Mapping

from stoker.arguments import parse_settings
from stoker.errors import DeviceFailed, Reach
from stoker.model import ModelConfig
from stoker.process import serve
from stoker.runtime.session import Placement
from stoker.tensor import Array

from tests.fake_runtime import FakeModel, FakeRuntime, double

GOOD, STICKY, HANGS, WAITS = 1.0, 700.0, 600.0, 30.0
WAIT_S = 30.0
"""Longer than a process with a dead GPU may live."""
SENTENCE = "CUDA failure 700: an illegal memory access was encountered"


def compute(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
    """What a run does."""
    value = feeds["x"].flat[0]
    if value == STICKY:
        raise DeviceFailed(SENTENCE, reach=Reach.PROCESS)
    if value == HANGS:
        threading.Event().wait()
    if value == WAITS:
        time.sleep(WAIT_S)
    return double(feeds)


class FaultyRuntime(FakeRuntime):
    """Places models by their names."""

    def place(self, config: ModelConfig) -> tuple[Placement, ...]:
        if config.name.startswith("cpu"):
            return (Placement("cpu", 1, 2),)  # with one thread it would run on the event loop
        return (Placement("cuda:0", 1, 1),)


def main() -> int:
    """The exit code, where the process ends by returning."""
    settings = parse_settings("serve", sys.argv[2:])
    return serve(settings, runtime=FaultyRuntime(FakeModel(compute=compute)))


if __name__ == "__main__":
    sys.exit(main())
