"""The load shapes of benchmarks/locustfile.py, shares of its users over a run; and its mixes."""

from collections.abc import Callable

import pytest

from benchmarks.fitting_requests import weights
from benchmarks.load_shapes import SHAPES, STEPS, ramp, spike


@pytest.mark.parametrize("shape", SHAPES.values())
def test_a_shape_is_a_share_all_along_the_run(shape: Callable[[float], float]) -> None:
    assert all(0 <= shape(over / 1000) <= 1 for over in range(1000))


def test_a_ramp_never_falls_and_ends_with_all_users() -> None:
    shares = [ramp(over / 1000) for over in range(1000)]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert len(set(shares)) <= STEPS + 1


def test_a_spike_is_as_calm_afterwards_as_before() -> None:
    assert spike(0.5) == 1
    assert spike(0.2) == spike(0.8) < 0.5


def test_a_mix_is_names_with_weights() -> None:
    assert weights("digits=3, simple") == {"digits": 3, "simple": 1}


@pytest.mark.parametrize("text", ["", "digits=", "=3", "digits=x", "digits,,simple"])
def test_a_malformed_mix_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="NAME=WEIGHT"):
        weights(text)
