"""A real Prometheus on a free port, and its HTTP API.

It listens on port 0 and says in its log which it got.
"""

import contextlib
import json
import math
import re
import subprocess
import threading
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias, cast

import yaml

from tests.tools import PATIENCE, require_tool

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

READY: Final = "Server is ready to receive web requests"
_LISTENING: Final = re.compile(r'msg="Listening on" address=\S+:(\d+)')
_KEPT_LINES: Final = 50


@dataclass(frozen=True)
class Value:
    """One series of a query's answer at one moment."""

    labels: Mapping[str, str]
    value: float


class Prometheus:
    """A Prometheus that runs: queries at the present moment, in its own words."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str, **parameters: str) -> JsonValue:
        """The `data` of an endpoint of `/api/v1`."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=PATIENCE) as response:
            return cast("JsonValue", json.load(response)["data"])

    def query(self, expression: str) -> list[Value]:
        """The vector or scalar that an expression gives. Raises HTTPError where it is wrong."""
        data = self.get("query", query=expression)
        assert isinstance(data, dict)
        result = data["result"]
        assert isinstance(result, list)
        if data["resultType"] == "scalar":
            return [Value({}, float(str(result[1])))]
        values = []
        for each in result:
            assert isinstance(each, dict)
            labels, pair = each["metric"], each["value"]
            assert isinstance(labels, dict)
            assert isinstance(pair, list)
            text = {key: str(value) for key, value in labels.items()}
            values.append(Value(text, float(str(pair[1]))))
        return values

    def finite(self, expression: str) -> list[Value]:
        """As `query`, without the series whose value is no finite number."""
        return [each for each in self.query(expression) if math.isfinite(each.value)]

    def scrapes_of(self, job: str) -> tuple[int, int]:
        """Scrapes of a job's targets since the start that were stored, and those that failed."""
        good = self.query(f'sum(sum_over_time(up{{job="{job}"}}[1h]))')
        every = self.query(f'sum(count_over_time(up{{job="{job}"}}[1h]))')
        if not good or not every:
            return 0, 0
        return round(good[0].value), round(every[0].value - good[0].value)


@contextlib.contextmanager
def run_prometheus(
    folder: Path,
    config: Mapping[str, object],
    *flags: str,
    prefix: Sequence[str] = (),
) -> Iterator[Prometheus]:
    """Runs Prometheus with this configuration, its data under `folder`, until the block ends.

    `prefix` is put before the command, such as `taskset`. Skips the test where it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    command = [
        *prefix, require_tool("prometheus"),
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
        *flags,
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    watchdog = threading.Timer(PATIENCE, process.kill)
    watchdog.start()
    said: deque[str] = deque(maxlen=_KEPT_LINES)
    port, is_ready = 0, False
    try:
        for line in process.stderr:
            said.append(line)
            if match := _LISTENING.search(line):
                port = int(match[1])
            is_ready |= READY in line
            if port and is_ready:  # either comes first
                break
        watchdog.cancel()
        assert port, f"prometheus was not ready: {''.join(said)}"
        reader = threading.Thread(target=said.extend, args=(process.stderr,), daemon=True)
        reader.start()
        yield Prometheus(port)
    finally:
        watchdog.cancel()
        process.terminate()
        process.wait(PATIENCE)
        if port:
            reader.join()
        process.stderr.close()
