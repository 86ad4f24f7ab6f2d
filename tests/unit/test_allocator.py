"""Large messages that come and go do not fault their pages in anew."""

import subprocess
import sys

import pytest
from stoker.allocator import keep_freed_memory

_PROGRAM = """
import resource, numpy
from stoker.allocator import keep_freed_memory
keep_freed_memory()
def round():
    held = [numpy.ones(600_000, numpy.uint8) for _ in range(16)]
round()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    round()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_messages_that_come_and_go_fault_no_pages() -> None:
    if not keep_freed_memory():
        pytest.skip("the C library is not glibc")
    said = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True
    ).stdout
    assert int(said) < 50 * 16
