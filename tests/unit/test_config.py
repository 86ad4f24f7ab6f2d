"""Settings: precedence of the sources, all problems together, and agreement of the limits."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stoker.config import load
from stoker.config_sources import ConfigurationError, Problem, Written
from stoker.settings import Settings, definitions


def problems_of(
    flags: Mapping[str, Written],
    environ: Mapping[str, str] | None = None,
    memory_limit_bytes: int | None = None,
) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(flags, environ=environ or {}, memory_limit_bytes=memory_limit_bytes)
    return [str(each) for each in caught.value.problems]


def file_of(tmp_path: Path, text: str) -> str:
    path = tmp_path / "stoker.yaml"
    path.write_text(text)
    return str(path)


def test_without_any_source_every_setting_has_its_default() -> None:
    settings = load({}, environ={})
    assert settings == dataclasses.replace(Settings(), max_buffered_bytes=2 << 30)
    assert settings.drain_delay_s == 5.0
    assert settings.max_json_bytes == 64 << 20


@given(st.sets(st.sampled_from(["flag", "variable", "file"])))
def test_flags_win_over_variables_and_variables_over_the_file(written: set[str]) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write("http_port: 3\n" if "file" in written else "")
        file.flush()
        flags = {"config": file.name} | ({"http_port": "1"} if "flag" in written else {})
        environ = {"STOKER_HTTP_PORT": "2"} if "variable" in written else {}
        port = load(flags, environ=environ).http_port
    strongest = [
        value for key, value in (("flag", 1), ("variable", 2), ("file", 3)) if key in written
    ]
    assert port == [*strongest, 8000][0]


def test_every_kind_of_value_is_read_from_a_file(tmp_path: Path) -> None:
    text = """
        # a comment
        sources: [models, more.onnx]
        http-port: 0
        drain_delay: 250ms
        max_json_bytes: 1MiB
        exit_on_error: yes
        require_model:
          - a
          - b
        device: GPU
        log_level:
    """
    settings = load({"config": file_of(tmp_path, text)}, environ={})
    assert settings.sources == ("models", "more.onnx")
    assert settings.http_port == 0
    assert settings.drain_delay_s == 0.25
    assert settings.max_json_bytes == 1 << 20
    assert settings.exit_on_error is True
    assert settings.required_models == ("a", "b")
    assert settings.device == "gpu"
    assert settings.log_level == "info"


def test_a_variable_separates_several_values_by_commas() -> None:
    settings = load({}, environ={"STOKER_REQUIRE_MODEL": "a, b", "STOKER_SOURCES": "x"})
    assert settings.required_models == ("a", "b")
    assert settings.sources == ("x",)


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"XDG_CACHE_HOME": "/cache", "HOME": "/home/a"}, "/cache/stoker/tensorrt"),
        ({"HOME": "/home/a"}, "/home/a/.cache/stoker/tensorrt"),
        ({}, ""),
        ({"HOME": "/home/a", "STOKER_TRT_CACHE_DIR": "/engines"}, "/engines"),
    ],
)
def test_engines_are_cached_in_the_users_cache_folder_unless_another_is_named(
    environ: dict[str, str], folder: str
) -> None:
    assert load({}, environ=environ).trt_cache_dir == folder


def test_a_variable_can_name_the_file(tmp_path: Path) -> None:
    environ = {"STOKER_CONFIG": file_of(tmp_path, "http_port: 3")}
    assert load({}, environ=environ).http_port == 3


def test_all_problems_come_together_each_with_its_place(tmp_path: Path) -> None:
    path = file_of(
        tmp_path,
        "http_port: 99\nhttp-port: 3\nlog_levl: info\n"
        "drain_delay: 5\nhost: {a: b}\ngrpc_port: 99\ngrpc_transport: grpcio\n",
    )
    environ = {"STOKER_HTP_PORT": "3", "STOKER_MAX_CONNECTIONS": "-1"}
    assert problems_of({"config": path, "device": "tpu"}, environ) == [
        "STOKER_HTP_PORT: unknown variable; did you mean STOKER_HTTP_PORT or STOKER_GRPC_PORT?",
        f"{path}:2: http_port stands already on line 1",
        f"{path}:3: unknown key log_levl; did you mean log_level?",
        f"{path}:5: host: expected a value or a list of values, got a mapping",
        "--device: expected one of auto, gpu, cpu, got 'tpu'",
        f"{path}:4: drain_delay: expected a duration such as 5s, 250ms or 5m, got '5'",
        "STOKER_MAX_CONNECTIONS: expected a whole number of at least 1, got '-1'",
        f"{path}:6: grpc_port: expected different ports for REST and gRPC, got 99 for both; "
        "the native transport shares one port, grpcio cannot",
    ]


def test_problems_met_while_parsing_arguments_come_first() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load({"device": "tpu"}, environ={}, problems=[Problem("--bogus", "unknown flag")])
    assert [each.where for each in caught.value.problems] == ["--bogus", "--device"]


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load({}, environ={"STOKER_HTTP_PORT": "", "STOKER_BOGUS": ""}).http_port == 8000


def test_variables_of_a_kubernetes_service_called_stoker_are_not_settings() -> None:
    links = {
        "STOKER_SERVICE_HOST": "10.0.0.1",
        "STOKER_SERVICE_PORT": "8000",
        "STOKER_SERVICE_PORT_HTTP": "8000",
        "STOKER_PORT": "tcp://10.0.0.1:8000",
        "STOKER_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "STOKER_PORT_8000_TCP_PROTO": "tcp",
        "STOKER_PORT_8000_TCP_PORT": "8000",
        "STOKER_PORT_8000_TCP_ADDR": "10.0.0.1",
        "STOKER_METRICS_SERVICE_HOST": "10.0.0.2",
        "STOKER_METRICS_PORT": "tcp://10.0.0.2:8002",
        "STOKER_METRICS_PORT_8002_TCP": "tcp://10.0.0.2:8002",
    }
    assert load({}, environ=links) == load({}, environ={})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- a\n", ":1: expected a mapping of settings to values"),
        ("http_port: [1\n", ":2: malformed YAML: expected ',' or ']', but got '<stream end>'"),
        ("config: other.yaml\n", ":1: unknown key config"),
        ("http_port: [1, 2]\n", ":1: http_port: expected a port from 0 to 65535, got a list of 2"),
        ("model_name: ''\n", ":1: model_name: expected a name, got ''"),
        ("[a]: 1\n", ":1: unknown key a key that is no text"),
    ],
)
def test_a_malformed_file_is_a_problem_with_its_line(
    tmp_path: Path, text: str, problem: str
) -> None:
    path = file_of(tmp_path, text)
    (found,) = problems_of({"config": path})
    assert found.startswith(path + problem)


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.yaml")
    assert problems_of({"config": missing}) == [
        f"{missing}: cannot be read: No such file or directory"
    ]
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"a: \xff")
    assert problems_of({"config": str(binary)}) == [f"{binary}: expected UTF-8 text, got byte 3"]


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    settings = load({"config": file_of(tmp_path, "# nothing\n")}, environ={})
    assert settings.http_port == 8000


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("http_port", "65536", "a port from 0 to 65535"),
        ("http_port", "9" * 5000, "a port from 0 to 65535"),
        ("http_port", "٣", "a port from 0 to 65535"),
        ("drain_delay", "25h", "a duration of at most 24h"),
        ("idle_timeout", "0s", "a duration above 0"),
        ("gpu_metrics_interval", "500ms", "a duration of at least 1s, or 0"),
        ("max_json_bytes", "0", "at least one byte"),
        ("strict_readiness", "maybe", "true or false"),
        ("default_max_batch_size", "0", "a whole number of at least 1"),
        ("grpc_transport", "triton", "one of native, grpcio"),
        ("require_model", "a,,b", "names"),
        ("host", " ", "an address"),
    ],
)
def test_a_value_that_is_wrong_says_what_was_expected(key: str, value: str, expected: str) -> None:
    (problem,) = problems_of({key: value})
    assert f"expected {expected}, got " in problem


@hypothesis.settings(max_examples=30)  # pydantic takes milliseconds to build a model
@given(st.sampled_from([each.key for each in definitions()]), st.text(max_size=20))
def test_any_text_for_any_setting_is_a_value_or_a_problem(key: str, text: str) -> None:
    if key == "config":
        text = "/nowhere/" + text.replace("\0", "")
    with contextlib.suppress(ConfigurationError):
        load({key: text}, environ={})


def test_two_endpoints_cannot_share_a_port_except_a_free_one() -> None:
    assert load({"http_port": "0", "grpc_port": "0", "metrics_port": "0"}, environ={})
    assert load({"http_port": "8001"}, environ={}).grpc_port == 8001  # the native transport shares
    assert problems_of({"http_port": "8001", "grpc_transport": "grpcio"}) == [
        "--http-port: expected different ports for REST and gRPC, got 8001 for both; "
        "the native transport shares one port, grpcio cannot"
    ]
    assert problems_of({}, {"STOKER_METRICS_PORT": "8000"}) == [
        "STOKER_METRICS_PORT: expected a port of its own for probes and /metrics, got 8000, "
        "also http_port"
    ]


def test_a_model_name_needs_exactly_one_source() -> None:
    assert load({"model_name": "m", "sources": ("a",)}, environ={}).model_name == "m"
    assert problems_of({"model_name": "m", "sources": ("a", "b")}) == [
        "--model-name: names the model of exactly one source, got 2 sources"
    ]


def test_a_quarter_of_the_memory_limit_may_be_buffered_and_the_message_limit_follows() -> None:
    settings = load({}, environ={}, memory_limit_bytes=1 << 30)
    assert settings.max_buffered_bytes == 1 << 28
    assert settings.max_message_bytes == 1 << 28
    assert settings.max_json_bytes == 64 << 20


def test_a_written_message_limit_raises_the_computed_buffer() -> None:
    settings = load({"max_message_bytes": "1GiB"}, environ={}, memory_limit_bytes=1 << 30)
    assert settings.max_buffered_bytes == 1 << 30


def test_a_small_written_message_limit_lowers_the_json_limit() -> None:
    settings = load({"max_message_bytes": "1MiB"}, environ={})
    assert settings.max_json_bytes == 1 << 20


def test_written_limits_that_contradict_are_a_problem() -> None:
    flags = {"max_json_bytes": "2GiB", "max_buffered_bytes": "1MiB", "max_message_bytes": "1GiB"}
    assert problems_of(flags) == [
        "--max-json-bytes: expected at most max_message_bytes, 1GiB, got 2GiB",
        "--max-message-bytes: expected at most max_buffered_bytes, 1MiB, got 1GiB",
    ]
