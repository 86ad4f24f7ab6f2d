"""OpenTelemetry's standard variables, as far as the server reads them itself."""

from collections.abc import Mapping

import pytest
from stoker.config import load, open_telemetry
from stoker.config_sources import ConfigurationError, Written
from stoker.open_telemetry import Sampling, TracingOptions, read

ON: Mapping[str, Written] = {"tracing": "true"}


def options(environ: Mapping[str, str], share: float | None = None) -> TracingOptions:
    read_options, problems = read(environ, is_on=True, share=share)
    assert not problems
    return read_options


def test_without_variables_one_call_in_a_hundred_goes_to_a_local_receiver_over_grpc() -> None:
    assert options({}) == TracingOptions(
        is_on=True, sampling=Sampling(0.01), target="http://localhost:4317 (grpc)"
    )


@pytest.mark.parametrize(
    ("endpoint", "shown"),
    [
        ("https://me:secret@collector:4317", "https://collector:4317"),
        ("me:secret@collector:4317", "collector:4317"),
        ("https://me:se/cr?et@collector:4318/otlp", "https://collector:4318/otlp"),
        ("http://collector/otlp?key=secret", "http://collector/otlp"),
        ("http://collector/#secret", "http://collector/"),
    ],
)
def test_the_log_has_no_secret_of_an_address(endpoint: str, shown: str) -> None:
    assert options({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}).target == f"{shown} (grpc)"


@pytest.mark.parametrize(
    ("name", "argument", "expected"),
    [
        ("always_on", "", Sampling(1.0, follows_parent=False)),
        ("always_off", "", Sampling(0.0, follows_parent=False)),
        ("traceidratio", "0.25", Sampling(0.25, follows_parent=False)),
        ("parentbased_always_on", "", Sampling(1.0)),
        ("parentbased_always_off", "", Sampling(0.0)),
        ("parentbased_traceidratio", "0.5", Sampling(0.5)),
        ("PARENTBASED_TRACEIDRATIO", "", Sampling(1.0)),
    ],
)
def test_the_standard_samplers(name: str, argument: str, expected: Sampling) -> None:
    environ = {"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": argument}
    assert options(environ).sampling == expected


def test_the_setting_wins_over_the_standard_sampler() -> None:
    environ = {"OTEL_TRACES_SAMPLER": "always_on"}
    assert options(environ, share=0.2).sampling == Sampling(0.2)


def test_queue_interval_protocol_and_target_are_the_variables() -> None:
    got = options(
        {
            "OTEL_BSP_MAX_QUEUE_SIZE": "100",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "50",
            "OTEL_BSP_SCHEDULE_DELAY": "250",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
        }
    )
    assert (got.max_queued_spans, got.max_export_spans, got.export_interval_s) == (100, 50, 0.25)
    assert (got.protocol, got.target) == ("http/protobuf", "http://collector:4318 (http/protobuf)")


def test_an_export_is_never_larger_than_the_queue() -> None:
    assert options({"OTEL_BSP_MAX_QUEUE_SIZE": "10"}).max_export_spans == 10


def test_the_exporter_may_be_none() -> None:
    assert not options({"OTEL_TRACES_EXPORTER": "none"}).exports


def test_the_sdk_may_be_disabled() -> None:
    assert not options({"OTEL_SDK_DISABLED": "true"}).is_on


def test_wrong_variables_are_told_together_with_what_was_expected() -> None:
    environ = {
        "OTEL_TRACES_SAMPLER": "jaeger_remote",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
        "OTEL_TRACES_EXPORTER": "zipkin",
        "OTEL_BSP_MAX_QUEUE_SIZE": "0",
        "STOKER_HTTP_PORT": "http",
    }
    with pytest.raises(ConfigurationError) as raised:
        load(ON, environ=environ)
    told = {each.where: each.text for each in raised.value.problems}
    assert told.keys() == environ.keys()
    assert "parentbased_traceidratio" in told["OTEL_TRACES_SAMPLER"]
    assert told["OTEL_TRACES_SAMPLER"].endswith("got 'jaeger_remote'")
    assert told["OTEL_EXPORTER_OTLP_PROTOCOL"] == "expected one of grpc, http/protobuf, got " + (
        "'http/json'"
    )


@pytest.mark.parametrize("asked", ["b3", "b3multi,baggage", "none"])
def test_propagators_without_the_one_that_is_read_are_told(asked: str) -> None:
    _, problems = read({"OTEL_PROPAGATORS": asked}, is_on=True, share=None)
    assert [(each.where, each.text) for each in problems] == [
        (
            "OTEL_PROPAGATORS",
            f"expected a list with tracecontext, the one that is read, got '{asked}'",
        )
    ]
    assert read({"OTEL_PROPAGATORS": asked}, is_on=False, share=None)[1] == ()


@pytest.mark.parametrize("asked", ["", "tracecontext", "b3, TraceContext,baggage"])
def test_propagators_beside_the_one_that_is_read_are_passed_over(asked: str) -> None:
    assert options({"OTEL_PROPAGATORS": asked}) == options({})


def test_a_share_that_is_none_is_told() -> None:
    environ = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"}
    _, problems = read(environ, is_on=True, share=None)
    assert [str(each) for each in problems] == [
        "OTEL_TRACES_SAMPLER_ARG: expected a share from 0 to 1, got '2'"
    ]


def test_nobody_looks_at_the_variables_while_tracing_is_off() -> None:
    environ = {"OTEL_TRACES_SAMPLER": "nonsense", "OTEL_BSP_MAX_QUEUE_SIZE": "many"}
    assert not open_telemetry(load({}, environ=environ), environ).is_on
