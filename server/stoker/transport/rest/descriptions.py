"""JSON answers about the server and its models: metadata, configuration, statistics, index.

Values in, bytes out. Source: Open Inference Protocol v2, "Server Metadata", "Model Metadata";
Triton's statistics and model repository extensions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import orjson

from stoker.control import IndexEntry
from stoker.model import ModelMetadata, Readiness
from stoker.telemetry.statistics import ModelStatistics
from stoker.tensor import TensorSpec


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What the server says of itself."""

    name: str
    version: str
    extensions: tuple[str, ...]


def server_metadata(info: ServerInfo) -> bytes:
    """The answer to `GET /v2`."""
    return orjson.dumps({"name": info.name, "version": info.version, "extensions": info.extensions})


def model_metadata(metadata: ModelMetadata) -> bytes:
    """The answer to `GET /v2/models/NAME`; what begins with `stoker_` is ours, clients pass
    over it."""
    answer: dict[str, object] = {
        "name": metadata.name,
        "versions": metadata.versions,
        "platform": metadata.platform,
        "inputs": _tensors(metadata.inputs),
        "outputs": _tensors(metadata.outputs),
    }
    if metadata.devices:
        answer["stoker_devices"] = [each.facts() for each in metadata.devices]
    if metadata.faster:
        answer["stoker_faster"] = metadata.faster
    return orjson.dumps(answer)


def _tensors(specs: Sequence[TensorSpec]) -> list[dict[str, object]]:
    return [
        {"name": each.name, "datatype": each.datatype.wire, "shape": each.shape} for each in specs
    ]


def readiness(state: Readiness, *, name: str | None = None) -> bytes:
    """The answer to a question of readiness; `error` has the reasons where the answer is no."""
    answer: dict[str, object] = {} if name is None else {"name": name}
    answer["ready"] = state.ready
    if not state.ready:
        answer["error"] = "; ".join(state.reasons) or "not ready"
    return orjson.dumps(answer)


def index(entries: Iterable[IndexEntry]) -> bytes:
    """The repository index: version, state and reason only where there is one."""
    models: list[dict[str, str]] = []
    for entry in entries:
        model = {"name": entry.name}
        if entry.version:
            model["version"] = entry.version
        if entry.state is not None:
            model["state"] = entry.state.value
        if entry.reason:
            model["reason"] = entry.reason
        models.append(model)
    return orjson.dumps(models)


def statistics(models: Iterable[ModelStatistics]) -> bytes:
    """The statistics of these versions. Load generators subtract two of them: every key is always
    there and no number ever falls."""
    return orjson.dumps({"model_stats": [_statistics(each) for each in models]})


def _duration(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}


def _statistics(counted: ModelStatistics) -> dict[str, object]:
    return {
        "name": counted.model,
        "version": str(counted.version),
        "last_inference": counted.last_inference_ms,
        "inference_count": counted.inference_count,
        "execution_count": counted.execution_count,
        "inference_stats": {
            "success": _duration(counted.success_count, counted.success_ns),
            "fail": _duration(counted.failure_count, counted.failure_ns),
            "queue": _duration(counted.success_count, counted.queue_ns),
            "compute_input": _duration(counted.compute_count, counted.input_ns),
            "compute_infer": _duration(counted.compute_count, counted.infer_ns),
            "compute_output": _duration(counted.compute_count, counted.output_ns),
            "cache_hit": _duration(0, 0),
            "cache_miss": _duration(0, 0),
        },
        "response_stats": {},
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": _duration(batch.count, batch.input_ns),
                "compute_infer": _duration(batch.count, batch.infer_ns),
                "compute_output": _duration(batch.count, batch.output_ns),
            }
            for rows, batch in sorted(counted.batches.items())
        ],
        "memory_usage": [],
    }
