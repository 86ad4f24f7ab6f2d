"""Numbers and axes of the drawn dashboard."""

import math

import numpy as np
import pytest
from PIL import Image

from scripts.draw_dashboard import reduced
from scripts.drawing.values import step_colour, ticks, written


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0, "s", "0 s"),
        (0.0421, "s", "42.1 ms"),
        (2.5e-05, "s", "25 µs"),
        (0.655, "percentunit", "65.5 %"),
        (0.00123, "percentunit", "0.12 %"),
        (123.4, "reqps", "123 req/s"),
        (12_345.0, "reqps", "12.3 k req/s"),
        (3 * 2**20, "bytes", "3 MiB"),
        (1.98e9, "hertz", "1.98 GHz"),
        (3_725.0, "dtdurations", "1 h 2 min"),
        (7.0, "short", "7"),
        (math.nan, "short", "-"),
    ],
)
def test_values_are_written_with_their_unit(value: float, unit: str, text: str) -> None:
    assert written(value, unit) == text


def test_an_axis_has_a_few_round_values_within_its_range() -> None:
    assert ticks(0, 1) == [0, 0.25, 0.5, 0.75, 1.0]
    assert ticks(0, 7.3) == [0, 2, 4, 6]
    assert ticks(5, 5) == [5]
    assert ticks(0, 4 * 2**20, binary=True) == [each * 2**20 for each in range(5)]


def test_a_threshold_colours_from_its_value_on() -> None:
    steps = ((None, "green"), (0.65, "yellow"), (1.0, "red"))
    green, yellow, red = (step_colour(steps, value) for value in (0.6499, 0.65, 1.2))
    assert len({green, yellow, red}) == 3
    assert step_colour((), 3.0) == green


def test_a_thin_line_and_an_area_keep_their_colours_in_a_picture_of_few_colours() -> None:
    purple, dark = (184, 119, 217), (24, 27, 31)
    numbers = np.random.default_rng(1)
    grey = numbers.integers(0, 256, (300, 300, 1)) + numbers.integers(-12, 12, (300, 300, 3))
    pixels = np.clip(grey, 0, 255).astype(np.uint8)
    pixels[200:] = dark
    pixels[100, :3] = purple

    found = np.asarray(reduced(Image.fromarray(pixels)).convert("RGB")).astype(int)

    assert np.abs(found[100, :3] - purple).max() <= 8
    assert np.abs(found[200:] - dark).max() <= 2
