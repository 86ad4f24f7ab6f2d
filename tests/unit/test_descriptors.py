"""How many REST connections a limit of descriptors allows."""

import pytest
from stoker.descriptors import RESERVED, connections_within


@pytest.mark.parametrize(
    ("wanted", "descriptors", "connections"),
    [
        (16_384, 1 << 20, 16_384),
        (16_384, 16_384 + RESERVED, 16_384),
        (16_384, 16_384, 16_384 - RESERVED),
        (16_384, 1_024, 512),
        (16_384, 256, 128),
        (100, 256, 100),
        (100, 1, 1),
    ],
)
def test_rest_leaves_descriptors_to_the_others(
    wanted: int, descriptors: int, connections: int
) -> None:
    assert connections_within(wanted, descriptors) == connections
