"""The ordered queue of one model version: groups by shape, entries by urgency.

Executors own it under the model's lock; the event loop only feeds the inbox in front of it. Order
inside a group: priority level (1 first), delayed ones last, then deadline, then arrival. The group
with the most urgent entry comes first. Entries that died stay as empty shells until a batch is
formed.  Hot path.

Two parallel lists per group instead of a heap: arrivals are nearly always in order (an append), the
scheduler walks entries in order without taking them, and a batch leaves by one slice.
"""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from stoker.engine.backlog import Backlog
from stoker.engine.pending import Pending

Key: TypeAlias = tuple[int, bool, float, int]
"""(level, delayed, deadline, arrival number)"""

_SAFE: Final = 1.5
"""Runs are not all alike, and who is left out for this is replaced by one who has more time: with
1.1 some 2 % of the answers under twice the capacity came too late (benchmarks/results/0006)."""
_LIKELY: Final = 1.1
"""Who is not replaced is left out only where a run would have to be as fast as few are."""
_SENDING_S: Final = 0.001
"""What the loop and the network take of a deadline."""

_NOTHING: Final[Key] = (1 << 62, True, math.inf, 1 << 62)


@dataclass(frozen=True, slots=True)
class RunTime:
    """How long a model's runs of its usual item size take, as the event loop last worked it out."""

    one: float
    """Seconds of a run of one row."""
    full: float
    """Seconds of a run of `rows` rows."""
    rows: int
    sustained: float = math.inf
    """Seconds of a run of the rows that a batch may have while a backlog lasts."""

    def sustained_seconds(self) -> float:
        """Seconds until the answers of such a batch are sent: safe ones, as more waits."""
        return _SAFE * self.sustained + _SENDING_S

    def seconds(self, rows: int) -> float:
        """Seconds until the answers of the first batch are sent where so many rows wait: likely
        ones, and safe ones where more wait than it takes."""
        if rows > self.rows:
            return _SAFE * self.full + _SENDING_S
        share = max(0, rows - 1) / max(1, self.rows - 1)  # all may have ended meanwhile
        return _LIKELY * (self.one + (self.full - self.one) * share) + _SENDING_S


class ShapeGroup:
    """Waiting requests that may share a batch."""

    __slots__ = ("_dropped", "backlog", "entries", "keys")

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.entries: list[Pending] = []
        self.backlog = Backlog()
        self._dropped = 0

    @property
    def arrived(self) -> int:
        """Requests that have ever joined the group."""
        return self._dropped + len(self.entries)

    def insert(self, key: Key, entry: Pending) -> None:
        """Puts an entry in its place; appending is the usual case."""
        keys = self.keys
        if not keys or key > keys[-1]:
            keys.append(key)
            self.entries.append(entry)
            return
        at = bisect_right(keys, key)
        keys.insert(at, key)
        self.entries.insert(at, entry)

    def first_key(self) -> Key:
        """The key of the first live entry, after dropping the shells before it."""
        entries = self.entries
        dead = 0
        for entry in entries:
            if not entry.dead:
                break
            dead += 1
        if dead:
            self.drop(dead)
        return self.keys[0] if self.keys else _NOTHING

    def drop_hopeless(self, now: float, run: "RunTime") -> None:
        """Leaves to their timer the first entries that a run which begins now would answer too
        late, as long as one that would be in time comes behind them. Where all fit into the run
        nobody is the better for it, and those that may be in time are run.

        Under overload the most urgent entries are those that have waited nearly as long as they
        may: a device that runs them works for nobody.
        """
        entries = self.entries
        rows = hopeless = 0
        for entry in entries:
            rows += 0 if entry.dead else entry.rows
            if rows > run.rows:
                break
        latest = now + run.seconds(rows)
        for entry in entries:
            if not entry.dead and (entry.delays or entry.deadline >= latest):
                break
            hopeless += 1
        if hopeless < len(entries):
            self.drop(hopeless)

    def drop(self, count: int) -> list[Pending]:
        """Removes and returns the first `count` entries."""
        taken = self.entries[:count]
        del self.entries[:count]
        del self.keys[:count]
        self._dropped += count
        return taken


class RequestQueue:
    """All waiting requests of one model version."""

    def __init__(self) -> None:
        self._groups: dict[object, ShapeGroup] = {}
        self._arrivals = 0

    def __len__(self) -> int:
        return sum(len(group.entries) for group in self._groups.values())

    def take_all(self, inbox: "deque[Pending]", max_rows: int) -> list[Pending] | None:
        """All of the inbox, if it fits into one batch and nothing else waits: then the order of its
        entries says nothing. None: it is queued. Others go on filling the inbox meanwhile."""
        if self._groups:
            if len(self):
                return None
            self._groups.clear()
        if not inbox:
            return None
        taken: list[Pending] = []
        signature, rows = inbox[0].form.signature, 0
        while inbox:
            entry = inbox.popleft()
            taken.append(entry)
            rows += entry.rows
            own = entry.form.signature
            if (rows > max_rows and len(taken) > 1) or (own is not signature and own != signature):
                self.take_from(deque(taken))
                return None
        return taken

    def take_from(self, inbox: "deque[Pending]") -> None:
        """Queues the entries of the inbox, which others go on filling, each by its level, deadline
        and arrival."""
        group: ShapeGroup | None = None
        signature: object = None
        number = self._arrivals
        while inbox:
            entry = inbox.popleft()
            number += 1
            key = (entry.level, False, entry.deadline, number)
            if group is None or entry.form.signature is not signature:
                signature = entry.form.signature
                group = self._groups.get(signature)
                if group is None:
                    group = self._groups[signature] = ShapeGroup()
            keys = group.keys
            if not keys or key > keys[-1]:
                keys.append(key)
                group.entries.append(entry)
            else:
                group.insert(key, entry)
        self._arrivals = number

    def by_urgency(self) -> Iterator[ShapeGroup]:
        """The groups with live entries, most urgent first. Empty groups are dropped."""
        groups = self._groups
        if len(groups) == 1:  # nearly every model
            ((signature, group),) = groups.items()
            if group.first_key() is _NOTHING:
                groups.clear()
            else:
                yield group
            return
        ranked: list[tuple[Key, ShapeGroup]] = []
        for signature, group in list(groups.items()):
            key = group.first_key()
            if key is _NOTHING:
                del groups[signature]
            else:
                ranked.append((key, group))
        ranked.sort(key=lambda pair: pair[0])
        for _, group in ranked:
            yield group

    def delay_expired(self, now: float) -> None:
        """Moves expired entries whose policy says DELAY behind all unexpired ones of their level.

        They have no further timeout. Called only for models with such a policy.
        """
        for group in self._groups.values():
            moved = [
                (key, entry)
                for key, entry in zip(group.keys, group.entries, strict=True)
                if entry.delays and not key[1] and not entry.dead and entry.expires <= now
            ]
            if not moved:
                continue
            gone = {id(entry) for _, entry in moved}
            kept = [
                (key, entry)
                for key, entry in zip(group.keys, group.entries, strict=True)
                if id(entry) not in gone
            ]
            group.keys = [key for key, _ in kept]
            group.entries = [entry for _, entry in kept]
            for key, entry in moved:
                group.insert((key[0], True, math.inf, key[3]), entry)
