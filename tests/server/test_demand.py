"""The autoscaler's number tells what clients ask for, whatever became of their requests.

A young server divides what came by its age, at least 5 s, so what a scrape says is compared with
the seconds of work that were offered at both ends of what that age may have been.
"""

import time
from pathlib import Path

import grpc
import pytest
from stoker.runtime.session import Placement
from tritonclient.grpc import (  # type: ignore[import-untyped]  # ships no types
    service_pb2,
    service_pb2_grpc,
)

from tests.calls import (
    UNLIMITED,
    Connect,
    GrpcClient,
    fake_repository,
    occupy,
    on_both_protocols,
    rows,
    send_each,
    wait_until,
)
from tests.conftest import RunningServer, Serving, sample
from tests.fake_runtime import FakeModel, FakeRuntime
from tests.models import ModelEntry, write_repository

RUN_S = 0.1
"""What a run of any size costs, as the server measures it at warm-up."""
YOUNGEST_S = 5.0
WINDOW_S = 30.0

ONE_BY_ONE = """
max_batch_size: 1
dynamic_batching { default_queue_policy { max_queue_size: 1 } }
parameters { key: "batching_proof" value { string_value: "off" } }
"""
ANY_NUMBER = 'max_batch_size: 1\nparameters { key: "batching_proof" value { string_value: "off" } }'

RETRIES = """{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 3,
    "initialBackoff": "0.001s", "maxBackoff": "0.001s", "backoffMultiplier": 1,
    "retryableStatusCodes": ["RESOURCE_EXHAUSTED"]}}]}"""


def measured(serve: Serving, runtime: FakeRuntime, *folders: Path) -> RunningServer:
    """A server that believes that a run takes RUN_S, while in truth it takes no time."""
    runtime.model.seconds = lambda size: RUN_S
    server = serve(*folders, runtime=runtime, profile_seconds=2.0)
    runtime.model.seconds = None
    return server


def assert_offered(ratio: float, seconds: float, began: float) -> None:
    """That a ratio over 30 s means so many seconds of work, offered since `began`."""
    age = max(YOUNGEST_S, time.monotonic() - began)
    if age >= WINDOW_S:
        pytest.skip("the machine is too busy: what was offered first is out of the window")
    assert seconds / age * 0.99 <= ratio <= seconds / YOUNGEST_S * 1.01


@on_both_protocols
def test_refused_requests_raise_the_demand_above_1(
    serve: Serving, runtime: FakeRuntime, tmp_path: Path, connect: Connect
) -> None:
    began = time.monotonic()
    server = measured(serve, runtime, fake_repository(tmp_path, ONE_BY_ONE))
    row_s = server.at.metric("stoker_model_row_seconds")
    with connect(server.at) as client:
        calls = [occupy(client, runtime), *send_each(client, [1], server)]
        refusals = [client.send("m", {"x": rows(2)}).answer() for _ in range(198)]
        scraped = server.at.metrics()
        runtime.release()
        for call in calls:
            call.answer().output()
    assert {refusal.status for refusal in refusals} == {connect.statuses["OVERLOADED"]}
    assert_offered(sample(scraped, "stoker_device_demand", device="cpu"), 200 * row_s, began)
    assert_offered(sample(scraped, "stoker_demand_ratio"), 200 * row_s, began)
    assert sample(scraped, "stoker_model_demand", model="m") == pytest.approx(
        sample(scraped, "stoker_device_demand", device="cpu"), rel=0.01
    )
    assert sample(scraped, "stoker_demand_ratio") > 1.0


def test_a_burst_is_still_seen_when_the_short_windows_are_over(
    serve: Serving, runtime: FakeRuntime, tmp_path: Path
) -> None:
    server = measured(serve, runtime, fake_repository(tmp_path, ONE_BY_ONE))
    with GrpcClient(server.at) as client:
        calls = [occupy(client, runtime), *send_each(client, [1], server)]
        burst = [client.send("m", {"x": rows(2)}) for _ in range(100)]
        for each in burst:
            each.answer()
        runtime.release()
        for call in calls:
            call.answer().output()
    wait_until(
        lambda: server.at.metric("stoker_model_demand_1s") == 0.0, "a second without requests"
    )
    scraped = server.at.metrics()
    assert sample(scraped, "stoker_demand_peak_ratio", window="1s") > 1.0
    assert sample(scraped, "stoker_demand_peak_ratio", window="5s") > 1.0
    assert sample(scraped, "stoker_demand_ratio_1s") < 1.0


