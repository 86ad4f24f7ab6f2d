"""CUDA graphs: which models may be captured, what a wrong replay is, and who waits for whom."""

import logging
import threading
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.engine.served_model import ServedModel
from stoker.errors import DeviceFailed, ExecutionFailed, OutOfMemory, ServingError
from stoker.model import ModelConfig, Optimization, TensorConfig
from stoker.runtime.cuda_graphs import (
    CONTROL_FLOW,
    NO_GRAPHS,
    RANDOM,
    TOLERANCES,
    CaptureGate,
    GraphFacts,
    GraphSupport,
    difference,
    ineligibility,
    verify,
    wants_graphs,
)
from stoker.runtime.session import Placement
from stoker.tensor import Array, DataType, TensorSpec

from tests.engine_parts import Serving, answer, config, numbers, play, request, serving
from tests.fake_runtime import FakeModel, FakeRuntime

WANTED = GraphSupport(is_wanted=True)
PATIENCE = 10.0


# Who asks for them


def asking(*, in_file: bool, parameter: str = "") -> ModelConfig:
    parameters = {"cuda_graphs": parameter} if parameter else {}
    return replace(config(), optimization=Optimization(cuda_graphs=in_file), parameters=parameters)


def test_a_file_or_the_server_asks_for_graphs_and_a_parameter_excepts_a_model() -> None:
    assert wants_graphs(asking(in_file=True), by_default=False)
    assert wants_graphs(asking(in_file=False), by_default=True)
    assert not wants_graphs(asking(in_file=False), by_default=False)
    assert not wants_graphs(asking(in_file=False, parameter="off"), by_default=True)
    assert wants_graphs(asking(in_file=False, parameter="on"), by_default=False)


def test_support_is_told_in_words() -> None:
    assert str(NO_GRAPHS) == "off"
    assert str(WANTED) == "on"
    assert WANTED.captures
    given_up = GraphSupport(is_wanted=True, problem="it has Loop")
    assert str(given_up) == "not used: it has Loop"
    assert not given_up.captures


# Which models can have them

PLAIN = GraphFacts(("MatMul", "Relu"), ())


def test_a_plain_model_may_be_captured() -> None:
    assert ineligibility(PLAIN) is None


@pytest.mark.parametrize("operator", sorted(CONTROL_FLOW | RANDOM))
def test_operators_that_a_graph_cannot_hold_are_named(operator: str) -> None:
    reason = ineligibility(replace(PLAIN, operators=("MatMul", operator)))
    assert reason is not None
    assert operator in reason


def test_nodes_that_compute_on_the_cpu_are_named() -> None:
    reason = ineligibility(replace(PLAIN, computing_on_cpu=("TopK", "NonZero", "TopK")))
    assert reason is not None
    assert reason.startswith("NonZero, TopK compute on the CPU")


def test_memory_that_is_given_back_after_each_run_is_a_reason() -> None:
    reason = ineligibility(replace(PLAIN, shrinks_arena=True))
    assert reason is not None
    assert "memory.enable_memory_arena_shrinkage" in reason


# What a wrong replay is


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=8))
def test_the_same_values_differ_by_nothing(values: list[float]) -> None:
    array = np.array(values, np.float32)
    assert difference(array, array.copy(), DataType.FP32) == 0


def _as(datatype: DataType, values: list[float]) -> Array:
    array = np.array(values, np.float32)
    if datatype is DataType.BF16:
        return np.asarray((array.view(np.uint32) >> 16).astype(np.uint16))
    return np.asarray(array.astype(datatype.numpy))


@pytest.mark.parametrize("datatype", TOLERANCES)
def test_a_difference_is_relative_to_the_largest_value(datatype: DataType) -> None:
    expected, got = (_as(datatype, [0, second, 200]) for second in (1, 3))
    assert difference(got, expected, datatype) == pytest.approx(0.01, rel=0.02)


def test_not_a_number_is_only_equal_to_itself() -> None:
    nan = np.array([1.0, np.nan, np.inf], np.float32)
    assert difference(nan, nan.copy(), DataType.FP32) == 0
    assert difference(np.ones(3, np.float32), nan, DataType.FP32) == np.inf
    assert difference(nan, np.ones(3, np.float32), DataType.FP32) == np.inf
    negative = np.array([1.0, np.nan, -np.inf], np.float32)
    assert difference(nan, negative, DataType.FP32) == np.inf


