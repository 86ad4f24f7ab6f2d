"""The rows of what serves: models, GPUs, pods."""

from typing import Final

from scripts.dashboard.grafana import Row
from scripts.dashboard.panels import Column, Query, Table, TimeSeries
from scripts.dashboard.queries import (
    BLUE,
    DEMAND_STEPS,
    GREEN,
    GREY,
    RED,
    by_version,
    quantile,
    rate,
)

STOOD_STILL: Final = rate("stoker_container_cpu_throttled_seconds_total", "<pod>")
"""Summed over CPUs, by the kernel."""

MODELS: Final = Row(
    "Models",
    (
        Table(
            "Models",
            "Every version that is loaded, over all chosen pods: the pods where it is ready, what "
            "it does, and its demand, the mean of the pods.",
            (
                Query(by_version("stoker_model_ready{<model>}"), "ready"),
                Query(by_version(rate("nv_inference_request_success")), "req/s"),
                Query(
                    by_version(rate("nv_inference_request_failure", '<model>,reason!="CANCELED"')),
                    "failed/s",
                ),
                Query(quantile(0.5, "stoker_request_duration_seconds", "model, version"), "p50"),
                Query(quantile(0.99, "stoker_request_duration_seconds", "model, version"), "p99"),
                Query(
                    f"{by_version(rate('nv_inference_count'))} "
                    f"/ {by_version(rate('nv_inference_exec_count'))}",
                    "rows a batch",
                ),
                Query("max by (model, version) (stoker_model_batch_limit_rows{<model>})", "limit"),
                Query("avg by (model, version) (stoker_model_demand{<model>})", "demand"),
                Query(by_version("stoker_model_requests_in_flight{<model>}"), "in flight"),
                Query("max by (model, version) (nv_model_load_duration_secs{<model>})", "load"),
                Query(
                    'max by (model, version) (stoker_model_memory_bytes{<model>,kind="weights"})',
                    "weights",
                ),
            ),
            height=9,
            columns=(
                Column("model", label="model"),
                Column("version", label="version"),
                Column("ready", decimals=0, steps=((None, RED), (1, GREEN))),
                Column("req/s", unit="reqps", decimals=1),
                Column("failed/s", unit="reqps", decimals=2, steps=((None, GREEN), (0.01, RED))),
                Column("p50", unit="s"),
                Column("p99", unit="s"),
                Column("rows a batch", decimals=1),
                Column("limit", decimals=0),
                Column("demand", unit="percentunit", decimals=1, steps=DEMAND_STEPS),
                Column("in flight", decimals=0),
                Column("load", unit="s"),
                Column("weights", unit="bytes"),
            ),
        ),
        TimeSeries(
            "Demand by model",
            "What a model's requests ask for, summed over the pods: 100 % is all that the devices "
            "of one pod can do.",
            (Query("sum by (model) (stoker_model_demand{<model>})", "{{model}}"),),
            unit="percentunit",
            stacked=True,
        ),
        Table(
            "Where models run",
            "Device and execution provider of each version, and the device that was asked for.",
            (
                Query(
                    "count by (model, version, device, provider, requested, device_name) "
                    "(stoker_model_info{<model>})",
                    "pods",
                ),
            ),
            width=16,
            columns=(
                Column("model", label="model"),
                Column("version", label="version"),
                Column("asked for", label="requested"),
                Column("device", label="device"),
                Column("provider", label="provider"),
                Column("GPU", label="device_name"),
                Column("pods", decimals=0),
            ),
        ),
    ),
)

GPU: Final = Row(
    "GPU and TensorRT",
    (
        TimeSeries(
            "GPU utilisation",
            "Share of the time in which any kernel ran. It says little of how full a GPU is; "
            "demand does. Absent for a MIG slice.",
            (Query("nv_gpu_utilization{<pod>}", "{{pod}} {{gpu_uuid}}"),),
            unit="percentunit",
            most=1,
        ),
        TimeSeries(
            "GPU memory",
            "Memory in use, by whichever process, and all there is.",
            (
                Query("nv_gpu_memory_used_bytes{<pod>}", "used {{pod}} {{gpu_uuid}}"),
                Query("max(nv_gpu_memory_total_bytes{<pod>})", "all of the largest"),
            ),
            unit="bytes",
            colours={"all of the largest": GREY},
        ),
        TimeSeries(
            "GPU power",
            "What the GPUs draw, and the largest limit.",
            (
                Query("nv_gpu_power_usage{<pod>}", "{{pod}} {{gpu_uuid}}"),
                Query("max(nv_gpu_power_limit{<pod>})", "limit"),
            ),
            unit="watt",
            colours={"limit": GREY},
        ),
        TimeSeries(
            "GPU temperature",
            "Of the die. Dashed: 85 °C.",
            (Query("stoker_gpu_temperature_celsius{<pod>}", "{{pod}} {{gpu_uuid}}"),),
            unit="celsius",
            steps=((None, "transparent"), (85, RED)),
            limits=True,
        ),
        TimeSeries(
            "GPU clocks",
            "The present clock of the multiprocessors.",
            (Query('stoker_gpu_clock_hertz{<pod>,clock="sm"}', "{{pod}} {{gpu_uuid}}"),),
            unit="hertz",
        ),
        TimeSeries(
            "What holds the clocks down",
            "GPUs by the reason. hw_slowdown, hw_thermal and hw_power_brake: cooling or power.",
            (
                Query(
                    'sum by (reason) (stoker_gpu_clocks_event_reason{<pod>,reason!="gpu_idle"})',
                    "{{reason}}",
                ),
            ),
            stacked=True,
            decimals=0,
        ),
        TimeSeries(
            "GPU errors",
            "Xid errors by class and uncorrected memory errors, in an hour.",
            (
                Query(
                    "sum by (class) (increase(stoker_gpu_xid_errors_total{<pod>}[1h]))",
                    "Xid: {{class}}",
                ),
                Query(
                    'sum(increase(stoker_gpu_ecc_errors_total{<pod>,type="uncorrected"}[1h]))',
                    "ECC uncorrected",
                ),
            ),
            decimals=0,
            colours={"ECC uncorrected": RED},
        ),
        TimeSeries(
            "Nodes that compute on the CPU",
            "Of models on a GPU, where they cost copies; and copies in the graph.",
            (
                Query("max by (model) (stoker_model_cpu_compute_nodes{<model>})", "{{model}}"),
                Query("max by (model) (stoker_model_memcpy_nodes{<model>})", "copies {{model}}"),
            ),
            decimals=0,
        ),
        Table(
            "TensorRT",
            "What TensorRT is at for each version that asks for it, on how many pods.",
            (
                Query(
                    "count by (model, version, state) (stoker_tensorrt_state{<model>} == 1)",
                    "pods",
                ),
                Query(by_version("stoker_tensorrt_cache_hits_total{<model>}"), "from cache"),
                Query(by_version("stoker_tensorrt_cache_misses_total{<model>}"), "built"),
            ),
            width=8,
            columns=(
                Column("model", label="model"),
                Column("version", label="version"),
                Column("state", label="state"),
                Column("pods", decimals=0),
                Column("from cache", decimals=0),
                Column("built", decimals=0),
            ),
        ),
    ),
)

