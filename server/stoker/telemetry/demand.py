"""Demand: the work that clients offer, in device seconds per second. The number to scale on.

Each valid request that arrives, answered or refused, is worth its seconds of device time at the
model's most efficient batch; the engine computes that and calls `ModelDemand.add`. A device's
demand is the sum over its models per second of window, divided by how many runs it truly overlaps.
The server's is the maximum over its devices and the event loop. It does not saturate at 1, and it
adds up over pods. docs/design/0007-demand.md has the formula and an example with numbers.

Theory.  Time is cut into buckets of half a second. A ring of them holds what was added; a window's
total is the bucket under way, the whole ones behind it, and the share of the oldest that the
window still covers. Invariants:
1. `add` costs two additions and two comparisons; only the first in a bucket does more.
2. A device is counted beside its models, not summed from them: the work of a version that is
   unloaded stays in the window until it is 30 s old, so a swap of versions shows no dip.
3. A window is divided by its length, except while the server is younger than it: then by the
   server's age, at least 5 s. Right for the server, whose first half minute would else look half
   idle just when an autoscaler asks; wrong for a model, which is why its age is never used: while a
   new version takes over, the old one's work is still in the window, and dividing the new one's by
   its own short age would count the same clients twice.
4. The envelope (`peak`) is the largest window among those that end with a bucket of the last 30 s,
   the one under way left out: a scrape every 15 s misses no burst, and sees it up to half a second
   late.

Pure: every moment is an argument (time.monotonic seconds).  All calls on the loop.  Hot path.
"""

import math
from collections.abc import Sequence
from typing import Final

WINDOW_S: Final = 30.0
SHORT_WINDOW_S: Final = 5.0
SHORTEST_WINDOW_S: Final = 1.0
LOOP: Final = "loop"
"""The event loop's name among the devices."""

_BUCKET_S: Final = 0.5
_BUCKETS: Final = 64
"""A power of two over 30 s / 0.5 s, with room for the bucket under way and the one cut off."""
_ENVELOPE: Final = round(WINDOW_S / _BUCKET_S)
"""Buckets that an envelope looks back on."""
_YOUNGEST_S: Final = 5.0
"""A server younger than this divides by this: one early request is no overload."""


