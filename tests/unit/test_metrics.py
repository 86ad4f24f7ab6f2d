"""The text of `/metrics`: equal to the library's, exact names, and written a share at a time."""

import asyncio
import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from stoker.telemetry import metric_table as table
from stoker.telemetry.exposition import Format
from stoker.telemetry.machine import Machine
from stoker.telemetry.metrics import LINES_PER_TURN, MetricsRegistry
from stoker.telemetry.model_series import LINES_PER_READING
from stoker.telemetry.statistics import FailureReason, ModelStatistics, RefusalReason
from stoker.telemetry.text_pieces import TextPieces

from tests.filled_metrics import ON_A_GPU, filled_metrics, serve_one, write_machine
from tests.hand_loop import HandLoop

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
OPENMETRICS = "application/openmetrics-text"
LINES_OF_A_USED_MODEL = 117
WORK_OF_A_USED_MODEL = LINES_OF_A_USED_MODEL + LINES_PER_READING
LINES_OF_TENSORRT = 12
LINES_OF_A_LOADED_MODEL = 47
LINES_OF_THE_SERVER = 80
LINES_OF_A_GPU = 54


def scrape(metrics: MetricsRegistry, accept: str = "text/plain") -> str:
    return b"".join(asyncio.run(metrics.render(accept))[1]).decode()


