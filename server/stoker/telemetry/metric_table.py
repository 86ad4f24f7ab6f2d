"""Every metric of the server, defined once: name, type, unit, labels, help.

`metrics.py` serves them, `docs/metrics.md` explains them, and a contract test keeps the two equal.
Nothing here reads a value. `nv_*` are Triton's, names and labels exactly; `stoker_*` are ours and
follow Prometheus' naming rules. Label sets are closed: names of models, versions and devices come
from the repository and the machine, reasons from enums; no client ever chooses a label's value.

Those of GPUs, of the machine and of TensorRT stand in tables of their own
(`*_table.py`); `TABLE` is the list of all. Source of the `nv_*` names: Triton's metrics;
docs/metrics.md has the table.
"""

from typing import Final

from stoker.telemetry.gpu_table import GPU_METRICS
from stoker.telemetry.machine_table import MACHINE_METRICS
from stoker.telemetry.metric import Metric, MetricType
from stoker.telemetry.tensorrt_table import TENSORRT_METRICS

_MODEL: Final = ("model", "version")
_MODEL_REASON: Final = ("model", "version", "reason")
_COUNTER: Final = MetricType.COUNTER
_GAUGE: Final = MetricType.GAUGE
_HISTOGRAM: Final = MetricType.HISTOGRAM


def _of_model(
    name: str, kind: MetricType, unit: str, text: str, labels: tuple[str, ...] = _MODEL
) -> Metric:
    return Metric(name, kind, unit, text, labels, per_model=True)


REQUEST_SUCCESS: Final = _of_model(
    "nv_inference_request_success", _COUNTER, "requests", "Requests that were answered well."
)
REQUEST_FAILURE: Final = _of_model(
    "nv_inference_request_failure",
    _COUNTER,
    "requests",
    "Requests that failed; REJECTED by a full queue or a queue timeout, CANCELED by the client, "
    "BACKEND in the model's run, OTHER.",
    _MODEL_REASON,
)
INFERENCE_COUNT: Final = _of_model(
    "nv_inference_count", _COUNTER, "rows", "Rows that were run, the sum of the batch sizes."
)
EXEC_COUNT: Final = _of_model(
    "nv_inference_exec_count", _COUNTER, "batches", "Runs of the model, one per batch."
)
REQUEST_DURATION: Final = _of_model(
    "nv_inference_request_duration_us",
    _COUNTER,
    "microseconds",
    "Time from arrival to answer, summed over the requests that were answered well.",
)
QUEUE_DURATION: Final = _of_model(
    "nv_inference_queue_duration_us",
    _COUNTER,
    "microseconds",
    "Time spent waiting for a batch, summed over the requests that were answered well.",
)
INPUT_DURATION: Final = _of_model(
    "nv_inference_compute_input_duration_us",
    _COUNTER,
    "microseconds",
    "Time of laying out inputs: that of the batch, counted for each of its requests.",
)
INFER_DURATION: Final = _of_model(
    "nv_inference_compute_infer_duration_us",
    _COUNTER,
    "microseconds",
    "Time of running the model: that of the batch, counted for each of its requests.",
)
OUTPUT_DURATION: Final = _of_model(
    "nv_inference_compute_output_duration_us",
    _COUNTER,
    "microseconds",
    "Time of taking outputs apart: that of the batch, counted for each of its requests.",
)
PENDING: Final = _of_model(
    "nv_inference_pending_request_count",
    _GAUGE,
    "requests",
    "Requests that were accepted and wait for a batch.",
)
LOAD_DURATION: Final = _of_model(
    "nv_model_load_duration_secs", _GAUGE, "seconds", "Time that the last load took."
)