def test_a_retry_that_the_client_declares_is_not_counted_again(
    serve: Serving, runtime: FakeRuntime, tmp_path: Path
) -> None:
    began = time.monotonic()
    server = measured(serve, runtime, fake_repository(tmp_path, ONE_BY_ONE))
    row_s = server.at.metric("stoker_model_row_seconds")
    request = service_pb2.ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype="FP32", shape=(1, 4))
    request.raw_input_contents.append(rows(1).tobytes())
    options = [*UNLIMITED, ("grpc.service_config", RETRIES)]
    with (
        GrpcClient(server.at) as client,
        grpc.insecure_channel(server.at.grpc, options=options) as channel,
    ):
        calls = [occupy(client, runtime), *send_each(client, [1], server)]
        with pytest.raises(grpc.RpcError):
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=30)
        scraped = server.at.metrics()
        runtime.release()
        for call in calls:
            call.answer().output()
    refused = sample(scraped, "stoker_requests_refused_total", reason="queue_full")
    assert refused == 3  # each attempt was one
    assert_offered(sample(scraped, "stoker_model_demand", model="m"), 3 * row_s, began)


def test_models_of_one_device_add_up_each_by_its_own_cost(
    serve: Serving, runtime: FakeRuntime, tmp_path: Path
) -> None:
    folder = write_repository(
        tmp_path, {name: ModelEntry(b"fake", ANY_NUMBER) for name in ("m", "dear")}
    )
    runtime.models["dear"] = FakeModel(seconds=lambda size: 3 * RUN_S)
    began = time.monotonic()
    server = measured(serve, runtime, folder)
    costs = {
        name: server.at.metric("stoker_model_row_seconds", model=name) for name in ("m", "dear")
    }
    assert costs["dear"] > 2 * costs["m"]
    with GrpcClient(server.at) as client:
        calls = [occupy(client, runtime)]
        calls += [client.send("m", {"x": rows(1)}) for _ in range(9)]
        calls += [client.send("dear", {"x": rows(1)}) for _ in range(5)]
        wait_until(
            lambda: server.at.metric("stoker_requests_in_flight") == 15, "15 requests in flight"
        )
        scraped = server.at.metrics()
        runtime.models["dear"].seconds = None
        runtime.release()
        for call in calls:
            call.answer().output()
    own = {name: sample(scraped, "stoker_model_demand", model=name) for name in costs}
    assert_offered(own["m"], 10 * costs["m"], began)
    assert_offered(own["dear"], 5 * costs["dear"], began)
    device = sample(scraped, "stoker_device_demand", device="cpu")
    assert device == pytest.approx(own["m"] + own["dear"], rel=0.01)


def test_a_model_that_warm_up_could_not_measure_is_counted_once_runs_have_told_its_cost(
    serve: Serving, runtime: FakeRuntime, tmp_path: Path
) -> None:
    runtime.model.seconds = lambda size: RUN_S
    server = serve(fake_repository(tmp_path, ANY_NUMBER), runtime=runtime, profile_seconds=0)
    with GrpcClient(server.at) as client:
        client.send("m", {"x": rows(1)}).answer().output()
        assert "\nstoker_demand_ratio " not in server.at.metrics()  # nobody knew what it costs
        client.send("m", {"x": rows(1)}).answer().output()
    scraped = server.at.metrics()
    assert sample(scraped, "stoker_model_demand", model="m") > 0.0
    assert sample(scraped, "stoker_device_demand", device="cpu") > 0.0
    assert "\nstoker_demand_ratio " in scraped


def test_a_model_on_two_devices_offers_half_of_its_work_to_each(
    serve: Serving, tmp_path: Path
) -> None:
    runtime = FakeRuntime(placements=(Placement("cuda:0", 1, 1), Placement("cuda:1", 1, 1)))
    began = time.monotonic()
    server = measured(serve, runtime, fake_repository(tmp_path, ANY_NUMBER))
    row_s = server.at.metric("stoker_model_row_seconds")
    with GrpcClient(server.at) as client:
        for call in [client.send("m", {"x": rows(1)}) for _ in range(10)]:
            call.answer().output()
    scraped = server.at.metrics()
    for device in ("cuda:0", "cuda:1"):
        assert_offered(sample(scraped, "stoker_device_demand", device=device), 5 * row_s, began)
