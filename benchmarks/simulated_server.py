"""Does the simulated server do what the real one does?

The same arrivals go to both: to a real server over gRPC, in real time, whose model is a fake that
sleeps for what a run costs; and to the simulated one of `benchmarks/scaling`, in invented time.
Both believe and spend the measured curve `gaining`. Below are, for a load that a pod can bear and
for one that it cannot, the shares of calls that were late or refused, latencies, requests a run,
and what the meters say at the end that an autoscaler reads.

    python -m benchmarks.simulated_server [--seconds 60]
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from stoker.engine.cost_curve import CostCurve
from stoker.errors import ServingError
from stoker.request import InferResponse
from stoker.tensor import DataType, TensorSpec
from tritonclient.grpc import (  # type: ignore[import-untyped]  # ships no types
    service_pb2,
    service_pb2_grpc,
)

from benchmarks.figures import facts, percentile
from benchmarks.scaling.cases import models
from benchmarks.scaling.server import WIDTH, Model, SimulatedServer
from benchmarks.scaling.simulation import DEADLINE_S, TARGET_S
from benchmarks.scaling.timeline import Timeline
from benchmarks.scaling.traces import Arrival, Trace, step
from tests.conftest import sample, serving
from tests.fake_runtime import FakeModel, FakeRuntime
from tests.models import ModelEntry, write_repository

SEED = 11
PROFILE_S = 30.0


@dataclass(frozen=True)
class Seen:
    """What one server did."""

    latencies: Sequence[float]
    """Seconds of the calls that were answered."""
    refused: int
    runs: float
    demand: float
    queue_delay: float

    def row(self, name: str, requests: int) -> str:
        """A line of the table."""
        late = self.refused + sum(1 for each in self.latencies if each > TARGET_S)
        answered = requests - self.refused
        return (
            f"| {name} | {100 * late / requests:.1f} % | {100 * self.refused / requests:.1f} % | "
            f"{percentile(self.latencies, 0.5) * 1e3:.0f} | "
            f"{percentile(self.latencies, 0.9) * 1e3:.0f} | {answered / self.runs:.2f} | "
            f"{self.demand:.2f} | {self.queue_delay * 1e3:.0f} |"
        )


def simulated(model: Model, arrivals: Sequence[Arrival], seconds: float) -> Seen:
    """In invented time."""
    timeline = Timeline()
    server = SimulatedServer(timeline, [model])
    latencies: list[float] = []
    refusals: list[ServingError] = []
    ends: set[float] = set()
    """Answers of one run come at one moment."""

    def send(arrival: Arrival) -> None:
        def reply(result: InferResponse | ServingError) -> None:
            if isinstance(result, ServingError):
                refusals.append(result)
            else:
                latencies.append(timeline.now - arrival.at)
                ends.add(timeline.now)

        server.submit(model.kind(arrival.rows), reply, arrival.at + DEADLINE_S)

    for arrival in arrivals:
        timeline.call_at(arrival.at, send, arrival)
    server.queue_delay()  # the gauge is of what was answered since a look before
    timeline.run(seconds)
    demand, delay = server.demand(), server.queue_delay()
    timeline.run(seconds + DEADLINE_S)
    return Seen(latencies, len(refusals), len(ends), demand, delay)


def real(model: Model, arrivals: Sequence[Arrival], seconds: float) -> Seen:
    """In real time, over gRPC."""
    curve = CostCurve(model.costs)
    spec = TensorSpec("x", DataType.FP32, (-1, WIDTH)), TensorSpec("y", DataType.FP32, (-1, WIDTH))
    fake = FakeModel(
        inputs=(spec[0],), outputs=(spec[1],), seconds=lambda rows: curve.seconds(rows) or 0.0
    )
    runtime = FakeRuntime(fake)
    with tempfile.TemporaryDirectory() as folder, serving("native") as serve:
        write_repository(Path(folder), {model.name: ModelEntry(b"fake", "")})
        at = serve(Path(folder), runtime=runtime, profile_seconds=PROFILE_S).at
        with grpc.insecure_channel(at.grpc) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            latencies: list[float] = []
            refusals: list[object] = []
            left = threading.Semaphore(0)
            at.metrics()
            runs_before = at.metric("nv_inference_exec_count")
            begin = time.monotonic()
            for arrival in arrivals:
                request = service_pb2.ModelInferRequest(model_name=model.name)
                request.inputs.add(name="x", datatype="FP32", shape=(arrival.rows, WIDTH))
                data = np.zeros((arrival.rows, WIDTH), np.float32).tobytes()
                request.raw_input_contents.append(data)
                time.sleep(max(0.0, begin + arrival.at - time.monotonic()))
                future = stub.ModelInfer.future(request, timeout=DEADLINE_S)

                def done(future: Any, due: float = begin + arrival.at) -> None:
                    if future.exception() is None:
                        latencies.append(time.monotonic() - due)
                    else:
                        refusals.append(future.code())
                    left.release()

                future.add_done_callback(done)
            time.sleep(max(0.0, begin + seconds - time.monotonic()))
            scraped = at.metrics()
            for _ in arrivals:
                left.acquire()
            runs = at.metric("nv_inference_exec_count") - runs_before
    return Seen(
        latencies,
        len(refusals),
        runs,
        sample(scraped, "stoker_device_demand", device="cpu"),
        sample(scraped, "stoker_queue_delay_seconds"),
    )


def main() -> None:
    """Both servers at both loads."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulated_server")
    parser.add_argument("--seconds", type=float, default=60.0)
    seconds = parser.parse_args().seconds
    model = models()["gaining"]
    print(facts())
    print(
        "\n| server | late or refused | refused | p50 ms | p90 ms | requests a run | "
        "demand | queue delay ms |\n|---|---|---|---|---|---|---|---|"
    )
    for load in (0.5, 1.6):
        trace = Trace("even", seconds, (model,), step(load, 1.0, 0.0, seconds))
        arrivals = trace.arrivals(SEED)
        for name, server in (("simulated", simulated), ("real", real)):
            print(server(model, arrivals, seconds).row(f"{name}, load {load}", len(arrivals)))


if __name__ == "__main__":
    main()
