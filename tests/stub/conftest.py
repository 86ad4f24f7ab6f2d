"""Tests of the real CUDA provider without a GPU; they run in an environment of their own.

`make test-stub` makes it: onnxruntime-gpu and the CUDA libraries, 2.4 GB, cannot stand beside the
CPU package. There a driver, and where a test needs it a CUDA runtime, of our own take the place of
NVIDIA's, each in a process of its own. What the provider said is kept in `tests/recorded/`, which
`make test` reads; `RECORD_TEXTS=1` writes it anew.
"""

from pathlib import Path

import pytest
from stoker.runtime.installation import installed_distributions

from tests.stub.libraries import Libraries, build_libraries

REASON = "needs onnxruntime-gpu and CUDA's libraries: make test-stub"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the tests of this folder where the CPU package is installed."""
    if installed_distributions() == ("onnxruntime-gpu",):
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=REASON))


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Libraries:
    """The libraries that stand in, built for this run."""
    return build_libraries(tmp_path_factory.mktemp("libraries"))