REQUEST_SECONDS: Final = _of_model(
    "stoker_request_duration_seconds",
    _HISTOGRAM,
    "seconds",
    "Time from arrival to answer of requests that were answered well.",
)
QUEUE_SECONDS: Final = _of_model(
    "stoker_queue_duration_seconds",
    _HISTOGRAM,
    "seconds",
    "Time that answered requests waited for their batch.",
)
COMPUTE_SECONDS: Final = _of_model(
    "stoker_compute_duration_seconds",
    _HISTOGRAM,
    "seconds",
    "Time of the model's runs, one observation per batch.",
)
BATCH_ROWS: Final = _of_model("stoker_batch_rows", _HISTOGRAM, "rows", "Rows of each batch.")
BATCHES: Final = _of_model(
    "stoker_batches_total",
    _COUNTER,
    "batches",
    "Batches by what closed them: idle (all that waited was taken), full, preferred, delay.",
    _MODEL_REASON,
)
BISECTIONS: Final = _of_model(
    "stoker_batch_bisections_total",
    _COUNTER,
    "batches",
    "Failed batches that were run again in halves to find the guilty request.",
)
OUT_OF_MEMORY: Final = _of_model(
    "stoker_out_of_memory_total",
    _COUNTER,
    "runs",
    "Runs that did not fit into the device's memory; batches were then run again in halves.",
)
DEVICE_RETRIES: Final = _of_model(
    "stoker_device_retries_total",
    _COUNTER,
    "runs",
    "Runs that were tried again because the device failed in them and answered well afterwards.",
)
HUNG_RUNS: Final = _of_model(
    "stoker_hung_runs_total",
    _COUNTER,
    "runs",
    "Runs that lasted longer than --hung-run-timeout and 50 times what such runs take.",
)
SLOW_LOOP_RUNS: Final = _of_model(
    "stoker_slow_loop_runs_total",
    _COUNTER,
    "runs",
    "Runs on the event loop that held it for over 1 ms.",
)
REFUSED: Final = _of_model(
    "stoker_requests_refused_total",
    _COUNTER,
    "requests",
    "Requests that never entered the model's queue: invalid, not_ready, queue_full, queue_bytes, "
    "predicted_late, draining.",
    _MODEL_REASON,
)
WRONGLY_REFUSED: Final = _of_model(
    "stoker_requests_refused_wrongly_total",
    _COUNTER,
    "requests",
    "Requests refused as predicted_late that would have been in time after all.",
)
MODEL_IN_FLIGHT: Final = _of_model(
    "stoker_model_requests_in_flight",
    _GAUGE,
    "requests",
    "Requests of the model that were accepted and are not yet answered.",
)
MODEL_DEMAND: Final = _of_model(
    "stoker_model_demand",
    _GAUGE,
    "ratio",
    "Device time that the model's requests of the last 30 s ask for, per second; absent until the "
    "model's cost is measured.",
)
MODEL_DEMAND_5S: Final = _of_model(
    "stoker_model_demand_5s", _GAUGE, "ratio", "The same as stoker_model_demand, over 5 s."
)
MODEL_DEMAND_1S: Final = _of_model(
    "stoker_model_demand_1s", _GAUGE, "ratio", "The same as stoker_model_demand, over 1 s."
)
MODEL_BATCH_LIMIT: Final = _of_model(
    "stoker_model_batch_limit_rows",
    _GAUGE,
    "rows",
    "Most rows that one batch of the model holds, but under a sustained backlog.",
)
MODEL_SUSTAINED_BATCH_LIMIT: Final = _of_model(
    "stoker_model_sustained_batch_limit_rows",
    _GAUGE,
    "rows",
    "Most rows that one batch of the model holds under a sustained backlog; the batch limit where "
    "there is no larger one.",
)
MODEL_ROW_SECONDS: Final = _of_model(
    "stoker_model_row_seconds",
    _GAUGE,
    "seconds",
    "Device time of one row at the model's most efficient batch; absent until it is measured.",
)

MODEL_INFO: Final = _of_model(
    "stoker_model_info",
    MetricType.INFO,
    "",
    "Where the version really runs: device and execution provider of its sessions, the device that "
    "was asked for, and the GPU.",
    ("model", "version", "device", "provider", "requested", "device_name", "compute_capability"),
)
MODEL_NODES: Final = _of_model(
    "stoker_model_nodes",
    _GAUGE,
    "nodes",
    "Nodes of the version's graph by the execution provider that runs them, for each device.",
    ("model", "version", "device", "provider"),
)
MODEL_COPIES: Final = _of_model(
    "stoker_model_memcpy_nodes",
    _GAUGE,
    "nodes",
    "Copies between CPU and GPU in the version's graph, for each GPU; absent where they were not "
    "counted.",
    ("model", "version", "device"),
)
MODEL_CPU_NODES: Final = _of_model(
    "stoker_model_cpu_compute_nodes",
    _GAUGE,
    "nodes",
    "Nodes that compute on the CPU though the session is on a GPU, for each GPU; those that "
    "compute shapes do not count.",
    ("model", "version", "device"),
)
MODEL_MEMORY: Final = _of_model(
    "stoker_model_memory_bytes",
    _GAUGE,
    "bytes",
    "What the version takes: weights (from its file), tensors (of its largest batch), loaded and "
    "workspace (measured; absent where other models were loaded at the same moment).",
    (*_MODEL, "kind"),
)

