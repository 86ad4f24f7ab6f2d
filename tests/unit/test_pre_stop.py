"""The length of a preStop hook is read where it is written, and not guessed where it is not."""

import pytest
from stoker.deploy.manifest import JsonObject, JsonValue
from stoker.deploy.pre_stop import PreStop, pre_stop


def container(hook: JsonValue) -> JsonObject:
    return {"lifecycle": {"preStop": hook}}


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["sleep", "30"], PreStop(30)),
        (["/usr/bin/sleep", "1m", "2.5s"], PreStop(62.5)),
        (["sh", "-c", "sleep 30"], PreStop(30)),
        (["/bin/sh", "-ec", "sleep 5\nexec /bin/sleep '1h'; "], PreStop(3605)),
        (["bash", "-c", "sleep 5 && curl x || sleep 1"], PreStop(6, "`curl x`")),
        (["sleep", "infinity"], PreStop(0, "`sleep infinity`")),
        (["sleep"], PreStop(0, "`sleep`")),
        (["sh", "/scripts/sleep", "30"], PreStop(0, "`sh /scripts/sleep 30`")),
        (["sh", "-c", "sleep $SECONDS_TO_WAIT"], PreStop(0, "`sleep $SECONDS_TO_WAIT`")),
        ([], PreStop()),
        ([3], PreStop(0, "`3`")),
    ],
)
def test_a_command_sleeps_as_long_as_it_says(command: JsonValue, expected: PreStop) -> None:
    assert pre_stop(container({"exec": {"command": command}})) == expected


@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        ({"sleep": {"seconds": 7}}, PreStop(7)),
        ({"sleep": {"seconds": "soon"}}, PreStop()),
        ({"httpGet": {"port": 1}}, PreStop(0, "a request of /")),
        ({}, PreStop()),
        ("text", PreStop()),
    ],
)
def test_other_hooks_are_read_too(hook: JsonValue, expected: PreStop) -> None:
    assert pre_stop(container(hook)) == expected
