"""`stoker serve | check | infer | k8s`: from arguments to an action and an exit code.

Each command imports what it runs only when it runs, so that `--help` needs no ONNX Runtime and no
gRPC. This module itself imports nothing that takes time: the imports of `serve` take a second, and
the first process of a container must be able to end in it (the kernel drops signals for which such
a process has no handler).

Exit codes: 0 done, drained, or told to stop before there was anything to drain; 1 `check` or `k8s
lint` found a problem, or `infer` or `k8s init` failed; 2 bad usage, configuration or input; from
`serve` also 3 (a required model or device is not there, `--exit-on-error`) and 130 (interrupted
twice).
"""

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Final

from stoker import __version__

DONE: Final = 0
FAILED: Final = 1
BAD_USAGE: Final = 2
INTERRUPTED: Final = 130

_COMMANDS: Final = """\
usage: stoker COMMAND [ARGUMENT ...]

Serves ONNX models over gRPC and REST.

commands:
  serve [SOURCE ...]   serve repositories or models; without a source, the demo models
  check [SOURCE ...]   show what would be served, and every problem; exit code 1 on a problem
  infer MODEL          call a model on a running server
  k8s init [SOURCE ...]  write manifests for Kubernetes that fit these models
  k8s lint FILE ...    show what would hurt in manifests; exit code 1 on an error

`stoker COMMAND --help` explains a command; `stoker --version` prints the version.
"""

_K8S_COMMANDS: Final = """\
usage: stoker k8s init [SOURCE ...] --output FOLDER [OPTION ...]
       stoker k8s lint FILE|FOLDER|- ... [OPTION ...]

`stoker k8s init --help` and `stoker k8s lint --help` explain the two.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; gives the process's exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    command = words[0] if words else ""
    try:
        match command:
            case "serve":
                return _serve(words[1:])
            case "check":
                return _told(_check, words[1:])
            case "infer":
                return _told(_infer, words[1:])
            case "k8s":
                return _told(_k8s, words[1:])
            case "--version":
                print(f"stoker {__version__}")
                return DONE
            case "-h" | "--help" | "help":
                print(_COMMANDS, end="")
                return DONE
            case "":
                print(_COMMANDS, end="", file=sys.stderr)
                return BAD_USAGE
            case _:
                from stoker.config_sources import suggestion

                close = suggestion(command, ("serve", "check", "infer", "k8s"))
                return _misused(f"unknown command {command}{close}")
    except BrokenPipeError:
        # Whoever read our output has gone. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _told(action: Callable[[Sequence[str]], int], words: Sequence[str]) -> int:
    """The outcome of an action; what is wrong with its words is told, all of it together."""
    from stoker.arguments import UsageError
    from stoker.config_sources import ConfigurationError

    try:
        return action(words)
    except UsageError as error:
        return _misused(str(error))
    except ConfigurationError as error:
        count = len(error.problems)
        heading = f"{count} problem{'s' if count > 1 else ''} in the configuration"
        print(f"stoker: {heading}\n{error}", file=sys.stderr)
        return BAD_USAGE


def _misused(problem: str) -> int:
    print(f"stoker: {problem}\nTry: stoker --help", file=sys.stderr)
    return BAD_USAGE


def _serve(words: Sequence[str]) -> int:
    # The handlers of the event loop replace these. A signal that comes meanwhile is not lost: it is
    # handled by these or, because the loop's wake-up descriptor has it too, by those.
    before = {number: signal.signal(number, _leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return _told(_start, words)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


@contextmanager
def _importing() -> Iterator[None]:
    """Looks for no garbage meanwhile, nor ever in what was made: all of that lives as long as the
    process, and every full collection would go through it."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _leave(number: int, frame: FrameType | None) -> None:
    """A signal before the event loop runs: there is nothing to drain and nobody to tell."""
    os._exit(DONE)


def _start(words: Sequence[str]) -> int:
    with _importing():
        from stoker.arguments import parse_settings

        settings = parse_settings("serve", words)
        from stoker.process import serve

    return serve(settings)


def _check(words: Sequence[str]) -> int:
    with _importing():
        from stoker.arguments import parse_settings

        settings = parse_settings("check", words)
        from stoker.app import check
        from stoker.check_output import print_report

    report = check(settings)
    print_report(report, sys.stdout)
    return DONE if report.is_clean else FAILED


def _local_url() -> str:
    from stoker.config import rest_port

    return f"http://localhost:{rest_port()}"


def _infer(words: Sequence[str]) -> int:
    from stoker.arguments import infer_parser

    parsed = infer_parser().parse_args(words)
    from stoker.client.connection import ClientError
    from stoker.client.infer import InferOptions, infer

    try:
        options = InferOptions(
            model=parsed.model,
            version=parsed.model_version,
            url=parsed.url or _local_url(),
            inputs=tuple(parsed.input),
            outputs=tuple(parsed.output),
            format=parsed.format,
            scale=parsed.scale,
            timeout_s=parsed.timeout,
        )
        infer(options, sys.stdin, sys.stdout)
    except ClientError as error:
        print(f"stoker infer: {error}", file=sys.stderr)
        return FAILED
    return DONE


def _k8s(words: Sequence[str]) -> int:
    from stoker.arguments import UsageError
    from stoker.deploy.manifest import UnreadableManifests
    from stoker.deploy.measurement import UnreadableMeasurement

    command = words[0] if words else ""
    try:
        match command:
            case "lint":
                from stoker.deploy.lint_command import run_lint

                return DONE if run_lint(words[1:], sys.stdin, sys.stdout) else FAILED
            case "init":
                return _k8s_init(words[1:])
            case "-h" | "--help":
                print(_K8S_COMMANDS, end="")
                return DONE
            case _:
                raise UsageError(f"expected `k8s init` or `k8s lint`, got k8s {command}".rstrip())
    except (UnreadableManifests, UnreadableMeasurement) as error:
        print(f"stoker k8s {command}: {error}", file=sys.stderr)
        return BAD_USAGE


def _k8s_init(words: Sequence[str]) -> int:
    from stoker.deploy.init_command import run_init
    from stoker.deploy.measuring import MeasuringFailed

    try:
        run_init(words, sys.stdout)
    except MeasuringFailed as error:
        print(f"stoker k8s init: {error}", file=sys.stderr)
        return FAILED
    return DONE
