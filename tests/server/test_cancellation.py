"""A client that goes away frees its place at once and disturbs nobody."""

import socket

import numpy as np

from tests.calls import (
    Connect,
    RestClient,
    ServeFake,
    occupy,
    on_both_protocols,
    rest_request,
    rows,
    send_each,
    statistics,
    values_of,
    wait_for_in_flight,
    wait_for_queued,
)
from tests.conftest import RunningServer
from tests.fake_runtime import FakeRuntime

ONE_PLACE = """
max_batch_size: 8
dynamic_batching { default_queue_policy { max_queue_size: 1 } }
"""


def cancelled(server: RunningServer) -> float:
    return server.at.metric("nv_inference_request_failure", model="m", reason="CANCELED")


@on_both_protocols
def test_a_cancelled_request_in_the_queue_gives_back_its_place_and_is_never_run(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect
) -> None:
    server = serve_fake(ONE_PLACE)
    with connect(server.at) as client:
        first = occupy(client, runtime)
        (gone,) = send_each(client, [1], server)
        assert client.send("m", {"x": rows(2)}).answer().status == connect.statuses["OVERLOADED"]
        gone.cancel()
        wait_for_queued(server, 0)
        admission = server.on_loop(lambda each: each.engine.served("m").admission)
        assert (admission.rows, admission.bytes) == (0, 0)
        (next_one,) = send_each(client, [3], server)
        runtime.release()
        first.answer().output()
        np.testing.assert_array_equal(next_one.answer().output(), rows(6))
    assert [values_of(run) for run in runtime.runs] == [[0], [3]]
    assert cancelled(server) == 1
    assert statistics(server).success_count == 2


@on_both_protocols
def test_a_cancelled_request_does_not_disturb_those_queued_with_it(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect
) -> None:
    server = serve_fake()
    with connect(server.at) as client:
        occupy(client, runtime)
        calls = send_each(client, [1, 2, 3, 4, 5], server)
        for gone in (0, 2, 4):
            calls[gone].cancel()
        wait_for_queued(server, 2)
        runtime.release()
        answers = [calls[kept].answer().output() for kept in (1, 3)]
    np.testing.assert_array_equal(answers, [rows(4), rows(8)])
    assert [values_of(run) for run in runtime.runs] == [[0], [2, 4]]
    assert cancelled(server) == 3


@on_both_protocols
def test_a_cancelled_request_does_not_disturb_its_running_batch(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect
) -> None:
    server = serve_fake()
    with connect(server.at) as client:
        first = occupy(client, runtime)
        calls = send_each(client, [1, 2, 3], server)
        runtime.step()
        runtime.wait_for_run(2)
        first.answer().output()
        calls[1].cancel()
        wait_for_in_flight(server, 2)  # the run goes on, the place of one is free
        runtime.release()
        answers = [calls[kept].answer().output() for kept in (0, 2)]
    np.testing.assert_array_equal(answers, [rows(2), rows(6)])
    assert [values_of(run) for run in runtime.runs] == [[0], [1, 2, 3]]
    assert cancelled(server) == 1
    assert statistics(server).success_count == 3


@on_both_protocols
def test_a_batch_of_which_everybody_left_harms_nobody_after_it(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect
) -> None:
    server = serve_fake()
    with connect(server.at) as client:
        occupy(client, runtime).cancel()
        wait_for_in_flight(server, 0)
        runtime.release()
        np.testing.assert_array_equal(client.send("m", {"x": rows(1)}).answer().output(), rows(2))
    assert cancelled(server) == 1


@on_both_protocols
def test_a_cancelled_request_of_many_parts_is_one_request_and_no_later_part_runs(
    serve_fake: ServeFake, runtime: FakeRuntime, connect: Connect
) -> None:
    server = serve_fake()
    with connect(server.at) as client:
        runtime.forget()
        runtime.hold()
        gone = client.send("m", {"x": rows(*range(20))})
        runtime.wait_for_run()
        gone.cancel()
        wait_for_in_flight(server, 0)
        assert server.on_loop(lambda each: each.engine.served("m").admission.bytes) == 0
        runtime.release()
        client.send("m", {"x": rows(99)}).answer().output()
    assert [len(values_of(run)) for run in runtime.runs] == [8, 1]
    assert values_of(runtime.runs[1]) == [99]
    assert cancelled(server) == 1


def test_a_connection_that_closes_cancels_all_requests_that_were_pipelined_on_it(
    serve_fake: ServeFake, runtime: FakeRuntime
) -> None:
    server = serve_fake()
    path, headers, body = rest_request("m", {"x": rows(1)})
    lines = [f"POST {path} HTTP/1.1", "Host: stoker", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    message = "\r\n".join([*lines, "", ""]).encode() + body
    with RestClient(server.at) as client:
        first = occupy(client, runtime)
        with socket.create_connection(("127.0.0.1", server.at.http_port)) as pipeline:
            pipeline.sendall(message * 5)
            wait_for_queued(server, 5)
        wait_for_queued(server, 0)
        runtime.release()
        first.answer().output()
    assert len(runtime.runs) == 1
    assert cancelled(server) == 5