def test_integers_must_be_the_same() -> None:
    ones = np.ones(3, np.int64)
    assert difference(ones, ones.copy(), DataType.INT64) == 0
    assert difference(ones + 1, ones, DataType.INT64) == np.inf


def test_the_output_that_is_wrong_is_named_with_both_numbers() -> None:
    expected = {"a": np.ones(2, np.float32), "b": np.full(2, 10, np.float32)}
    datatypes = {"a": DataType.FP32, "b": DataType.FP32}
    assert verify(expected, expected, datatypes) is None
    wrong = {**expected, "b": np.full(2, 11, np.float32)}
    assert verify(wrong, expected, datatypes) == (
        "output 'b' of a replay differs from a run without graphs by 0.1, more than 0.0001"
    )


# Who waits for whom


def test_a_capture_waits_for_the_callers_and_they_for_it() -> None:
    gate = CaptureGate()
    order: list[str] = []

    def capture() -> None:
        with gate.capture():
            order.append("capture begins")
            other.start()  # comes while the graph is captured
            order.append("capture ends")

    def call() -> None:
        with gate.calls():
            order.append("second call")

    capturing, other = threading.Thread(target=capture), threading.Thread(target=call)
    with gate.calls():
        capturing.start()
        order.append("first call")
    capturing.join(PATIENCE)
    other.join(PATIENCE)
    assert order == ["first call", "capture begins", "capture ends", "second call"]


