"""What does checking cost on top of the fastest parser, for a large tensor in JSON?

A body of 1.6 MB, FP32 [1,3,224,224] as 150,528 numbers, flat and nested. simdjson alone parses it
and copies the numbers into one buffer of doubles. The server's codec makes a checked request of it,
with an FP32 array, in the steps in which the server itself decodes large bodies. Beside them orjson
with `np.asarray`, what servers in Python usually do. One process, one core, no sockets.

    python -m benchmarks.json_decode [--rounds 5] [--runs 20]
"""

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from statistics import median

import numpy as np
import orjson
import simdjson
from stoker.tensor import Array
from stoker.transport.rest.codec import decode_in_steps
from stoker.transport.steps import run_through

from benchmarks.figures import Promises, facts, ratios, spread
from benchmarks.networks import IMG
from benchmarks.serving import LOAD_CORE

MAX_JSON_BYTES = 64 << 20
PARSER, CODEC, USUAL = "simdjson alone", "the server's codec", "orjson and np.asarray"


def body(values: Array, *, nested: bool) -> bytes:
    """A REST body with these numbers in the eight digits that FP32 needs."""
    texts = [f"{each:.8g}" for each in values.ravel()]
    if nested:
        for size in reversed(values.shape):
            rows = range(0, len(texts), size)
            texts = ["[" + ",".join(texts[row : row + size]) + "]" for row in rows]
        data = texts[0]
    else:
        data = "[" + ",".join(texts) + "]"
    shape = ",".join(map(str, values.shape))
    head = f'{{"inputs":[{{"name":"x","shape":[{shape}],"datatype":"FP32","data":'
    return f"{head}{data}}}]}}".encode()


def parser(text: bytes) -> Array:
    """The numbers as simdjson gives them."""
    document = simdjson.Parser().parse(text)
    assert isinstance(document, simdjson.Object)
    numbers = document.at_pointer("/inputs/0/data")
    assert isinstance(numbers, simdjson.Array)
    return np.frombuffer(numbers.as_buffer(of_type="d"), np.float64)


def codec(text: bytes) -> Array:
    """The numbers as the engine gets them."""
    steps = decode_in_steps("img", "", text, None, MAX_JSON_BYTES)
    request, _ = run_through(steps)
    return request.inputs[0].array()


def usual(text: bytes) -> Array:
    """The numbers as most servers get them."""
    return np.asarray(orjson.loads(text)["inputs"][0]["data"], np.float32)


def milliseconds(decode: Callable[[bytes], Array], text: bytes, runs: int) -> float:
    """The median of some runs."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        decode(text)
        times.append((time.perf_counter() - began) * 1e3)
    return median(times)


def main() -> None:
    """Prints one table, and one of the promises."""
    parser_ = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser_.add_argument("--rounds", type=int, default=5)
    parser_.add_argument("--runs", type=int, default=20, help="of each, in each round")
    given = parser_.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    values = IMG.rows()
    ways: dict[str, Callable[[bytes], Array]] = {PARSER: parser, CODEC: codec, USUAL: usual}
    seen: dict[tuple[str, str], list[float]] = defaultdict(list)
    texts = {"flat": body(values, nested=False), "nested": body(values, nested=True)}
    for form, text in texts.items():
        for name, decode in ways.items():
            if not np.allclose(decode(text).ravel(), values.ravel(), rtol=1e-6):
                sys.exit(f"{name} gives other numbers for the {form} body")
    for _ in range(given.rounds):
        for form, text in texts.items():
            for name, decode in ways.items():
                seen[form, name].append(milliseconds(decode, text, given.runs))
    print(f"{facts()}; medians (range) of {given.rounds} rounds of {given.runs} runs\n")
    print("| body | | ms | of the parser alone |\n|---|---|---|---|")
    promises = Promises()
    for (form, name), times in seen.items():
        share = ratios(times, seen[form, PARSER])
        size = f"{form}, {len(texts[form]) / 1e6:.2f} MB"
        print(f"| {size} | {name} | {spread(times, 2)} | {spread(share, 2)} |")
        if name == CODEC:
            promises.at_most(f"JSON tensor, {size}: times the fast parser alone", 1.5, share)
    promises.print()


if __name__ == "__main__":
    main()
