"""Starts a server with the user's models, waits until it is ready, and reads what that took.

A child process runs `stoker serve` as the pod will, so the numbers are those of the real thing:
loads, warm-up, proof and cost curve included. Only what any client could ask is asked: its log, its
metrics, the models' metadata and configuration; and the kernel for the process's memory.
"""

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import IO, Final, cast

from prometheus_client.parser import text_string_to_metric_families

from stoker.client.connection import ClientError, connect
from stoker.deploy.manifest import JsonObject, number, objects, text
from stoker.deploy.measurement import MeasuredModel, Measurement
from stoker.model import ModelMetadata
from stoker.tensor import DataType, TensorSpec

PATIENCE_S: Final = 900.0
"""How long a start may take. Engines of TensorRT, which take longest, are built while it serves."""
CALL_S: Final = 30.0
STOP_S: Final = 60.0

_ANSWERS: Final = 200
Series = Mapping[str, Sequence[tuple[Mapping[str, str], float]]]
"""Samples by the metric's name: labels and value."""


class MeasuringFailed(Exception):
    """Why the models could not be measured, for the user."""


def measure(
    sources: Sequence[str],
    *,
    device: str,
    flags: Sequence[str] = (),
    cpus: int | None = None,
    patience_s: float = PATIENCE_S,
    tell: Callable[[str], None] = lambda sentence: None,
) -> Measurement:
    """Serves these sources on this machine until it is ready. `device`: `cpu` or `auto`, which
    takes a GPU where there is one; `flags` are more arguments of `stoker serve`; `cpus` are the
    most processors that it gets, those of the pod; None: all. `tell` gets what goes on. Raises
    MeasuringFailed."""
    words = ["serve", *sources, "--device", device, "--host", "127.0.0.1", "--exit-on-error"]
    words += ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    words += ["--log-format", "json", "--log-level", "info", "--drain-delay", "0", *flags]
    began = time.monotonic()
    with _running(words, cpus, patience_s) as process:
        assert process.stdout is not None
        ready = _ready(process.stdout, tell, patience_s)
        start_s = time.monotonic() - began
        peak = _peak_bytes(process.pid)
        try:
            series = parse_series(_get(text(ready, "metrics"), "/metrics"))
            models = tuple(_models(series, text(ready, "http")))
        except (ClientError, OSError, HTTPException, ValueError) as error:
            raise MeasuringFailed(f"the server was ready and did not answer: {error}") from error
    if peak is None:
        peak = int(next((value for _, value in series["stoker_process_resident_memory_bytes"]), 0))
    gpu_name = next(
        (labels["device_name"] for labels, _ in series["stoker_model_info"] if _is_gpu(labels)), ""
    )
    quota = next((value for _, value in series.get("stoker_container_cpu_limit_cores", ())), None)
    used = min(quota or math.inf, len(_affinity()), cpus or math.inf)
    return Measurement(
        machine=machine(used, gpu_name, Path("/proc")),
        cpus=max(1, int(used)),
        on_gpu=any(_is_gpu(labels) for labels, _ in series["stoker_model_info"]),
        gpu_name=gpu_name,
        start_s=round(start_s, 2),
        peak_bytes=peak,
        models=models,
        files_bytes=sum(files_bytes(Path(each)) for each in sources),
    )


def files_bytes(source: Path) -> int:
    """What a source holds on disk: a file, or all files below a folder."""
    files = (each for each in (source, *source.rglob("*")) if each.is_file())
    return sum(each.stat().st_size for each in files)


def machine(cpus: float, gpu_name: str, proc: Path) -> str:
    """The machine in words: processors, memory, GPU; never its name. `proc` is the kernel's."""
    model = _line(proc / "cpuinfo", "model name") or "of unknown make"
    memory = _line(proc / "meminfo", "MemTotal").removesuffix("kB").strip()
    gibibytes = f"{int(memory) / (1 << 20):.0f} GiB of memory" if memory.isdecimal() else ""
    gpu = gpu_name or "no GPU"
    processors = f"{cpus:g} CPU{'' if cpus == 1 else 's'} ({model})"
    return ", ".join(part for part in (processors, gibibytes, gpu) if part)


def parse_series(exposition: str) -> Series:
    """The samples of a scrape by the metric's name."""
    found: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


