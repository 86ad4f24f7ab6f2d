"""W3C trace context: what `traceparent` and `tracestate` of a caller say.

A header that breaks the rules is as if it had not come: the request is served, and begins a trace
of its own where it is sampled. Pure.  Source: W3C Trace Context, level 2, sections 3.2 and 3.3.
"""

import re
from typing import Final, NamedTuple

_PARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_UNSAMPLED: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][02468ace]")
_NO_VERSION: Final = "ff"
_FIRST_VERSION: Final = "00"
_SAMPLED: Final = 1

_MEMBER: Final = re.compile(
    r"[a-z0-9][_0-9a-z\-*/@]{0,255}=[ -+\--<>-~]{0,255}[!-+\--<>-~]", re.ASCII
)
MOST_MEMBERS: Final = 32
"""Section 3.3.1.1: a list with more is not valid."""
MOST_STATE_CHARACTERS: Final = 8192
"""What all members may take together at most, by the limits of each: longer ones are not read."""


class ParentSpan(NamedTuple):
    """The caller's span."""

    trace_id: int
    span_id: int
    is_sampled: bool


def read_parent(traceparent: str) -> ParentSpan | None:
    """The span that a `traceparent` names; None where it is not valid."""
    match = _PARENT.fullmatch(traceparent)
    if match is None:
        return None
    version, trace, span, flags, more = match.groups()
    # A later version may add fields behind these; the first one has none.
    if version == _NO_VERSION or (version == _FIRST_VERSION and more is not None):
        return None
    trace_id, span_id = int(trace, 16), int(span, 16)
    if not trace_id or not span_id:
        return None
    return ParentSpan(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


def is_unsampled(traceparent: str) -> bool:
    """Whether it is a valid one of the present version whose caller does not trace: what most say
    that say anything. False: `read_parent` knows. Takes a third of its time."""
    return _UNSAMPLED.fullmatch(traceparent) is not None


def read_state(tracestate: str) -> str:
    """The members of a `tracestate`, in order; empty where one of them is not valid."""
    if not tracestate or len(tracestate) > MOST_STATE_CHARACTERS:
        return ""
    members = [each.strip(" \t") for each in tracestate.split(",")]
    members = [each for each in members if each]  # empty members are allowed and mean nothing
    if len(members) > MOST_MEMBERS or not all(map(_MEMBER.fullmatch, members)):
        return ""
    keys = {each.partition("=")[0] for each in members}
    return ",".join(members) if len(keys) == len(members) else ""


def trace_id_text(trace_id: int) -> str:
    """As `traceparent` has it: 32 hexadecimal digits."""
    return f"{trace_id:032x}"


def span_id_text(span_id: int) -> str:
    """As `traceparent` has it: 16 hexadecimal digits."""
    return f"{span_id:016x}"
