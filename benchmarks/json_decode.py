"""What does reading a call in JSON cost on top of the fastest parser, for large and small tensors?

Large: a body of 1.6 MB, FP32 [1,3,224,224] as 150,528 numbers, flat and nested. simdjson alone
parses it and copies the numbers into one buffer of doubles. The server's codec makes a checked
request of it, with an FP32 array, in the steps in which the server itself decodes large bodies.
Beside them orjson with `np.asarray`, what servers in Python usually do.

Small: calls of clients that send the same text again but for the numbers, whose layout the codec
knows, and the same calls read as if it did not; beside them orjson alone.

One process, one core, no sockets.

    python -m benchmarks.json_decode [--rounds 5] [--runs 20]
"""

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np
import orjson
import simdjson
from stoker.tensor import Array
from stoker.transport.rest.codec import decode, decode_in_steps
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


def small_calls() -> dict[str, bytes]:
    """Bodies as clients send them, by what is in them."""
    random = np.random.default_rng(1)

    def floats(*shape: int) -> object:
        return random.standard_normal(shape).astype(np.float32).tolist()

    def tensor(name: str, datatype: str, shape: list[int], data: object) -> dict[str, object]:
        return {"name": name, "shape": shape, "datatype": datatype, "data": data}

    tokens = [random.integers(0, 30_000, 128).tolist() for _ in range(3)]
    calls = {
        "FP32 [1,16]": [tensor("x", "FP32", [1, 16], floats(16))],
        "FP32 [1,16], nested": [tensor("x", "FP32", [1, 16], floats(1, 16))],
        "FP32 [1,256]": [tensor("x", "FP32", [1, 256], floats(256))],
        "FP32 [1,2048]": [tensor("x", "FP32", [1, 2048], floats(2048))],
        "3 x INT64 [1,128]": [tensor(f"t{n}", "INT64", [1, 128], tokens[n]) for n in range(3)],
        "39 x FP32 [1,1]": [tensor(f"c{n}", "FP32", [1, 1], floats(1)) for n in range(39)],
        "BYTES [4,1]": [tensor("t", "BYTES", [4, 1], ["some words of text"] * 4)],
    }
    return {name: orjson.dumps({"inputs": inputs}) for name, inputs in calls.items()}


def microseconds(read: Callable[[], object], runs: int) -> float:
    """The CPU time of a call: the mean of some."""
    began = time.thread_time()
    for _ in range(runs):
        read()
    return (time.thread_time() - began) / runs * 1e6


def small(rounds: int) -> None:
    """Prints a table of small calls."""
    print("\n| small call | bytes | orjson alone, us | known layout | unknown layout |")
    print("|---|---|---|---|---|")
    for name, text in small_calls().items():
        view = memoryview(text)  # is read as if nothing were known
        ways: tuple[Callable[[], object], ...] = (
            partial(orjson.loads, text),
            partial(decode, "m", "", text, None, MAX_JSON_BYTES),
            partial(decode, "m", "", view, None, MAX_JSON_BYTES),
        )
        times: list[list[float]] = [[] for _ in ways]
        for _ in range(rounds + 1):
            for each, way in zip(times, ways, strict=True):
                each.append(microseconds(way, 20_000_000 // (20_000 + 40 * len(text))))
        cells = " | ".join(spread(each[1:], 1) for each in times)
        print(f"| {name} | {len(text):,} | {cells} |")


def milliseconds(way: Callable[[bytes], Array], text: bytes, runs: int) -> float:
    """The median of some runs."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        way(text)
        times.append((time.perf_counter() - began) * 1e3)
    return median(times)


def main() -> None:
    """Prints two tables, and one of the promises."""
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
        for name, way in ways.items():
            if not np.allclose(way(text).ravel(), values.ravel(), rtol=1e-6):
                sys.exit(f"{name} gives other numbers for the {form} body")
    for _ in range(given.rounds):
        for form, text in texts.items():
            for name, way in ways.items():
                seen[form, name].append(milliseconds(way, text, given.runs))
    print(f"{facts()}; medians (range) of {given.rounds} rounds of {given.runs} runs\n")
    print("| body | | ms | of the parser alone |\n|---|---|---|---|")
    promises = Promises()
    for (form, name), times in seen.items():
        share = ratios(times, seen[form, PARSER])
        size = f"{form}, {len(texts[form]) / 1e6:.2f} MB"
        print(f"| {size} | {name} | {spread(times, 2)} | {spread(share, 2)} |")
        if name == CODEC:
            promises.at_most(f"JSON tensor, {size}: times the fast parser alone", 1.5, share)
    small(given.rounds)
    promises.print()


if __name__ == "__main__":
    main()
