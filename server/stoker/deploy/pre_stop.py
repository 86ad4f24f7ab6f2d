"""How long a container's preStop hook takes, as far as a manifest tells.

For `stoker k8s lint`: the hook runs before SIGTERM and its time is a part of the grace period.
Source: Kubernetes, "Container lifecycle hooks"; sleep(1) of GNU coreutils.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from stoker.deploy.manifest import JsonObject, mapping, text, texts

SHELLS: Final = ("sh", "bash", "dash", "ash", "zsh")
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_TIME: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhd]?)")
_ENDS: Final = re.compile(r"&&|\|\||[;\n]")
"""Between the commands of a script that run one after the other."""


@dataclass(frozen=True, slots=True)
class PreStop:
    """A preStop hook, or none."""

    sleeps_s: float = 0.0
    """What it sleeps; at least so long it takes."""
    unknown: str = ""
    """The part of it whose length is not written; empty where all of it is known."""


def pre_stop(container: JsonObject) -> PreStop:
    """The hook of a container; without one, a hook of no time."""
    hook = mapping(container, "lifecycle", "preStop")
    slept = _TIME.fullmatch(text(hook, "sleep", "seconds"))
    if slept is not None:
        return PreStop(float(slept[1]))
    if "httpGet" in hook:
        return PreStop(unknown=f"a request of {text(hook, 'httpGet', 'path') or '/'}")
    command = texts(hook, "exec", "command")
    script = _script(command)
    runs = [each.split() for each in _ENDS.split(script)] if script else [command]
    sleeps, unknown = 0.0, ""
    for words in filter(None, runs):
        seconds = _sleep_s(words)
        sleeps += seconds or 0.0
        if seconds is None and not unknown:
            unknown = f"`{' '.join(words)}`"
    return PreStop(sleeps, unknown)


def _script(command: list[str]) -> str:
    """What a shell is given by `-c`; empty where the command is none."""
    if len(command) < 3 or PurePosixPath(command[0]).name not in SHELLS:
        return ""
    options = [word for word in command[1:-1] if word.startswith("-") and word.endswith("c")]
    return command[-1] if options else ""


def _sleep_s(words: list[str]) -> float | None:
    """Seconds of `sleep 30`, `exec /bin/sleep 1m 30s`; None for any other command."""
    if words[0] == "exec":
        words = words[1:]
    if not words or PurePosixPath(words[0]).name != "sleep":
        return None
    times = [_TIME.fullmatch(word.strip("\"'")) for word in words[1:]]
    if not times or None in times:
        return None
    return sum(float(each[1]) * _UNITS[each[2]] for each in times if each is not None)
