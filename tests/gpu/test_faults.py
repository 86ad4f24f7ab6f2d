"""A dead context: how it shows, and that its process has to end."""

import pytest

from tests.gpu.child import run_child
from tests.gpu.conftest import Record

pytestmark = pytest.mark.gpu


def test_an_illegal_address_is_sticky_and_ends_the_process(record_property: Record) -> None:
    result = run_child("illegal_address")

    for name, value in result.facts.items():
        record_property(name, value)
    assert result.code == 70, result
    assert result.facts["before"] == [[1.0] * 4]
    assert result.facts["fault"] == "sticky"
    assert result.facts["query"] != 0
    assert result.facts["after"] == "sticky"


def test_a_process_beside_a_dead_one_is_not_harmed(record_property: Record) -> None:
    run_child("illegal_address")

    result = run_child("graphs")

    record_property("code", result.code)
    assert result.code == 0, result