class _Work:
    """Seconds of work in a ring of buckets. `current` and `ends` belong to the bucket under way."""

    __slots__ = ("_ring", "_slot", "_worked", "current", "ends")

    def __init__(self) -> None:
        self._ring = [0.0] * _BUCKETS
        self._slot = 0
        self._worked = -_BUCKETS
        """The last closed bucket that is not empty."""
        self.current = 0.0
        self.ends = -math.inf

    def advance(self, now: float) -> None:
        """Closes the bucket under way and opens the one that holds `now`."""
        slot = int(now // _BUCKET_S)
        if self.ends == -math.inf:
            self._slot = slot
        if self.current:
            self._worked = self._slot
        ring = self._ring
        ring[self._slot % _BUCKETS] = self.current
        for empty in range(max(self._slot + 1, slot - _BUCKETS + 1), slot + 1):
            ring[empty % _BUCKETS] = 0.0
        self.current = 0.0
        self._slot = slot
        self.ends = (slot + 1) * _BUCKET_S

    def total(self, now: float, window_s: float) -> float:
        """Seconds of work added in the last `window_s` seconds."""
        if self.ends == -math.inf:
            return 0.0
        if now >= self.ends:
            self.advance(now)
        if not self.current and self._slot - self._worked >= _BUCKETS:
            return 0.0  # idle: nothing to sum
        whole, part = divmod(window_s - (now - self._slot * _BUCKET_S), _BUCKET_S)
        ring, slot, count = self._ring, self._slot, int(whole)
        begin, end = (slot - count) % _BUCKETS, slot % _BUCKETS
        closed = sum(ring[begin:end] if begin <= end else ring[begin:] + ring[:end])
        oldest = ring[(slot - count - 1) % _BUCKETS] * (part / _BUCKET_S)
        return self.current + closed + oldest

    def closed(self, now: float) -> list[float]:
        """Seconds of work in each bucket of the last 30 s, the latest first; not in the one under
        way. Empty when idle."""
        if self.ends == -math.inf:
            return []
        if now >= self.ends:
            self.advance(now)
        if self._slot - self._worked >= _BUCKETS:
            return []
        ring, slot = self._ring, self._slot
        return [ring[(slot - back) % _BUCKETS] for back in range(1, _ENVELOPE + 1)]


class _Devices:
    """The devices that a model runs on, and the work offered to them together."""

    __slots__ = ("names", "work")

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.work = _Work()


class ModelDemand:
    """One model version's offered work. Made by `DemandMeter.add_model`."""

    __slots__ = ("_devices", "_meter", "_work")

    def __init__(self, meter: "DemandMeter", devices: _Devices) -> None:
        self._meter = meter
        self._devices = devices
        self._work = _Work()

    def add(self, seconds: float, now: float) -> None:
        """One request worth `seconds` of device time arrived, answered or refused."""
        work = self._work
        if now >= work.ends:
            work.advance(now)
            self._meter.begin(now)
        work.current += seconds
        work = self._devices.work
        if now >= work.ends:
            work.advance(now)
        work.current += seconds

    def ratio(self, now: float, window_s: float = WINDOW_S) -> float:
        """The model's share of its devices' demand: 1 is all that they can do."""
        total = self._work.total(now, window_s)
        if total == 0.0:
            return 0.0
        return total / self._meter.capacity(self._devices.names, now, window_s)


class LateDemand:
    """The demand of a version that warm-up could not measure: absent until a request comes whose
    worth is known from runs while serving."""

    def __init__(self, meter: "DemandMeter", devices: Sequence[str]) -> None:
        self._meter = meter
        self._devices = tuple(devices)
        self._demand: ModelDemand | None = None

    def add(self, seconds: float, now: float) -> None:
        """As `ModelDemand.add`."""
        if self._demand is None:
            self._demand = self._meter.add_model(self._devices)
        self._demand.add(seconds, now)

    def ratio(self, now: float, window_s: float = WINDOW_S) -> float | None:
        """As `ModelDemand.ratio`; None before the first `add`."""
        return None if self._demand is None else self._demand.ratio(now, window_s)


class DemandMeter:
    """The demand of one server: its models, its devices, the loop."""

    def __init__(self) -> None:
        self._began = math.inf
        self._groups: dict[tuple[str, ...], _Devices] = {}
        self._overlap: dict[str, float] = {}

    def begin(self, now: float) -> None:
        """The server takes requests from here on: call when it is first ready. Repeats change
        nothing, and a request that comes earlier begins as well."""
        if self._began == math.inf:
            self._began = now

    def add_model(self, devices: Sequence[str]) -> ModelDemand:
        """A meter for a version whose cost is known; it takes equal turns on all of `devices`.

        Call it when the cost curve exists, not before: from then on demand is a number. Nothing is
        to be undone when the version is unloaded.
        """
        if not devices:
            raise ValueError("expected at least one device for a model's demand, got none")
        names = tuple(sorted(set(devices)))
        group = self._groups.get(names)
        if group is None:
            group = self._groups[names] = _Devices(names)
        for name in names:
            self._overlap.setdefault(name, 1.0)
        return ModelDemand(self, group)

    def set_overlap(self, device: str, factor: float) -> None:
        """How many runs the device truly does at once: measured, between 1 and its instances."""
        if not 1.0 <= factor < math.inf:
            raise ValueError(f"expected an overlap of '{device}' of at least 1, got {factor}")
        self._overlap[device] = factor

    def device_ratios(self, now: float, window_s: float = WINDOW_S) -> dict[str, float]:
        """Offered work per second of each device, 1 being all it can do. Empty before `add_model`.

        A group of devices shares its work evenly, in proportion to what each can overlap.
        """
        ratios = {name: 0.0 for names in self._groups for name in names}
        for names, group in self._groups.items():
            total = group.work.total(now, window_s)
            if total > 0.0:
                share = total / self.capacity(names, now, window_s)
                for name in names:
                    ratios[name] += share
        return ratios

    def ratio(
        self, now: float, window_s: float = WINDOW_S, *, loop: float | None = None
    ) -> float | None:
        """The server's demand: the largest of its devices and `loop`, the loop's busy share.

        None before the first model's cost is measured, 0 when idle.
        """
        devices = self.device_ratios(now, window_s)
        if not devices:
            return None
        return max(*devices.values(), loop or 0.0)

    def peak(self, now: float, window_s: float, *, loop: float | None = None) -> float | None:
        """The largest demand of any `window_s` seconds (whole half seconds) in the last 30 s.

        `loop` is the largest busy share of the event loop over such a window. None before the first
        model's cost is measured, 0 when idle.
        """
        if not self._groups:
            return None
        count = round(window_s / _BUCKET_S)
        offered: dict[str, list[float]] = {}
        for names, group in self._groups.items():
            buckets = group.work.closed(now)
            overlap = sum([self._overlap[name] for name in names])
            for name in names if buckets else ():
                mine = offered.get(name) or [0.0] * _ENVELOPE
                offered[name] = [
                    had + own / overlap for had, own in zip(mine, buckets, strict=True)
                ]
        most = loop or 0.0
        for each in offered.values():
            total = sum(each[:count])
            largest = total
            for at in range(count, _ENVELOPE):
                total += each[at] - each[at - count]
                largest = max(largest, total)
            most = max(most, largest / window_s)
        return most

    def capacity(self, devices: Sequence[str], now: float, window_s: float) -> float:
        """Device seconds that `devices` can do in the part of the window the server has lived."""
        lived = min(window_s, max(now - self._began, _YOUNGEST_S))
        return lived * sum([self._overlap[name] for name in devices])
