"""The options of a benchmark whose contenders take turns: rounds, and the seconds of each turn.

Not a benchmark itself. A program adds options of its own to what `options` gives.
"""

import argparse


def options(question: str | None, *, rounds: int, seconds: float) -> argparse.ArgumentParser:
    """A parser with `--rounds` and `--seconds` and these defaults; `question` is its module's
    docstring, printed by `--help` as it stands."""
    parser = argparse.ArgumentParser(
        description=question, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seconds", type=float, default=seconds)
    return parser
