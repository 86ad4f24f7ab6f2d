"""How many users there are as a run of Locust goes on.

Not a benchmark itself: `locustfile` takes a shape by its option `--shape`. A shape is a function
from the share of the run that is over to the share of the users that are there. It knows nothing of
Locust, whose import patches the process.
"""

import math
from collections.abc import Callable, Mapping
from typing import Final

STEPS: Final = 50
"""A ramp changes the number of users so often: each change is work for Locust."""


def ramp(over: float) -> float:
    """From few users to all: where latency bends is what the server takes."""
    return math.ceil(over * STEPS) / STEPS


def spike(over: float) -> float:
    """A tenth of the users, all of them in the middle fifth: is the server well afterwards?"""
    return 1.0 if 0.4 <= over < 0.6 else 0.1


def soak(over: float) -> float:
    """All users from start to end, for hours: does anything grow?"""
    return 1.0


SHAPES: Final[Mapping[str, Callable[[float], float]]] = {"ramp": ramp, "spike": spike, "soak": soak}
