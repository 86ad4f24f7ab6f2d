"""Runs simulations, several at one time, and remembers them: a sweep can be broken off and go on.

A run is fixed by its case, so its result can be kept in a file under a key of everything that it
depends on, the product's code and this folder's among it.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import stoker

from benchmarks.scaling.cases import trace_named
from benchmarks.scaling.hpa import Spec
from benchmarks.scaling.signals import Signal
from benchmarks.scaling.simulation import Moment, Result, Simulation

CODE: Final = (
    Path(__file__).parent,
    Path(stoker.__file__).parent / "engine",
    Path(stoker.__file__).parent / "telemetry",
)
NOT_OF_A_RUN: Final = frozenset({"cases.py", "runs.py", "search.py", "report.py", "plot.py"})
"""Modules of this folder that say which runs there are and what becomes of them."""


@dataclass(frozen=True)
class Case:
    """One run to be made."""

    trace: str
    signal: Signal
    hpa: Spec
    seed: int
    scale: float = 1.0
    """Of the trace's length."""

    def run(self) -> Result:
        """Makes it."""
        return Simulation(
            trace_named(self.trace, self.scale), self.signal, self.hpa, self.seed
        ).run()


class Runs:
    """Results, made once each."""

    def __init__(
        self, *, jobs: int = 1, kept: Path | None = None, say: Callable[[str], object] = str
    ) -> None:
        """`kept` is a file of results, used and added to; None: they are forgotten. `say` is told
        of each run that is made."""
        self._jobs = jobs
        self._kept = kept
        self._say = say
        self._code = code_hash()
        self._results: dict[str, Result] = {}
        self._read_bytes = 0

    def of(self, cases: Iterable[Case]) -> list[Result]:
        """The results, in the order of the cases."""
        self._read()
        wanted = list(cases)
        keys = [self._key(case) for case in wanted]
        missing = {
            key: case for key, case in zip(keys, wanted, strict=True) if key not in self._results
        }
        if self._jobs == 1 or len(missing) < 2:
            for key, case in missing.items():
                self._read()  # another sweep may have made it meanwhile
                if key not in self._results:
                    self._keep(key, case.run())
        else:
            with ProcessPoolExecutor(self._jobs) as pool:
                self._make(pool, missing)
        return [self._results[key] for key in keys]

    def _make(self, pool: Executor, missing: Mapping[str, Case]) -> None:
        """As many at one time as there are jobs; those that another sweep makes meanwhile are left
        out."""
        running: dict[Future[Result], str] = {}
        waiting = iter(missing.items())
        while True:
            self._read()
            for key, case in waiting:
                if key not in self._results:
                    running[pool.submit(case.run)] = key
                    if len(running) == self._jobs:
                        break
            if not running:
                return
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                self._keep(running.pop(done), done.result())

    def _read(self) -> None:
        """Takes what was added to the file since the last look."""
        if self._kept is None or not self._kept.exists():
            return
        with self._kept.open("rb") as file:
            file.seek(self._read_bytes)
            for line in file:
                if line.endswith(b"\n"):
                    self._read_bytes += len(line)
                    stored = json.loads(line)
                    self._results[stored["key"]] = _result(stored["result"])

    def _key(self, case: Case) -> str:
        models = [model.costs for model in trace_named(case.trace, case.scale).models]
        return hashlib.sha256(f"{self._code}/{case!r}/{models!r}".encode()).hexdigest()[:32]

    def _keep(self, key: str, result: Result) -> None:
        self._results[key] = result
        self._say(
            f"{result.trace}, {result.signal}, seed {result.seed}: "
            f"{result.gpu_hours:.2f} GPU hours, {100 * result.late_share:.2f} % late"
        )
        if self._kept is not None:
            self._kept.parent.mkdir(parents=True, exist_ok=True)
            with self._kept.open("a") as file:
                file.write(json.dumps({"key": key, "result": asdict(result)}) + "\n")


def code_hash() -> str:
    """Of everything that a run's result depends on beside its case."""
    digest = hashlib.sha256()
    for folder in CODE:
        for path in sorted(folder.rglob("*.py")):
            if path.name not in NOT_OF_A_RUN:
                digest.update(path.read_bytes())
    return digest.hexdigest()


def _result(stored: dict[str, Any]) -> Result:
    moments = tuple(Moment(**moment) for moment in stored.pop("moments"))
    return Result(**stored, moments=moments)