def test_callers_call_beside_each_other_and_errors_leave_the_gate_open() -> None:
    gate = CaptureGate()
    with pytest.raises(ExecutionFailed), gate.calls():
        raise ExecutionFailed("bad data")
    with pytest.raises(ExecutionFailed), gate.capture():
        raise ExecutionFailed("bad data")
    both = threading.Barrier(2, timeout=PATIENCE)

    def call() -> None:
        with gate.calls():
            both.wait()

    threads = [threading.Thread(target=call) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(PATIENCE)
    assert not any(each.is_alive() for each in threads)
    with gate.capture():
        pass


# The sequence, by the engine on a fake GPU


def gpu(model: FakeModel, *, instances: int = 1) -> FakeRuntime:
    model.graphs = WANTED
    return FakeRuntime(model, placements=(Placement("cuda:0", 1, 1),) * instances)


async def prepared(at: Serving, *, max_batch_size: int = 8) -> ServedModel:
    served = at.add(config(max_batch_size=max_batch_size))
    await at.engine.prepare(served)
    return served


async def answers(at: Serving, rows: int) -> Array:
    (result,) = await at.submit(request(rows=rows, value=3)).all(1)
    return answer(result)


def test_each_bucket_is_captured_once_the_largest_first_by_the_thread_that_serves() -> None:
    async def scenario() -> None:
        model = FakeModel()
        async with serving(runtime=gpu(model)) as at:
            await prepared(at)
            (session,) = at.runtime.sessions
            assert [(graph, rows) for graph, rows, _ in session.captured] == [
                (1, 8),
                (2, 4),
                (3, 2),
                (4, 1),
            ]
            at.runtime.forget()
            for rows in (3, 1, 8):
                np.testing.assert_array_equal(await answers(at, rows), 2 * numbers(rows, 3))
            assert [run.rows for run in at.runtime.runs] == [4, 1, 8]
            threads = {thread for _, _, thread in session.captured}
            assert {run.thread for run in at.runtime.runs} == threads
            assert str(session.graphs) == "on"

    play(scenario)


def test_each_graph_of_each_edge_has_an_id_of_its_own_however_many_buckets_there_are() -> None:
    async def scenario() -> None:
        dims = ("batch", "length")
        spec = TensorSpec("x", DataType.FP32, (-1, -1))
        model = FakeModel(
            inputs=(spec,),
            outputs=(replace(spec, name="y"),),
            dimension_names={"x": dims, "y": dims},
        )
        tensors = config(
            max_batch_size=32,
            inputs=(TensorConfig("x", DataType.FP32, (-1,)),),
            outputs=(TensorConfig("y", DataType.FP32, (-1,)),),
        )
        written = {
            "batch_buckets": ",".join(map(str, range(1, 17))),
            "bucket_dimension": "x:1=2,4",
        }
        async with serving(runtime=gpu(model)) as at:
            served = at.add(replace(tensors, parameters=written))
            await at.engine.prepare(served)
            (session,) = at.runtime.sessions
            ids = [graph for graph, _, _ in session.captured]
            assert len(ids) == 2 * 17
            assert len(set(ids)) == len(ids)
            assert str(session.graphs) == "on"

    play(scenario)


def test_each_instance_captures_on_its_own_thread() -> None:
    async def scenario() -> None:
        model = FakeModel()
        async with serving(runtime=gpu(model, instances=2)) as at:
            await prepared(at)
            threads = [{thread for *_, thread in each.captured} for each in at.runtime.sessions]
            assert [len(each) for each in threads] == [1, 1]
            assert threads[0] != threads[1]

    play(scenario)


@pytest.mark.parametrize(
    "error",
    [ExecutionFailed("CUDA failure 900: not permitted"), OutOfMemory("no room for a graph")],
)
def test_a_capture_that_fails_leaves_a_model_that_serves_without_graphs(
    error: ServingError,
) -> None:
    async def scenario() -> None:
        model = FakeModel(capture_error=lambda rows: error if rows == 4 else None)
        async with serving(runtime=gpu(model)) as at:
            await prepared(at)
            (session,) = at.runtime.sessions
            assert session.graphs.problem == (
                f"the graph of 4 rows could not be captured: {error.message}"
            )
            np.testing.assert_array_equal(await answers(at, 8), 2 * numbers(8, 3))

    play(scenario)


def test_a_replay_that_answers_otherwise_is_never_served() -> None:
    def stale(feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        return {"y": np.zeros_like(feeds["x"])}

    async def scenario() -> None:
        model = FakeModel(replay=stale)
        async with serving(runtime=gpu(model)) as at:
            await prepared(at)
            (session,) = at.runtime.sessions
            assert "differs from a run without graphs by 1" in session.graphs.problem
            (device,) = at.engine.metadata("m").devices
            assert device.cuda_graphs == f"not used: {session.graphs.problem}"
            assert device.facts()["cuda_graphs"] == device.cuda_graphs
            assert device.facts()["batch_buckets"] == (
                "1,2,4,8: powers of two, since no cost is measured"
            )
            np.testing.assert_array_equal(await answers(at, 8), 2 * numbers(8, 3))

    play(scenario)


def test_a_device_that_breaks_in_a_capture_is_no_reason_to_serve() -> None:
    async def scenario() -> None:
        model = FakeModel(capture_error=lambda rows: DeviceFailed("the GPU is gone"))
        async with serving(runtime=gpu(model)) as at:
            served = at.add(config())
            with pytest.raises(DeviceFailed, match="the GPU is gone"):
                await at.engine.prepare(served)

    play(scenario)


def test_a_model_that_cannot_run_zeros_serves_without_graphs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(feeds: Mapping[str, Array]) -> ServingError | None:
        return None if feeds["x"].any() else ExecutionFailed("zeros are not allowed")

    async def scenario() -> None:
        model = FakeModel(fail=fail)
        async with serving(runtime=gpu(model)) as at:
            await prepared(at)
            (session,) = at.runtime.sessions
            assert session.graphs.problem == ("the model does not run zeros: zeros are not allowed")
            for _ in range(2):
                np.testing.assert_array_equal(await answers(at, 2), 2 * numbers(2, 3))

    with caplog.at_level(logging.INFO):
        play(scenario)


def test_without_fixed_bindings_there_are_no_graphs() -> None:
    async def scenario() -> None:
        model = FakeModel(compute=lambda feeds: {"y": feeds["x"][:, None]})
        async with serving(runtime=gpu(model)) as at:
            await prepared(at)
            (session,) = at.runtime.sessions
            assert session.graphs.problem == "the model has no fixed bindings"
            assert session.captured == []

    play(scenario)


def test_on_the_cpu_nothing_is_prepared() -> None:
    async def scenario() -> None:
        async with serving(FakeModel()) as at:
            await prepared(at)
            assert at.runtime.runs == []

    play(scenario)
