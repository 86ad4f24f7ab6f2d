"""Cost curves as the server measured them, kept as data for the simulation.

    python -m benchmarks.scaling.measured      # measures again, and writes curves.json; 3 minutes

It starts `stoker serve` on one core with two of the benchmarks' networks and reads from its log
what warm-up measured: the same code, runs and limits as in production. It does so several times and
keeps the least of each size, since a neighbour on the machine disturbs a whole start.

The simulation stretches a curve in time. What matters to an autoscaler is its form, and its seconds
beside the latency target and the time that a pod takes to start; and with some 10 ms a row an hour
has 10^5 requests and not 10^8.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import onnx
import stoker
from stoker.engine.cost_curve import CostCurve
from stoker.engine.policy import KNEE_LIMIT

from benchmarks import networks
from benchmarks.figures import facts

Points: TypeAlias = tuple[tuple[int, float], ...]

FILE: Final = Path(__file__).with_name("curves.json")
SIDE: Final = 64
STARTS: Final = 5
END_S: Final = 60


@dataclass(frozen=True)
class Measured:
    """One network's curve."""

    name: str
    costs: Points
    """(rows, seconds) of a run."""

    @property
    def gain(self) -> float:
        """How many times more rows a second the server's largest batch gives than single rows."""
        rows = CostCurve(self.costs).knee(KNEE_LIMIT)
        known = dict(self.costs)
        return known[1] * rows / known[rows]

    def stretched(self, factor: float) -> Points:
        """The same form in so many times the time."""
        return tuple((rows, seconds * factor) for rows, seconds in self.costs)


def load(path: Path = FILE) -> dict[str, Measured]:
    """The stored curves by name."""
    stored = json.loads(path.read_text())
    return {
        name: Measured(name, tuple((int(rows), float(seconds)) for rows, seconds in points))
        for name, points in stored["curves"].items()
    }


def measure(core: int = 0) -> dict[str, Points]:
    """What a server on one core finds at warm-up, by model."""
    made = {"mlp": networks.mlp(), "resnetlike": networks.resnetlike(SIDE)}
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for name, model in made.items():
            files.append(str(Path(folder) / f"{name}.onnx"))
            onnx.save(model, files[-1])
        command = ["taskset", "-c", str(core), sys.executable, "-m", "stoker", "serve", *files]
        for port in ("--http-port", "--grpc-port", "--metrics-port"):
            command += [port, "0"]
        command += ["--host", "127.0.0.1", "--log-format", "json", "--log-level", "debug"]
        with tempfile.TemporaryFile("w+") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
            assert process.stdout is not None
            lines = []
            try:
                for line in process.stdout:
                    lines.append(line)
                    if '"ready"' in line or "stoker ready" in line:
                        break
            finally:
                process.terminate()
                process.wait(END_S)
                process.stdout.close()
            log.seek(0)
            lines += log.readlines()
    return curves_in(lines)


def curves_in(log: Sequence[str]) -> dict[str, Points]:
    """The curves that a server's log tells of (event `cost_curve`, level debug)."""
    found: dict[str, Points] = {}
    for line in log:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and record.get("event") == "cost_curve":
            found[record["model"]] = tuple(_point(text) for text in record["costs"])
    return found


def least(these: Points, those: Points) -> Points:
    """The smaller seconds of each number of rows."""
    known = dict(these)
    for rows, seconds in those:
        known[rows] = min(seconds, known.get(rows, seconds))
    return tuple(sorted(known.items()))


def _point(text: str) -> tuple[int, float]:
    match = re.fullmatch(r"(\d+) rows (\S+) ms", text)
    if match is None:
        raise ValueError(f"expected '<rows> rows <milliseconds> ms', got '{text}'")
    return int(match[1]), float(match[2]) / 1e3


def main() -> None:
    """Measures and stores."""
    found: dict[str, Points] = {}
    for _ in range(STARTS):
        found = {name: least(found.get(name, ()), points) for name, points in measure().items()}
    if len(found) < 2:
        sys.exit(f"expected the curves of two models in the server's log, got {sorted(found)}")
    stored = {
        "command": "python -m benchmarks.scaling.measured",
        "version": stoker.__version__,
        "machine": f"the server on one core, least of {STARTS} starts; {facts()}",
        "curves": found,
    }
    FILE.write_text(json.dumps(stored, indent=1) + "\n")
    for name, points in found.items():
        one = Measured(name, points)
        print(f"{name}: {one.costs[0][1] * 1e3:.3f} ms for one row, batches gain {one.gain:.1f}")


if __name__ == "__main__":
    main()
