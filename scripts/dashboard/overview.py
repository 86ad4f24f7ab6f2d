"""The rows that are looked at first: what clients see, what autoscalers see, and latency."""

from typing import Final

from scripts.dashboard.grafana import Row
from scripts.dashboard.panels import Gauge, Heatmap, Query, Stat, TimeSeries
from scripts.dashboard.queries import (
    BLUE,
    DEMAND_STEPS,
    FAILED_STEPS,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    YELLOW,
    answered_badly,
    mean_seconds,
    quantile,
    rate,
)

OVERVIEW: Final = Row(
    "Overview",
    (
        Stat(
            "Ready pods",
            "Pods that are ready, of those that are scraped.",
            (
                Query("sum(stoker_ready{<pod>})", "ready"),
                Query("count(stoker_ready{<pod>})", "scraped"),
            ),
            steps=((None, RED), (1, GREEN)),
        ),
        Stat(
            "Requests",
            "Requests a second that were answered well.",
            (Query(f"sum({rate('nv_inference_request_success')})", "answered"),),
            unit="reqps",
            steps=((None, BLUE),),
        ),
        Stat(
            "Failed or refused",
            "Share of the requests that failed or were refused by the server's doing. Cancelled "
            "and invalid ones do not count.",
            (
                Query(
                    f"sum({answered_badly()}) / sum("
                    f"{rate('nv_inference_request_success')} or {answered_badly()})",
                    "failed",
                ),
            ),
            unit="percentunit",
            decimals=2,
            steps=FAILED_STEPS,
        ),
        Stat(
            "p99 latency",
            "99 of 100 requests are answered within this time, from arrival to answer.",
            (Query(quantile(0.99, "stoker_request_duration_seconds"), "p99"),),
            unit="s",
            steps=((None, PURPLE),),
        ),
        Gauge(
            "Demand",
            "Offered work over what the pods can do, the mean of the pods. Autoscalers keep it at "
            "0.65; above 1 requests wait and are refused.",
            (Query("avg(stoker_demand_ratio{<pod>})", "demand"),),
            unit="percentunit",
            steps=DEMAND_STEPS,
            most=1.2,
            decimals=0,
        ),
        Stat(
            "Queue delay",
            "Mean time that a request waits for its batch, over 30 s, the mean of the pods.",
            (Query("avg(stoker_queue_delay_seconds{<pod>})", "queue"),),
            unit="s",
            steps=((None, GREEN), (0.1, YELLOW), (0.5, RED)),
        ),
        TimeSeries(
            "Requests by outcome",
            "Answered well, failed, and refused before they entered a queue. REJECTED are refused "
            "by a full queue or timed out in it; CANCELED by the client.",
            (
                Query(f"sum({rate('nv_inference_request_success')})", "answered"),
                Query(
                    f"sum by (reason) ({rate('nv_inference_request_failure')}) > 0", "{{reason}}"
                ),
                Query(
                    "sum by (reason) ("
                    + rate("stoker_requests_refused_total", '<model>,reason!~"queue_.*"')
                    + ") > 0",
                    "refused: {{reason}}",
                ),
            ),
            unit="reqps",
            stacked=True,
            colours={
                "answered": GREEN,
                "CANCELED": GREY,
                "REJECTED": ORANGE,
                "BACKEND": RED,
                "OTHER": "dark-red",
                "refused: predicted_late": YELLOW,
                "refused: invalid": BLUE,
                "refused: draining": PURPLE,
            },
        ),
        TimeSeries(
            "Latency",
            "Quantiles of the time from arrival to answer. Points are exemplars: requests whose "
            "trace was sampled.",
            tuple(
                Query(
                    quantile(share, "stoker_request_duration_seconds"), name, exemplar=share == 0.99
                )
                for share, name in ((0.99, "p99"), (0.9, "p90"), (0.5, "p50"))
            ),
            unit="s",
            colours={"p99": PURPLE, "p90": BLUE, "p50": GREEN},
        ),
        TimeSeries(
            "Demand by pod",
            "What autoscalers scale on: offered work, refused work included, over what one pod can "
            "do, and its highest 5 s. Dashed: the target of 0.65 and all that a pod can do.",
            (
                Query("stoker_demand_ratio{<pod>}", "{{pod}}"),
                Query('max(stoker_demand_peak_ratio{<pod>,window="5s"})', "peak over 5 s"),
            ),
            unit="percentunit",
            steps=((None, "transparent"), (0.65, YELLOW), (1.0, RED)),
            limits=True,
            colours={"peak over 5 s": GREY},
        ),
        TimeSeries(
            "Error budget burned",
            "At which multiple of the pace that 99.9 % allows requests fail, over windows. Above "
            "14.4 over an hour and 6 over six hours an alert wakes somebody.",
            tuple(
                Query(
                    "max by (namespace, job) (namespace_job:stoker_requests_failed:ratio_rate"
                    f'{window}{{namespace=~"$namespace",job=~"$job"}}) / 0.001',
                    f"{window} {{{{job}}}}",
                )
                for window in ("1h", "6h", "1d")
            ),
            unit="short",
            steps=((None, "transparent"), (6.0, ORANGE), (14.4, RED)),
            limits=True,
            width=12,
            height=7,
        ),
        TimeSeries(
            "In flight and waiting",
            "Requests that were accepted and are not answered yet, and those of them that wait for "
            "a batch.",
            (
                Query("sum(stoker_requests_in_flight{<pod>})", "in flight"),
                Query("sum(stoker_requests_pending{<pod>})", "waiting for a batch"),
            ),
            colours={"in flight": BLUE, "waiting for a batch": ORANGE},
            width=12,
            height=7,
        ),
    ),
)

LATENCY: Final = Row(
    "Latency",
    (
        Heatmap(
            "Request durations",
            "How many requests a second took how long.",
            (Query(f"sum by (le) ({rate('stoker_request_duration_seconds_bucket')})", "{{le}}"),),
            unit="s",
            width=12,
        ),
        TimeSeries(
            "Where the time goes",
            "Mean seconds of a request: waiting for a batch, laying out inputs, the model's run, "
            "taking outputs apart.",
            (
                Query(mean_seconds("nv_inference_queue_duration_us"), "queue"),
                Query(mean_seconds("nv_inference_compute_input_duration_us"), "inputs"),
                Query(mean_seconds("nv_inference_compute_infer_duration_us"), "run"),
                Query(mean_seconds("nv_inference_compute_output_duration_us"), "outputs"),
            ),
            unit="s",
            stacked=True,
            width=12,
            colours={"queue": ORANGE, "inputs": BLUE, "run": GREEN, "outputs": PURPLE},
        ),
        TimeSeries(
            "p99 by model",
            "99 of 100 requests to a model are answered within this time.",
            (Query(quantile(0.99, "stoker_request_duration_seconds", "model"), "{{model}}"),),
            unit="s",
        ),
        TimeSeries(
            "Queue p99 by model",
            "99 of 100 answered requests waited no longer than this for their batch.",
            (Query(quantile(0.99, "stoker_queue_duration_seconds", "model"), "{{model}}"),),
            unit="s",
        ),
        TimeSeries(
            "Run p99 by model",
            "99 of 100 batches of a model ran no longer than this.",
            (Query(quantile(0.99, "stoker_compute_duration_seconds", "model"), "{{model}}"),),
            unit="s",
        ),
    ),
)
