"""The rows between arrival and run: batching, queues, refusals, failures."""

from typing import Final

from scripts.dashboard.grafana import Row
from scripts.dashboard.panels import Heatmap, Query, TimeSeries
from scripts.dashboard.queries import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    YELLOW,
    rate,
)

BATCHING: Final = Row(
    "Batching",
    (
        TimeSeries(
            "Mean rows of a batch",
            "Rows that a model's runs have on average. Near the limit: more load only waits.",
            (
                Query(
                    f"sum by (model) ({rate('nv_inference_count')}) "
                    f"/ sum by (model) ({rate('nv_inference_exec_count')})",
                    "{{model}}",
                ),
            ),
            decimals=1,
        ),
        Heatmap(
            "Rows of batches",
            "How many batches a second had how many rows.",
            (Query(f"sum by (le) ({rate('stoker_batch_rows_bucket')})", "{{le}}"),),
            scheme="Blues",
        ),
        TimeSeries(
            "What closed a batch",
            "idle: all that waited was taken; full: the limit was reached; preferred and delay: as "
            "the model's file says.",
            (Query(f"sum by (reason) ({rate('stoker_batches_total')})", "{{reason}}"),),
            unit="ops",
            stacked=True,
            colours={"idle": GREEN, "full": ORANGE, "preferred": BLUE, "delay": PURPLE},
        ),
        TimeSeries(
            "Rows",
            "Rows a second that were run, by model.",
            (Query(f"sum by (model) ({rate('nv_inference_count')})", "{{model}}"),),
            unit="rowsps",
            stacked=True,
            width=12,
            height=7,
        ),
        TimeSeries(
            "Device time of a row",
            "At the model's most efficient batch, as it was measured.",
            (Query("max by (model) (stoker_model_row_seconds{<model>})", "{{model}}"),),
            unit="s",
            width=12,
            height=7,
        ),
    ),
)

REFUSALS: Final = Row(
    "Queues, refusals, failures",
    (
        TimeSeries(
            "Waiting by model",
            "Requests that were accepted and wait for a batch.",
            (Query("sum by (model) (nv_inference_pending_request_count{<model>})", "{{model}}"),),
            stacked=True,
        ),
        TimeSeries(
            "Refused",
            "Requests that never entered a queue. predicted_late and queue_full: scale out. Those "
            "at draining during a rollout are retried by clients.",
            (Query(f"sum by (reason) ({rate('stoker_requests_refused_total')})", "{{reason}}"),),
            unit="reqps",
            stacked=True,
            colours={
                "predicted_late": YELLOW,
                "queue_full": ORANGE,
                "queue_bytes": "dark-orange",
                "invalid": BLUE,
                "draining": PURPLE,
                "not_ready": RED,
            },
        ),
        TimeSeries(
            "Failed",
            "Accepted requests that failed: BACKEND in the model's run, REJECTED timed out in the "
            "queue or refused by a full one.",
            (Query(f"sum by (reason) ({rate('nv_inference_request_failure')})", "{{reason}}"),),
            unit="reqps",
            stacked=True,
            colours={"CANCELED": GREY, "REJECTED": ORANGE, "BACKEND": RED, "OTHER": "dark-red"},
        ),
        TimeSeries(
            "Queue delay by pod",
            "Mean wait of the requests answered in the last 30 s; the autoscaler's second metric. "
            "Dashed: where it scales out.",
            (Query("stoker_queue_delay_seconds{<pod>}", "{{pod}}"),),
            unit="s",
            steps=((None, "transparent"), (0.5, RED)),
            limits=True,
        ),
        TimeSeries(
            "Went nowhere",
            "Requests that reached no loaded model: a wrong name, an unreadable or too large "
            "message, a model that is not loaded.",
            (
                Query(
                    f"sum by (reason) ({rate('stoker_requests_unrouted_total', '<pod>')})",
                    "{{reason}}",
                ),
            ),
            unit="reqps",
        ),
        TimeSeries(
            "Troubles of runs",
            "Per minute: batches run again in halves, runs out of memory, runs tried again after a "
            "device's fault, runs that hang, refusals that were wrong.",
            tuple(
                Query(f"60 * sum({rate(metric)})", legend)
                for metric, legend in (
                    ("stoker_batch_bisections_total", "bisected"),
                    ("stoker_out_of_memory_total", "out of memory"),
                    ("stoker_device_retries_total", "tried again"),
                    ("stoker_hung_runs_total", "hung"),
                    ("stoker_slow_loop_runs_total", "slow on the loop"),
                    ("stoker_requests_refused_wrongly_total", "refused wrongly"),
                )
            ),
            unit="short",
        ),
    ),
)
