"""The arguments of `stoker serve`, `check` and `infer`: from words to settings and options.

The flags of `serve` and `check` are generated from `settings.definitions()`, so that help, names
and meanings agree with the table of docs/configuration.md by construction. `cli.py` decides what
is done with them, and imports this module only once it can be interrupted.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Never

from stoker.config import load
from stoker.config_kinds import is_switch_word
from stoker.config_sources import Problem, Written, flag_of, suggestion
from stoker.memory_limit import memory_limit_bytes
from stoker.settings import Definition, Settings, definitions
from stoker.units import parse_duration

_SOURCES_OF_SETTINGS: Final = """\
Every option is also an environment variable (in brackets) and a key of the YAML file of --config:
http_port for --http-port. Options win over variables, variables over the file. Times are written
as 5s, 250ms or 5m, sizes as 64MiB, 1GiB or a number of bytes."""


class UsageError(Exception):
    """Arguments that cannot be understood."""


class Parser(argparse.ArgumentParser):
    """Raises where argparse would print and exit, so that all problems are told together."""

    def error(self, message: str) -> Never:
        raise UsageError(message)


def settings_parser(command: str, known: Sequence[Definition]) -> argparse.ArgumentParser:
    """The parser of a command that is driven by settings; every value stays text."""
    parser = Parser(
        prog=f"stoker {command}",
        usage=f"stoker {command} [SOURCE ...] [OPTION ...]",
        epilog=_SOURCES_OF_SETTINGS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for each in known:
        default = f"; default: {each.default}" if each.default else ""
        text = f"{each.meaning} [{each.variable}{default}]".replace("%", "%%")
        if each.field == "sources":
            parser.add_argument(each.key, metavar="SOURCE", nargs="*", help=text)
        elif each.kind.several:
            parser.add_argument(each.flag, metavar=each.kind.metavar, action="append", help=text)
        else:
            parser.add_argument(each.flag, metavar=each.kind.metavar, help=text)
    return parser


def parse_settings(command: str, words: Sequence[str]) -> Settings:
    """Settings of `stoker serve` and `stoker check`. Raises ConfigurationError; prints help."""
    values, problems = parse_flags(command, words)
    return load(values, memory_limit_bytes=memory_limit_bytes(), problems=problems)


def parse_flags(
    command: str, words: Sequence[str]
) -> tuple[dict[str, Written], tuple[Problem, ...]]:
    """What the arguments of `stoker serve` or `stoker check` say, by key, and what is wrong with
    them. Prints help."""
    known = [each for each in definitions() if command == "serve" or each.for_check]
    flags = [flag_of(each.key) for each in known if each.field != "sources"]
    problems: list[Problem] = []
    values: dict[str, Written] = {}
    end = words.index("--") if "--" in words else len(words)
    given, doubts = _with_switch_values(words[:end], known)
    problems += doubts
    try:
        parsed, rest = settings_parser(command, known).parse_known_args(given)
    except UsageError as error:
        problems.append(Problem("arguments", str(error)))
    else:
        values = _written(vars(parsed))
        for word in rest:
            if word.startswith("-"):
                name = word.partition("=")[0]
                problems.append(Problem(name, f"unknown flag{suggestion(name, flags)}"))
        # argparse takes one run of positional arguments; those behind a flag are in `rest`, and
        # all behind `--` are sources. Behind an unknown flag may stand its value: no source.
        behind = [*(() if problems else rest), *words[end + 1 :]]
        if behind:
            values["sources"] = (*values.get("sources", ()), *behind)
    return values, tuple(problems)


def _written(parsed: Mapping[str, str | list[str] | None]) -> dict[str, Written]:
    return {
        key: value if isinstance(value, str) else tuple(value)
        for key, value in parsed.items()
        if value is not None and value != []
    }


def _with_switch_values(
    words: Sequence[str], known: Sequence[Definition]
) -> tuple[list[str], list[Problem]]:
    """`--exit-on-error` alone means true, and must not swallow the source behind it. What stands
    there and is neither a value nor a source is a problem, and left out."""
    switches = {each.flag for each in known if each.kind.switch}
    result: list[str] = []
    problems: list[Problem] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in switches:
            flag, value = word, "true"
            if rest and is_switch_word(rest[0]):
                value = rest.pop(0)
            elif rest and not _may_be_source(rest[0]):
                text = f"expected true or false, or a source behind it, got {rest.pop(0)!r}"
                problems.append(Problem(flag, text))
            word = f"{flag}={value}"
        result.append(word)
    return result, problems


def _may_be_source(word: str) -> bool:
    """Whether a word is another flag, a place, or looks like one that is not there."""
    return word.startswith("-") or "/" in word or "." in word or Path(word).exists()


def infer_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="stoker infer",
        usage="stoker infer MODEL [OPTION ...]",
        description="Reads the model's metadata from the server, builds fitting tensors, calls "
        "the model and prints its outputs.",
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help="name of the model")
    parser.add_argument(
        "--url",
        help="http://HOST:PORT for REST, grpc://HOST:PORT for gRPC; https and grpcs with TLS "
        "(default: http://localhost and the port of STOKER_HTTP_PORT, else 8000)",
    )
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="[NAME=]VALUE|@FILE",
        help="value of an input; may be given several times. VALUE is JSON, numbers separated by "
        "commas, or text; FILE a .npy or .json file, an image, or - for JSON from standard input. "
        "NAME may be left out where the model has one input, or the JSON is an object of inputs "
        "or the body of a REST request",
    )
    parser.add_argument(
        "--output",
        action="append",
        default=[],
        metavar="NAME",
        help="output to ask for; may be given several times (default: every output)",
    )
    parser.add_argument(
        "--model-version", default="", metavar="N", help="version (default: the server's choice)"
    )
    parser.add_argument(
        "--format",
        choices=("text", "json", "npy"),
        default="text",
        help="how outputs are printed; npy writes one output as a NumPy file (default: text)",
    )
    parser.add_argument(
        "--scale",
        type=_scale,
        default=1.0,
        metavar="FACTOR",
        help="what the pixels of images, 0 to 255, are multiplied by, for example 1/255 "
        "(default: 1)",
    )
    parser.add_argument(
        "--timeout",
        type=_timeout,
        default=60.0,
        metavar="TIME",
        help="how long to wait for an answer (default: 60s)",
    )
    return parser


def _timeout(text: str) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if seconds == 0:
        raise argparse.ArgumentTypeError("expected a time above 0")
    return seconds


def _scale(text: str) -> float:
    numerator, _, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError) as error:
        raise argparse.ArgumentTypeError(
            f"expected a number or a fraction such as 1/255, got {text!r}"
        ) from error
