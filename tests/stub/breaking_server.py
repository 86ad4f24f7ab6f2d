"""`python -m tests.stub.breaking_server serve ...`: Stoker, on a GPU that breaks when it is told.

SIGUSR1 makes the CUDA runtime that stands in answer as BREAK_NAME and BREAK_VALUE say, for example
STUB_CUDA_LAUNCH and 700; SIGUSR2 makes it answer well again. It reads its variables at each call.
"""

import os
import signal
import sys
from types import FrameType

from stoker.cli import main


def break_down(number: int, frame: FrameType | None) -> None:
    """From here on the GPU answers with an error."""
    os.environ[os.environ["BREAK_NAME"]] = os.environ["BREAK_VALUE"]


def recover(number: int, frame: FrameType | None) -> None:
    """From here on it answers well, unless its context is dead."""
    os.environ.pop(os.environ["BREAK_NAME"], None)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, break_down)
    signal.signal(signal.SIGUSR2, recover)
    sys.exit(main())
