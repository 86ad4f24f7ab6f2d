"""What the checks on hardware share: each skips, with the reason, where there is no GPU."""

from collections.abc import Callable, Iterator

import pytest

from tests.gpu.checks import runtime
from tests.gpu.cudart import Cudart
from tests.gpu.hardware import Hardware, hardware

Record = Callable[[str, object], None]
"""`record_property`: puts a number into the report."""


@pytest.fixture(autouse=True)
def gpu() -> Hardware:
    """The machine, which has a GPU that ONNX Runtime can use."""
    found = hardware()
    if found.absence:
        pytest.skip(found.absence)
    return found


@pytest.fixture
def cuda(gpu: Hardware) -> Cudart:
    """The CUDA runtime that ONNX Runtime loaded, on the first GPU."""
    assert gpu.gpus
    runtime()  # loads the CUDA runtime that came as a wheel
    made = Cudart()
    made.set_device(0)
    return made


@pytest.fixture
def stream(cuda: Cudart) -> Iterator[int]:
    """A stream of the first GPU. Sessions that use it end before the test does."""
    made = cuda.stream()
    yield made
    cuda.destroy(made)
