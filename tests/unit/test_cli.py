"""Arguments: which settings they become, what is refused, and with which exit code."""

from pathlib import Path

import pytest
from stoker import __version__
from stoker.arguments import parse_settings
from stoker.cli import BAD_USAGE, DONE, FAILED, main
from stoker.config_sources import ConfigurationError


def problems_of(*words: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        parse_settings("serve", words)
    return [str(each) for each in caught.value.problems]


@pytest.mark.parametrize(
    "words",
    [
        ["a", "b", "--http-port", "9"],
        ["--http-port", "9", "a", "b"],
        ["a", "--http-port", "9", "b"],
        ["a", "--http-port=9", "--", "b"],
    ],
)
def test_sources_may_stand_before_between_and_behind_flags(words: list[str]) -> None:
    settings = parse_settings("serve", words)
    assert settings.sources == ("a", "b")
    assert settings.http_port == 9


@pytest.mark.parametrize(
    ("words", "exits", "sources"),
    [
        (["--exit-on-error", "repo"], True, ("repo",)),
        (["--exit-on-error", "false", "repo"], False, ("repo",)),
        (["--exit-on-error=false"], False, ()),
        (["repo", "--exit-on-error"], True, ("repo",)),
        (["--exit-on-error", "./none"], True, ("./none",)),
        (["--exit-on-error", "s3://bucket"], True, ("s3://bucket",)),
        (["--exit-on-error", "--http-port", "9"], True, ()),
        (["--", "--exit-on-error"], False, ("--exit-on-error",)),
    ],
)
def test_a_switch_alone_means_true_and_leaves_the_source_behind_it(
    words: list[str],
    exits: bool,
    sources: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "repo").mkdir()
    monkeypatch.chdir(tmp_path)
    settings = parse_settings("serve", words)
    assert settings.exit_on_error is exits
    assert settings.sources == sources


def test_a_word_behind_a_switch_that_is_neither_a_value_nor_a_source_is_told() -> None:
    assert problems_of("--cuda-graphs", "maybe", "--http-port=x") == [
        "--cuda-graphs: expected true or false, or a source behind it, got 'maybe'",
        "--http-port: expected a port from 0 to 65535, got 'x'",
    ]


def test_a_repeated_flag_gives_several_values() -> None:
    settings = parse_settings("serve", ["--require-model", "a", "--require-model", "b"])
    assert settings.required_models == ("a", "b")


def test_unknown_flags_and_wrong_values_are_told_together() -> None:
    assert problems_of("--htp-port", "9", "--device=tpu", "-x") == [
        "--htp-port: unknown flag; did you mean --http-port or --grpc-port?",
        "-x: unknown flag",
        "--device: expected one of auto, gpu, cpu, got 'tpu'",
    ]


def test_a_flag_without_its_value_is_a_problem() -> None:
    assert problems_of("--http-port") == ["arguments: argument --http-port: expected one argument"]


def test_an_empty_value_is_not_the_same_as_none() -> None:
    assert problems_of("--http-port=") == ["--http-port: expected a port from 0 to 65535, got ''"]


def test_check_takes_only_the_flags_that_matter_to_it() -> None:
    assert parse_settings("check", ["repo", "--device", "cpu"]).sources == ("repo",)
    with pytest.raises(ConfigurationError, match="--http-port: unknown flag"):
        parse_settings("check", ["repo", "--http-port", "9"])


def test_a_wrong_configuration_ends_with_code_2_and_every_problem(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["serve", "--http-port", "x", "--device", "y"]) == BAD_USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "stoker: 2 problems in the configuration\n"
        "--http-port: expected a port from 0 to 65535, got 'x'\n"
        "--device: expected one of auto, gpu, cpu, got 'y'\n"
    )


def test_an_unknown_command_ends_with_code_2_and_the_close_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["serv"]) == BAD_USAGE
    assert "unknown command serv; did you mean serve?" in capsys.readouterr().err


def test_no_command_ends_with_code_2_and_help_with_code_0(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == BAD_USAGE
    assert "usage: stoker COMMAND" in capsys.readouterr().err
    assert main(["--help"]) == DONE
    assert "usage: stoker COMMAND" in capsys.readouterr().out


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == DONE
    assert capsys.readouterr().out == f"stoker {__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["m", "--timeout", "soon"], "expected a duration such as"),
        (["m", "--timeout", "0"], "expected a time above 0"),
        (["m", "--scale", "1/0"], "expected a number or a fraction such as 1/255, got '1/0'"),
        (["m", "--format", "xml"], "invalid choice: 'xml'"),
        ([], "the following arguments are required: MODEL"),
    ],
)
def test_wrong_arguments_of_infer_end_with_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["infer", *words]) == BAD_USAGE
    assert message in capsys.readouterr().err


def test_infer_without_a_server_ends_with_code_1_and_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["infer", "m", "--url", "ftp://x"]) == FAILED
    captured = capsys.readouterr()
    assert captured.err.startswith("stoker infer: expected a URL http://HOST:PORT")
    assert captured.err.count("\n") == 1