MODEL_READY: Final = Metric(
    "stoker_model_ready",
    _GAUGE,
    "boolean",
    "1 when the version can serve, 0 when it is loading or failed.",
    _MODEL,
)
READY: Final = Metric(
    "stoker_ready", _GAUGE, "boolean", "1 when the server is ready, as its readiness probe says."
)
BUILD: Final = Metric(
    "stoker_build_info",
    MetricType.INFO,
    "",
    "Versions of the server and of ONNX Runtime, and what `--device` says.",
    ("version", "onnxruntime_version", "device"),
)
START_TIME: Final = Metric(
    "stoker_start_time_seconds", _GAUGE, "seconds", "When the server started, since the epoch."
)
DEMAND: Final = Metric(
    "stoker_demand_ratio",
    _GAUGE,
    "ratio",
    "Offered work per second of the busiest device or the event loop, over 30 s; 1 is all that one "
    "server can do. Absent until a model's cost is measured.",
)
DEMAND_5S: Final = Metric(
    "stoker_demand_ratio_5s", _GAUGE, "ratio", "The same as stoker_demand_ratio, over 5 s."
)
DEMAND_1S: Final = Metric(
    "stoker_demand_ratio_1s", _GAUGE, "ratio", "The same as stoker_demand_ratio, over 1 s."
)
DEMAND_PEAK: Final = Metric(
    "stoker_demand_peak_ratio",
    _GAUGE,
    "ratio",
    "The highest that stoker_demand_ratio_1s and stoker_demand_ratio_5s were in the last 30 s, by "
    "window: 1s, 5s. A burst between two scrapes shows here.",
    ("window",),
)
DEVICE_DEMAND: Final = Metric(
    "stoker_device_demand",
    _GAUGE,
    "ratio",
    "What stoker_demand_ratio is the maximum of: each device, and the event loop as `loop`.",
    ("device",),
)
QUEUE_DELAY: Final = Metric(
    "stoker_queue_delay_seconds",
    _GAUGE,
    "seconds",
    "Mean time in the queue of the requests answered in the last 30 s, over all models.",
)
IN_FLIGHT: Final = Metric(
    "stoker_requests_in_flight",
    _GAUGE,
    "requests",
    "Requests that were accepted and are not yet answered, over all models.",
)
WAITING: Final = Metric(
    "stoker_requests_pending",
    _GAUGE,
    "requests",
    "Requests that were accepted and wait for a batch, over all models.",
)
UNROUTED: Final = Metric(
    "stoker_requests_unrouted_total",
    _COUNTER,
    "requests",
    "Requests that reached no loaded version: unknown_model, not_ready, malformed, too_large.",
    ("reason",),
)
CONNECTIONS: Final = Metric(
    "stoker_connections",
    _GAUGE,
    "connections",
    "Open connections by port: rest, grpc (native transport), management. "
    "Those that have their last answer are not counted.",
    ("transport",),
)
CONNECTION_LIMIT: Final = Metric(
    "stoker_connection_limit",
    _GAUGE,
    "connections",
    "Most connections that the ports rest and grpc take together: --max-connections, or what the "
    "limit of descriptors leaves.",
)
LOOP_LAG: Final = Metric(
    "stoker_loop_lag_seconds",
    _HISTOGRAM,
    "seconds",
    "How long a ready event waits for the event loop, probed 20 times a second.",
)
LOOP_BUSY: Final = Metric(
    "stoker_loop_busy_seconds_total",
    _COUNTER,
    "seconds",
    "Time that the event loop's thread was running or waited for a CPU.",
)
HUNG_LOADS: Final = Metric(
    "stoker_hung_load_runs_total",
    _COUNTER,
    "runs",
    "Runs while the version was loaded or compared that lasted longer than --hung-load-timeout. "
    "Absent for versions that had none.",
    _MODEL,
)
TRACE_SPANS: Final = Metric(
    "stoker_trace_spans_total",
    _COUNTER,
    "spans",
    "Spans by what became of them: exported, failed (the receiver did not take them), dropped (the "
    "queue was full). Absent without --tracing.",
    ("outcome",),
)
ACCESS_LOG_LINES: Final = Metric(
    "stoker_access_log_lines_total",
    _COUNTER,
    "lines",
    "Lines of the access log by what became of them: written, dropped (nobody reads standard "
    "output). Absent without --access-log.",
    ("outcome",),
)


TABLE: Final = (
    REQUEST_SUCCESS, REQUEST_FAILURE, INFERENCE_COUNT, EXEC_COUNT,
    REQUEST_DURATION, QUEUE_DURATION, INPUT_DURATION, INFER_DURATION, OUTPUT_DURATION,
    PENDING, LOAD_DURATION,
    REQUEST_SECONDS, QUEUE_SECONDS, COMPUTE_SECONDS, BATCH_ROWS, BATCHES, BISECTIONS,
    OUT_OF_MEMORY, DEVICE_RETRIES, HUNG_RUNS, SLOW_LOOP_RUNS, REFUSED, WRONGLY_REFUSED,
    MODEL_IN_FLIGHT, MODEL_DEMAND, MODEL_DEMAND_5S, MODEL_DEMAND_1S, MODEL_BATCH_LIMIT,
    MODEL_SUSTAINED_BATCH_LIMIT, MODEL_ROW_SECONDS, MODEL_INFO, MODEL_NODES,
    MODEL_COPIES, MODEL_CPU_NODES, MODEL_MEMORY, MODEL_READY, READY, BUILD, START_TIME,
    DEMAND, DEMAND_5S, DEMAND_1S, DEMAND_PEAK, DEVICE_DEMAND, QUEUE_DELAY, IN_FLIGHT, WAITING,
    UNROUTED, CONNECTIONS, CONNECTION_LIMIT, LOOP_LAG, LOOP_BUSY,
    HUNG_LOADS,
    TRACE_SPANS, ACCESS_LOG_LINES,
    *TENSORRT_METRICS,
    *MACHINE_METRICS,
    *GPU_METRICS,
)  # fmt: skip
"""All of them, in the order of the text."""
