"""Does the server agree with what a load tool counted? Its counters before and after each load.

Not a benchmark itself. Load tools count answers of HTTP: a gRPC call that failed is an answer too.
So each loaded run is held against the server's own count of requests that it answered well, and a
run in which failures rose ends the benchmark with what rose.
"""

import contextlib
import re
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.serving import Endpoint, cpu_seconds

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)", re.MULTILINE)
_SETTLE_S = 5.0
"""How long requests that a stopped tool left behind may take to be answered or cancelled."""


@dataclass
class Account:
    """One loaded run: filled in by the benchmark and by the end of `audited`."""

    counted: int = 0
    """Answers that the load tool counted."""
    in_flight: int = 0
    """Requests that it may have left behind: answered or cancelled, and not counted by it."""
    cpu_us: float = 0.0
    """Server CPU a request, in microseconds."""
    server: dict[str, float] = field(default_factory=dict)
    """What the server's counters grew by."""


def scrape(at: Endpoint) -> dict[str, float]:
    """The sum of each metric's samples over all labels; failures also by reason."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{at.metrics}/metrics").read().decode()
    sums: dict[str, float] = {}
    for name, labels, value in _SAMPLE.findall(text):
        names = [name]
        if reason := re.search(r'reason="(\w+)"', labels):
            names.append(f"{name} {reason[1]}")
        for each in names:
            sums[each] = sums.get(each, 0.0) + float(value)
    return sums


def _settled(at: Endpoint) -> dict[str, float]:
    """The counters once nothing is in flight."""
    end = time.monotonic() + _SETTLE_S
    while (sums := scrape(at))["stoker_requests_in_flight"] and time.monotonic() < end:
        time.sleep(0.1)  # a scrape costs the server CPU that the load is charged with
    return sums


@contextlib.contextmanager
def audited(at: Endpoint, *, may_refuse: bool = False) -> Iterator[Account]:
    """Fills the account with CPU time; where the server has metrics, holds its count against ours.

    Exits when failures rose (calls that the stopped tool cancelled aside; with `may_refuse` also
    those refused or expired), or when the counts differ by more than was in flight.
    """
    account = Account()
    before = _settled(at) if at.metrics else {}
    used = cpu_seconds(at.process)
    yield account
    used = cpu_seconds(at.process) - used
    answered: float = account.counted
    if at.metrics:
        after = _settled(at)
        grown = account.server
        grown.update({name: value - before.get(name, 0.0) for name, value in after.items()})
        _check(account, may_refuse)
        answered = grown["nv_inference_request_success"]
    account.cpu_us = used / max(1.0, answered) * 1e6


def _check(account: Account, may_refuse: bool) -> None:
    grown = account.server
    failed = grown.get("nv_inference_request_failure", 0.0)
    cancelled = grown.get("nv_inference_request_failure CANCELED", 0.0)
    allowed = min(cancelled, account.in_flight)
    if not may_refuse and failed > allowed:
        rose = {name: value for name, value in grown.items() if "failure " in name and value}
        sys.exit(f"requests failed during a loaded run: {rose}")
    for name in ("stoker_requests_refused_total", "stoker_requests_unrouted_total"):
        if not may_refuse and grown.get(name, 0.0):
            sys.exit(f"requests were refused during a loaded run: {name} grew by {grown[name]:.0f}")
    answered = grown["nv_inference_request_success"]
    if not account.counted <= answered <= account.counted + account.in_flight:
        sys.exit(
            f"the load tool counted {account.counted} answers with at most {account.in_flight} "
            f"in flight at its end; the server counts {answered:.0f} requests answered well"
        )
