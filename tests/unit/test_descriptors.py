"""How many connections a limit of descriptors allows."""

import pytest
from stoker.descriptors import RESERVED, connections_within


@pytest.mark.parametrize(
    ("wanted", "descriptors", "ports", "connections"),
    [
        (16_384, 1 << 20, 1, 16_384),
        (16_384, 16_384 + RESERVED, 1, 16_384),
        (16_384, 16_384, 1, 16_384 - RESERVED),
        (16_384, 16_384 + RESERVED, 2, 8_192),
        (16_384, 1_024, 1, 512),
        (16_384, 256, 2, 64),
        (100, 256, 1, 100),
        (100, 1, 2, 1),
    ],
)
def test_the_data_ports_share_what_they_leave_to_the_others(
    wanted: int, descriptors: int, ports: int, connections: int
) -> None:
    assert connections_within(wanted, descriptors, ports=ports) == connections