PODS: Final = Row(
    "Event loop and resources",
    (
        TimeSeries(
            "Loop lag",
            "How long a ready event waits for the event loop: p99 by pod. Dashed: 10 ms.",
            (
                Query(
                    quantile(0.99, "stoker_loop_lag_seconds", "pod", "<pod>"),
                    "{{pod}}",
                ),
            ),
            unit="s",
            steps=((None, "transparent"), (0.01, RED)),
            limits=True,
        ),
        TimeSeries(
            "Busy devices and loop",
            "What demand is the maximum of. `loop` the highest: a faster wire helps, a faster GPU "
            "does not.",
            (Query("max by (device) (stoker_device_demand{<pod>})", "{{device}}"),),
            unit="percentunit",
        ),
        TimeSeries(
            "CPU",
            "Cores that the process uses, and the container's limit.",
            (
                Query(rate("stoker_process_cpu_seconds_total", "<pod>"), "{{pod}}"),
                Query("max(stoker_container_cpu_limit_cores{<pod>})", "limit"),
            ),
            unit="short",
            colours={"limit": RED},
        ),
        TimeSeries(
            "Throttled",
            "Share of the time that each core of the container's CPU limit stood still because the "
            "limit was used up.",
            (
                Query(
                    f"{STOOD_STILL} / clamp_min(stoker_container_cpu_limit_cores{{<pod>}}, 1) "
                    f"or {STOOD_STILL}",
                    "{{pod}}",
                ),
            ),
            unit="percentunit",
            steps=((None, "transparent"), (0.1, RED)),
            limits=True,
        ),
        TimeSeries(
            "Memory",
            "Working set of the container, by which the kubelet evicts, resident memory of the "
            "process, and the limit.",
            (
                Query("stoker_container_memory_working_set_bytes{<pod>}", "{{pod}}"),
                Query("stoker_process_resident_memory_bytes{<pod>}", "process {{pod}}"),
                Query("max(stoker_container_memory_limit_bytes{<pod>})", "limit"),
            ),
            unit="bytes",
            colours={"limit": RED},
        ),
        TimeSeries(
            "Connections",
            "Open connections by port, over all pods.",
            (Query("sum by (transport) (stoker_connections{<pod>})", "{{transport}}"),),
            colours={"grpc": BLUE, "rest": GREEN, "management": GREY},
        ),
        TimeSeries(
            "Connections and descriptors used",
            "Of what a pod takes. At 1 it turns clients away.",
            (
                Query(
                    'sum by (pod) (stoker_connections{<pod>,transport=~"rest|grpc"}) '
                    "/ sum by (pod) (stoker_connection_limit{<pod>})",
                    "connections {{pod}}",
                ),
                Query(
                    "max by (pod) (stoker_process_open_fds{<pod>} / stoker_process_max_fds{<pod>})",
                    "descriptors {{pod}}",
                ),
            ),
            unit="percentunit",
            steps=((None, "transparent"), (0.9, RED)),
            limits=True,
        ),
        TimeSeries(
            "Loop CPU",
            "Share of a core that the event loop's thread takes or waits for.",
            (Query(rate("stoker_loop_busy_seconds_total", "<pod>"), "{{pod}}"),),
            unit="percentunit",
        ),
        Table(
            "Pods",
            "Version, and what `--device` says.",
            (
                Query("stoker_build_info{<pod>}", "up"),
                Query("time() - stoker_start_time_seconds{<pod>}", "age"),
            ),
            width=8,
            columns=(
                Column("pod", label="pod"),
                Column("version", label="version"),
                Column("ONNX Runtime", label="onnxruntime_version"),
                Column("device", label="device"),
                Column("age", unit="dtdurations"),
            ),
        ),
    ),
)
