"""NVIDIA's tritonclient as one client that sends one request at a time.

Not a benchmark itself. What a user of the Python client sees; most of it is the client's own cost.
"""

import time
from collections.abc import Callable
from types import ModuleType

import tritonclient.grpc as triton_grpc  # type: ignore[import-untyped]  # it ships no types
import tritonclient.http as triton_http  # type: ignore[import-untyped]  # it ships no types

from benchmarks.figures import percentile
from benchmarks.networks import Network
from benchmarks.serving import Endpoint

Percentiles = tuple[float, float, float]


def triton_calls(
    network: Network, ours: dict[str, Endpoint]
) -> dict[str, Callable[[float], Percentiles]]:
    """For each gRPC transport and for REST: p50, p90, p99 in microseconds within some seconds."""
    rest = next(iter(ours.values()))
    return {
        f"tritonclient.grpc, {transport}": _calls(triton_grpc, network, at.grpc)
        for transport, at in ours.items()
    } | {"tritonclient.http, binary": _calls(triton_http, network, rest.http)}


def _calls(triton: ModuleType, network: Network, port: int) -> Callable[[float], Percentiles]:
    """By one of tritonclient's two modules, which have the same names."""
    x = network.rows()

    def call(seconds: float) -> Percentiles:
        given = triton.InferInput("x", x.shape, "FP32")
        given.set_data_from_numpy(x)
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
            return _timed(lambda: client.infer(network.name, [given]), seconds)

    return call


def _timed(call: Callable[[], object], seconds: float) -> Percentiles:
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1e6)
    return percentile(times, 0.5), percentile(times, 0.9), percentile(times, 0.99)