@contextmanager
def _running(
    words: Sequence[str], cpus: int | None, patience_s: float
) -> Iterator["subprocess.Popen[str]"]:
    """The child; a moment after `patience_s` it is killed, whatever it does."""
    with on_at_most(cpus):
        child = subprocess.Popen(
            [sys.executable, "-m", "stoker", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    with child as process:
        watchdog = threading.Timer(patience_s, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            process.terminate()
            try:
                process.communicate(timeout=STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def on_at_most(cpus: int | None) -> Iterator[None]:
    """Children that are started meanwhile get so many processors; where the kernel cannot, all."""
    before = _affinity()
    if cpus is None or cpus >= len(before) or not hasattr(os, "sched_setaffinity"):
        yield
        return
    os.sched_setaffinity(0, before[:cpus])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _ready(output: IO[str], tell: Callable[[str], None], patience_s: float) -> JsonObject:
    """The record of the event `ready`. Reads the log up to it, and what was wrong before it."""
    problems: list[str] = []
    began = time.monotonic()
    for line in output:
        try:
            record = json.loads(line)
        except ValueError:
            problems.append(line.strip())  # what the command line says is no JSON
            continue
        event, message = str(record.get("event")), str(record.get("message"))
        if event == "ready":
            return cast("JsonObject", record)
        if event == "model_ready":
            tell(message)
        elif record.get("level") in ("error", "warning"):
            tell(message)
            problems.append(message)
    if time.monotonic() - began >= patience_s:
        raise MeasuringFailed(
            f"the server was not ready within {patience_s:.0f} s; --patience gives it longer"
        )
    said = "\n".join(dict.fromkeys(problem for problem in problems if problem))
    raise MeasuringFailed(f"these models are not served; `stoker check` tells more:\n{said}")


def _models(series: Series, address: str) -> Iterator[MeasuredModel]:
    connection = connect(address, timeout_s=CALL_S)
    try:
        loads = series.get("nv_model_load_duration_secs", ())
        for labels, load_s in sorted(
            loads, key=lambda each: (each[0]["model"], each[0]["version"])
        ):
            name, version = labels["model"], labels["version"]

            def of_model(
                metric: str, name: str = name, version: str = version
            ) -> list[tuple[Mapping[str, str], float]]:
                return [
                    (each, value)
                    for each, value in series.get(metric, ())
                    if (each.get("model"), each.get("version")) == (name, version)
                ]

            memory = {
                each["kind"]: int(value) for each, value in of_model("stoker_model_memory_bytes")
            }
            rows = of_model("stoker_model_sustained_batch_limit_rows")
            costs = of_model("stoker_model_row_seconds")
            config = json.loads(_get(address, f"/v2/models/{name}/versions/{version}/config"))
            metadata = connection.metadata(name, version)
            yield MeasuredModel(
                name=name,
                version=version,
                load_s=round(load_s, 3),
                devices=tuple(
                    sorted({each["device"] for each, _ in of_model("stoker_model_info")})
                ),
                instances=sum(
                    number(each, "count") or 1 for each in objects(config, "instance_group")
                )
                or 1,
                batch_limit_rows=max(1, int(rows[0][1])) if rows else 1,
                row_seconds=costs[0][1] if costs else None,
                weights_bytes=memory.get("weights", 0),
                loaded_bytes=memory.get("loaded"),
                workspace_bytes=memory.get("workspace"),
                input_row_bytes=row_bytes(metadata.inputs),
                output_row_bytes=row_bytes(metadata.outputs),
                has_variable_shapes=_varies(metadata, _batches(config)),
            )
    finally:
        connection.close()


def row_bytes(specs: Sequence[TensorSpec]) -> int:
    """Bytes of one row of all these tensors: variable dimensions count as 1, text as nothing."""
    return sum(
        math.prod(max(1, size) for size in each.shape) * each.datatype.size for each in specs
    )


def _batches(config: JsonObject) -> bool:
    return (number(config, "max_batch_size") or 0) > 0


def _varies(metadata: ModelMetadata, batches: bool) -> bool:
    """Whether a row can be of more than one size: variable dimensions, or text."""
    specs = (*metadata.inputs, *metadata.outputs)
    return any(
        each.datatype is DataType.BYTES or any(size < 0 for size in each.shape[batches:])
        for each in specs
    )


def _get(address: str, path: str) -> str:
    """The body of an answer. Raises OSError, HTTPException or ValueError."""
    connection = HTTPConnection(address, timeout=CALL_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode()
    finally:
        connection.close()
    if answer.status != _ANSWERS:
        raise ValueError(f"GET {path} gave {answer.status}: {body[:200]}")
    return body


def _is_gpu(labels: Mapping[str, str]) -> bool:
    return labels.get("device", "cpu") != "cpu"


def _peak_bytes(pid: int) -> int | None:
    """What the process had resident at most (Linux: VmHWM); None where the kernel does not say."""
    kibibytes = _line(Path(f"/proc/{pid}/status"), "VmHWM").removesuffix("kB").strip()
    return int(kibibytes) * 1024 if kibibytes.isdecimal() else None


def _affinity() -> Sequence[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


def _line(path: Path, key: str) -> str:
    """What stands behind `key:` in a file of the kernel; empty where nothing does."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return ""
    found = (line.partition(":")[2].strip() for line in lines if line.split(":")[0].strip() == key)
    return next(found, "")
