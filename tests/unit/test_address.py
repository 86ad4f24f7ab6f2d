"""Endpoints as URLs have them."""

import pytest
from stoker.address import joined, reachable


@pytest.mark.parametrize(
    ("host", "where", "reached"),
    [
        ("127.0.0.1", "127.0.0.1:80", "127.0.0.1:80"),
        ("0.0.0.0", "0.0.0.0:80", "0.0.0.0:80"),
        ("stoker.example", "stoker.example:80", "stoker.example:80"),
        ("::1", "[::1]:80", "[::1]:80"),
        ("fd00::7", "[fd00::7]:80", "[fd00::7]:80"),
        ("::", "[::]:80", "[::1]:80"),
    ],
)
def test_an_address_of_ipv6_stands_in_brackets(host: str, where: str, reached: str) -> None:
    assert joined(host, 80) == where
    assert reachable(host, 80) == reached
