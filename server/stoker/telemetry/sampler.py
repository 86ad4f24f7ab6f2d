"""Which calls are traced: the caller's word where it gives one, else a share of all.

Decides on the event loop, for each call while tracing is on.  Hot path.
Source: OpenTelemetry, "Tracing SDK", "Sampling"; W3C Trace Context, section 3.2.2.5.
"""

import random
from collections.abc import Callable
from typing import Final

from stoker.telemetry.observation import SpanIdentity
from stoker.telemetry.trace_context import is_unsampled, read_parent, read_state

_TRACE_BITS: Final = 128
_SPAN_BITS: Final = 64
_JUDGED_BITS: Final = 64
_RATIO_MASK: Final = (1 << _JUDGED_BITS) - 1
"""A share is judged by the lower half of the trace id, as the SDKs do: servers with the same share
trace the same calls, whichever began the trace."""


class Sampler:
    """See the module's docstring."""

    def __init__(
        self,
        share: float,
        *,
        follows_parent: bool,
        random_bits: Callable[[int], int] = random.getrandbits,
    ) -> None:
        """`share`, from 0 to 1, of the calls whose caller says nothing; of all calls where it is
        not to be followed."""
        self._below = round(share * (1 << 64))
        self._follows_parent = follows_parent
        self._bits = random_bits

    def sample(self, traceparent: str, tracestate: str) -> SpanIdentity | None:
        """The identity of the call's span; None: it is not traced."""
        if traceparent:
            if self._follows_parent and is_unsampled(traceparent):
                return None
            parent = read_parent(traceparent)
            if parent is not None:
                is_sampled = (
                    parent.is_sampled
                    if self._follows_parent
                    else parent.trace_id & _RATIO_MASK < self._below
                )
                if not is_sampled:
                    return None
                return SpanIdentity(
                    parent.trace_id,
                    self.span_id(),
                    parent.span_id,
                    parent_is_remote=True,
                    state=read_state(tracestate),
                )
        judged = self._bits(_JUDGED_BITS)
        if judged >= self._below:
            return None
        trace_id = self._bits(_TRACE_BITS - _JUDGED_BITS) << _JUDGED_BITS | judged
        return SpanIdentity(trace_id or 1, self.span_id())

    def trace_id(self) -> int:
        """One that nobody has."""
        return self._bits(_TRACE_BITS) or 1

    def span_id(self) -> int:
        """One that nobody has."""
        return self._bits(_SPAN_BITS) or 1