def samples(text: str) -> dict[str, str]:
    """Each sample's line up to its number -> the number."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert len({line.rpartition(" ")[0] for line in lines}) == len(lines), "a series came twice"
    return {key: value for key, _, value in (line.rpartition(" ") for line in lines)}


def empty(tmp_path: Path) -> MetricsRegistry:
    return MetricsRegistry(machine=Machine(tmp_path), clock=HandLoop().clock)


def test_openmetrics_text_is_the_librarys_to_the_byte(tmp_path: Path) -> None:
    metrics = filled_metrics(tmp_path)

    text = scrape(metrics, OPENMETRICS)

    assert text == generate_openmetrics(metrics.library).decode()  # type: ignore[no-untyped-call]


def test_classic_text_is_the_librarys_but_names_tritons_counters_by_their_type(
    tmp_path: Path,
) -> None:
    metrics = filled_metrics(tmp_path)

    text = scrape(metrics)

    expected = generate_latest(metrics.library).decode()
    assert expected.count(" untyped\n") == 10
    assert text == expected.replace(" untyped\n", " counter\n")


def test_every_metric_of_the_table_has_a_series_in_the_filled_registry(tmp_path: Path) -> None:
    """Or the two tests above would compare less than they claim."""
    keys = samples(scrape(filled_metrics(tmp_path)))

    names = {key.partition("{")[0].strip() for key in keys}
    for suffix in ("_bucket", "_count", "_sum"):
        names |= {name.removesuffix(suffix) for name in names}
    assert [metric.name for metric in table.TABLE if metric.name not in names] == []


def test_openmetrics_text_is_read_by_the_librarys_strict_parser(tmp_path: Path) -> None:
    text = scrape(filled_metrics(tmp_path), OPENMETRICS)

    families = {
        family.name: family
        for family in text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    }

    assert families["nv_inference_count"].type == "unknown"
    assert families["nv_inference_count"].samples[0].name == "nv_inference_count"
    assert families["stoker_batches"].type == "counter"
    assert families["stoker_request_duration_seconds"].unit == "seconds"


def test_the_newest_trace_of_a_bucket_is_its_exemplar_in_openmetrics_text_only(
    tmp_path: Path,
) -> None:
    metrics = empty(tmp_path)
    statistics = ModelStatistics("m", 1)
    metrics.add_model(statistics)
    for request_ns in (3_000_000, 4_000_000, 70_000_000):
        statistics.record_success(request_ns, 1_000)
    plain = scrape(metrics, OPENMETRICS)
    classic = scrape(metrics)
    statistics.note_exemplar(3_000_000, "0" * 31 + "a", 1_700_000_000.5)
    statistics.note_exemplar(4_000_000, "0" * 31 + "b", 1_700_000_001.5)
    statistics.note_exemplar(70_000_000, "0" * 31 + "c", 1_700_000_002.5)

    traced = scrape(metrics, OPENMETRICS)

    changed = set(traced.splitlines()) - set(plain.splitlines())
    bucket = 'stoker_request_duration_seconds_bucket{le="%s",model="m",version="1"} '
    assert changed == {
        bucket % "0.005" + '2.0 # {trace_id="0000000000000000000000000000000b"} 0.004 1700000001.5',
        bucket % "0.1" + '3.0 # {trace_id="0000000000000000000000000000000c"} 0.07 1700000002.5',
    }
    assert scrape(metrics) == classic
    assert list(text_string_to_metric_families(traced))  # type: ignore[no-untyped-call]  # theirs


def test_a_models_lines_have_its_numbers(tmp_path: Path) -> None:
    metrics = empty(tmp_path)
    statistics = ModelStatistics("digits", 2, tags={"team": "vision"})
    metrics.add_model(statistics, {table.MODEL_DEMAND: lambda: 0.5})
    statistics.load_seconds = 0.75
    statistics.pending, statistics.in_flight = 3, 4
    serve_one(statistics, seconds=0.002, rows=4, requests=2)
    statistics.record_refusal(RefusalReason.QUEUE_FULL)

    found = samples(scrape(metrics))

    tag_model = '_team="vision",model="digits"'
    labels = '{_team="vision",model="digits",version="2"}'
    expected = {
        f"nv_inference_request_success{labels}": "2.0",
        f'nv_inference_request_failure{{{tag_model},reason="REJECTED",version="2"}}': "1.0",
        f'nv_inference_request_failure{{{tag_model},reason="BACKEND",version="2"}}': "0.0",
        f"nv_inference_count{labels}": "4.0",
        f"nv_inference_exec_count{labels}": "1.0",
        f"nv_inference_request_duration_us{labels}": "4800.0",
        f"nv_inference_queue_duration_us{labels}": "600.0",
        f"nv_inference_compute_input_duration_us{labels}": "42.0",
        f"nv_inference_compute_infer_duration_us{labels}": "4000.0",
        f"nv_inference_compute_output_duration_us{labels}": "15.0",
        f"nv_inference_pending_request_count{labels}": "3.0",
        f"nv_model_load_duration_secs{labels}": "0.75",
        f'stoker_compute_duration_seconds_bucket{{_team="vision",le="0.001",{tag_model[15:]},'
        'version="2"}': "0.0",
        f'stoker_compute_duration_seconds_bucket{{_team="vision",le="0.0025",{tag_model[15:]},'
        'version="2"}': "1.0",
        f"stoker_compute_duration_seconds_count{labels}": "1.0",
        f"stoker_compute_duration_seconds_sum{labels}": "0.002",
        f"stoker_batch_rows_sum{labels}": "4.0",
        f'stoker_batches_total{{{tag_model},reason="idle",version="2"}}': "1.0",
        f'stoker_requests_refused_total{{{tag_model},reason="queue_full",version="2"}}': "1.0",
        f"stoker_model_requests_in_flight{labels}": "4.0",
        f"stoker_model_demand{labels}": "0.5",
        "stoker_requests_in_flight": "4.0",
        "stoker_requests_pending": "3.0",
    }
    assert {key: found.get(key) for key in expected} == expected


def test_a_change_of_any_number_shows_in_the_next_scrape(tmp_path: Path) -> None:
    metrics = filled_metrics(tmp_path)
    statistics = ModelStatistics("m", 1)
    gauges = {"demand": 0.0}
    metrics.add_model(statistics, {table.MODEL_DEMAND: lambda: gauges["demand"]})
    before = scrape(metrics, OPENMETRICS)
    changes: tuple[Callable[[], object], ...] = (
        lambda: serve_one(statistics, requests=0),
        lambda: statistics.record_success(5_000_000, 1_000_000),
        *(partial(statistics.record_refusal, reason) for reason in RefusalReason),
        *(partial(statistics.record_failure, reason, 1) for reason in FailureReason),
        lambda: setattr(statistics, "pending", 7),
        lambda: setattr(statistics, "in_flight", 7),
        lambda: setattr(statistics, "bisections", 7),
        lambda: setattr(statistics, "out_of_memory", 7),
        lambda: setattr(statistics, "device_retries", 7),
        lambda: setattr(statistics, "hung_runs", 7),
        lambda: setattr(statistics, "slow_loop_runs", 7),
        lambda: setattr(statistics, "wrong_refusals", 7),
        lambda: setattr(statistics, "load_seconds", 7.5),
        lambda: statistics.note_exemplar(5_000_000, "1" * 32, 1_700_000_000.0),
        lambda: gauges.update(demand=0.25),
    )
    for change in changes:
        change()
        after = scrape(metrics, OPENMETRICS)
        assert after != before
        assert after == generate_openmetrics(metrics.library).decode()  # type: ignore[no-untyped-call]
        before = after


def test_the_accept_header_chooses_the_content_type(tmp_path: Path) -> None:
    metrics = empty(tmp_path)

    classic, text = asyncio.run(metrics.render("*/*"))
    openmetrics, om_text = asyncio.run(metrics.render(OPENMETRICS))

    assert classic == "text/plain; version=0.0.4; charset=utf-8"
    assert openmetrics == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert b"".join(om_text).endswith(b"\n# EOF\n")
    assert b"# EOF" not in b"".join(text)


def test_demand_and_histograms_are_absent_before_anything_is_measured(tmp_path: Path) -> None:
    metrics = empty(tmp_path)
    metrics.add_model(ModelStatistics("m", 1), {table.MODEL_DEMAND: lambda: None})
    metrics.register(table.DEMAND, lambda: None)

    found = samples(scrape(metrics))

    assert not [key for key in found if "demand" in key or "_bucket" in key]
    assert 'nv_inference_count{model="m",version="1"}' in found


def test_a_removed_model_leaves_no_series_and_a_reloaded_one_is_not_doubled(
    tmp_path: Path,
) -> None:
    metrics = empty(tmp_path)
    old, new = ModelStatistics("m", 1), ModelStatistics("m", 1)
    metrics.add_model(old)
    serve_one(old)
    metrics.add_model(new)
    metrics.remove_model(old)

    assert samples(scrape(metrics))['nv_inference_count{model="m",version="1"}'] == "0.0"

    metrics.remove_model(new)
    assert 'model="m"' not in scrape(metrics)


def test_the_queue_delay_is_the_mean_of_the_last_window_over_all_models(tmp_path: Path) -> None:
    loop = HandLoop(100.0)
    metrics = MetricsRegistry(machine=Machine(tmp_path), clock=loop.clock)
    first, second = ModelStatistics("a", 1), ModelStatistics("b", 1)
    metrics.add_model(first)
    metrics.add_model(second)
    first.record_success(900_000_000, 100_000_000)
    second.record_success(900_000_000, 300_000_000)
    loop.now += 10
    assert samples(scrape(metrics))["stoker_queue_delay_seconds"] == "0.2"

    metrics.remove_model(first)
    loop.now += 31
    assert samples(scrape(metrics))["stoker_queue_delay_seconds"] == "0.0"
    second.record_success(900_000_000, 500_000_000)
    loop.now += 1
    assert samples(scrape(metrics))["stoker_queue_delay_seconds"] == "0.5"


def test_tags_that_become_the_same_label_keep_the_first(tmp_path: Path) -> None:
    metrics = empty(tmp_path)
    metrics.add_model(ModelStatistics("m", 1, tags={"a-b": "1", "a.b": "2", "ü": "3"}))

    found = samples(scrape(metrics))

    assert 'nv_inference_count{__="3",_a_b="1",model="m",version="1"}' in found


def test_a_turn_of_the_loop_writes_a_few_models_and_untouched_ones_cost_a_part(
    tmp_path: Path,
) -> None:
    metrics = empty(tmp_path)
    models = [ModelStatistics(f"m{number}", 1) for number in range(100)]
    for statistics in models:
        metrics.add_model(statistics)
        serve_one(statistics)

    touched = list(metrics.write(Format.CLASSIC, TextPieces()))
    untouched = list(metrics.write(Format.CLASSIC, TextPieces()))
    serve_one(models[50])
    one = list(metrics.write(Format.CLASSIC, TextPieces()))

    assert max(touched) <= LINES_PER_TURN + WORK_OF_A_USED_MODEL
    assert len(touched) >= 100 * 90 / (LINES_PER_TURN + WORK_OF_A_USED_MODEL)
    assert sum(untouched) < sum(touched) / 3
    assert sum(one) - sum(untouched) <= WORK_OF_A_USED_MODEL
    assert max(untouched + one) <= LINES_PER_TURN + WORK_OF_A_USED_MODEL


def test_a_scrape_leaves_nothing_of_each_model_to_the_garbage_collector(tmp_path: Path) -> None:
    """Or a collection, in whichever turn of the loop it comes, looks through all of it."""
    metrics = empty(tmp_path)
    models = [ModelStatistics(f"m{number}", 1) for number in range(200)]
    demand = 0.25
    for statistics in models:
        metrics.add_model(statistics, {table.MODEL_DEMAND: lambda: demand})
        serve_one(statistics)
    list(metrics.write(Format.OPENMETRICS, TextPieces()))
    for statistics in models:
        serve_one(statistics)
    demand = 0.5
    gc.collect()
    gc.disable()

    try:
        list(metrics.write(Format.OPENMETRICS, TextPieces()))
        left = len(gc.get_objects(generation=0))
    finally:
        gc.enable()

    assert left < len(models) / 2


def test_the_text_of_many_models_leaves_in_pieces(tmp_path: Path) -> None:
    metrics = empty(tmp_path)
    for number in range(200):
        statistics = ModelStatistics(f"m{number}", 1)
        metrics.add_model(statistics)
        serve_one(statistics)

    _, pieces = asyncio.run(metrics.render(OPENMETRICS))

    text = b"".join(pieces).decode()
    assert text == generate_openmetrics(metrics.library).decode()  # type: ignore[no-untyped-call]
    assert max(map(len, pieces)) < len(text) / 10


def test_a_metric_with_a_series_for_each_model_is_written_in_shares_too(tmp_path: Path) -> None:
    metrics = empty(tmp_path)
    ready: dict[tuple[str, ...], float] = {(f"m{number}", "1"): 1.0 for number in range(1000)}
    metrics.register_labelled(table.MODEL_READY, lambda: ready)

    text = TextPieces()
    shares = list(metrics.write(Format.CLASSIC, text))
    del ready["m7", "1"]
    ready["m8", "1"] = 0.0
    found = samples(scrape(metrics))

    assert max(shares) <= 2 * LINES_PER_TURN
    assert b"".join(text.pieces).decode().count("stoker_model_ready{") == 1000
    assert 'stoker_model_ready{model="m7",version="1"}' not in found
    assert found['stoker_model_ready{model="m8",version="1"}'] == "0.0"


def test_the_loop_runs_other_work_between_the_shares_of_a_scrape(tmp_path: Path) -> None:
    metrics = empty(tmp_path)
    for number in range(100):
        statistics = ModelStatistics(f"m{number}", 1)
        metrics.add_model(statistics)
        serve_one(statistics)

    async def count_turns() -> int:
        turns = 0

        def turn() -> None:
            nonlocal turns
            turns += 1
            if not done:
                asyncio.get_running_loop().call_soon(turn)

        done = False
        turn()
        await metrics.render("")
        done = True
        return turns

    assert asyncio.run(count_turns()) >= 100 * 90 / (LINES_PER_TURN + WORK_OF_A_USED_MODEL)


def test_two_scrapes_at_once_are_both_whole(tmp_path: Path) -> None:
    metrics = empty(tmp_path)
    models = [ModelStatistics(f"m{number}", 1) for number in range(30)]
    for statistics in models:
        metrics.add_model(statistics)
        serve_one(statistics)
    first = TextPieces()
    second = TextPieces()
    writing = metrics.write(Format.CLASSIC, first)
    next(writing)
    serve_one(models[0])
    serve_one(models[29])
    list(metrics.write(Format.CLASSIC, second))
    list(writing)

    name = 'nv_inference_exec_count{model="m%d",version="1"}'
    early, late = (
        samples(b"".join(first.pieces).decode()),
        samples(b"".join(second.pieces).decode()),
    )
    assert early.keys() == late.keys()
    assert (early[name % 0], late[name % 0]) == ("1.0", "2.0")
    assert (early[name % 29], late[name % 29]) == ("2.0", "2.0")


def test_a_model_that_comes_or_goes_during_a_scrape_does_not_tear_it(tmp_path: Path) -> None:
    metrics = empty(tmp_path)
    models = [ModelStatistics(f"m{number}", 1) for number in range(30)]
    for statistics in models:
        metrics.add_model(statistics)
        serve_one(statistics)
    text = TextPieces()
    writing = metrics.write(Format.CLASSIC, text)

    next(writing)
    metrics.remove_model(models[29])
    metrics.add_model(ModelStatistics("late", 1))
    for _ in writing:
        serve_one(models[0])

    found = samples(b"".join(text.pieces).decode())
    assert len([key for key in found if key.startswith("nv_inference_count")]) == 30
    assert found['stoker_batch_rows_count{model="m0",version="1"}'] == "1.0"


def test_the_series_stay_within_their_budget(tmp_path: Path) -> None:
    """Ten pods of 100 models must fit into a small Prometheus."""
    metrics = filled_metrics(tmp_path)

    keys = list(samples(scrape(metrics)))

    of_tensorrt = [key for key in keys if key.startswith("stoker_tensorrt_")]
    assert len(of_tensorrt) == LINES_OF_TENSORRT
    keys = [key for key in keys if key not in of_tensorrt]
    of_models = [key for key in keys if "model=" in key]
    used = [key for key in of_models if 'model="resnet"' in key]
    loaded = [key for key in of_models if 'model="idle"' in key]
    assert len(used) == LINES_OF_A_USED_MODEL
    assert len(loaded) == LINES_OF_A_LOADED_MODEL
    of_gpu = [key for key in keys if "gpu_uuid=" in key]
    assert len(of_gpu) <= LINES_OF_A_GPU
    assert len(keys) - len(of_models) - len(of_gpu) <= LINES_OF_THE_SERVER
    assert (
        f"A loaded model has at most {LINES_OF_A_LOADED_MODEL} series, a used one at most "
        f"{LINES_OF_A_USED_MODEL};"
    ) in " ".join(DOCUMENT.read_text().split())


def test_what_is_not_in_the_table_cannot_be_registered(tmp_path: Path) -> None:
    metrics = empty(tmp_path)

    with pytest.raises(ValueError, match=r"expected labels \['device'\]"):
        metrics.register(table.DEVICE_DEMAND, lambda: 1.0)
    with pytest.raises(ValueError, match="registered once"):
        metrics.register(table.START_TIME, lambda: 1.0)
    with pytest.raises(ValueError, match="expected a server's metric"):
        metrics.register(table.PENDING, lambda: 1.0)
    with pytest.raises(ValueError, match=r"expected any of \['stoker_model_demand', "):
        metrics.add_model(ModelStatistics("m", 1), {table.PENDING: lambda: 1.0})
    with pytest.raises(ValueError, match=r"expected any of \['stoker_model_info', "):
        metrics.add_model(ModelStatistics("m", 1), facts={table.PENDING: {("x",): 1.0}})


def test_a_models_place_is_told_by_device_and_provider(tmp_path: Path) -> None:
    metrics = empty(tmp_path)
    statistics = ModelStatistics("m", 1, tags={"team": "a"})
    metrics.add_model(statistics, facts=ON_A_GPU)
    found = samples(scrape(metrics))
    labels = '_team="a",device="cuda:0",model="m",provider="CUDAExecutionProvider",version="1"'
    info = (
        '_team="a",compute_capability="8.9",device="cuda:0",device_name="NVIDIA L4",model="m",'
        'provider="CUDAExecutionProvider",requested="cuda:0",version="1"'
    )
    assert found[f"stoker_model_info{{{info}}}"] == "1.0"
    assert found[f"stoker_model_nodes{{{labels}}}"] == "118.0"
    assert found[f"stoker_model_nodes{{{labels.replace('CUDA', 'CPU')}}}"] == "2.0"
    metrics.remove_model(statistics)
    assert not [key for key in samples(scrape(metrics)) if key.startswith("stoker_model_info")]


def test_the_kernels_figures_are_read_once_a_second_however_many_scrape(tmp_path: Path) -> None:
    loop = HandLoop(50.0)
    metrics = MetricsRegistry(machine=Machine(write_machine(tmp_path)), clock=loop.clock)
    name = "stoker_container_memory_working_set_bytes"
    assert samples(scrape(metrics))[name] == "50000.0"
    (tmp_path / "sys/fs/cgroup/memory.current").write_text("80000\n")
    assert samples(scrape(metrics))[name] == "50000.0"
    loop.now += 1.0
    assert samples(scrape(metrics))[name] == "60000.0"
