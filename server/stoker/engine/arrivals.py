"""Requests that came in one turn of the loop, admitted together at its end.

Most turns bring several requests of a model, most of them alike, and what admission asks of one it
can ask of all at once: is there room for so many rows and bytes, does the nearest deadline fit. If
the answer is yes for the sum it is yes for each; if not, they are asked one by one, in order, so
that nobody is refused who would have been taken alone. Runs on the event loop.  Hot path: a step of
benchmarks/results/0006-grpc.md.

An entry here is not admitted: cancelled, it is dropped and counted when its turn ends. Those of a
model that runs on the loop stay here until the loop has time for them (`inline.py`), as long as
they fit into one short run; the first of a turn may be run as soon as it is here.
"""

import asyncio
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stoker.engine.pending import Pending
from stoker.errors import ServingError
from stoker.inference import Cancel
from stoker.request import InferRequest
from stoker.telemetry.statistics import FailureReason

if TYPE_CHECKING:
    from stoker.engine.served_model import ServedModel


class Arrivals:
    """The requests of one model version that came in this turn of the loop."""

    def __init__(self, model: "ServedModel", loop: asyncio.AbstractEventLoop) -> None:
        self._model = model
        self._loop = loop
        self.entries: list[Pending] = []
        """Nobody but this changes it."""
        self._ends = False
        """The end of this turn is noted."""

    def add(self, entry: Pending, request: InferRequest) -> Cancel:
        """Takes an entry until the end of the turn."""
        data = request.data
        if len(data) == 1 and type(data[0]) is bytes:
            entry.nbytes = len(data[0])
        else:
            entry.nbytes = request.nbytes
        if not self._ends:
            self._ends = True
            self._loop.call_soon(self._end_turn)
            self._model.turn_began = entry.arrived
            self.entries.append(entry)
            inline = self._model.inline
            if inline is not None:
                inline.begin_turn(self)
        else:
            self.entries.append(entry)
        return entry.cancel

    def gather(self) -> None:
        """Admits what is here, or answers why not."""
        if not self.entries:
            return
        entries, self.entries = self.entries, []
        model = self._model
        for entry in entries:
            if entry.dead:  # cancelled, or refused with all others
                entries = self._living(entries)
                break
        if not entries:
            return
        rows = nbytes = 0
        deadline = math.inf
        for entry in entries:
            rows += entry.rows
            nbytes += entry.nbytes
            if entry.deadline < deadline:
                deadline = entry.deadline
        model.note_started()
        self.count_demand(entries)
        # One that has a deadline is asked below, once: under overload most come alone.
        is_asked_together = len(entries) > 1 or deadline == math.inf
        if (
            is_asked_together
            and model.has_room(len(entries), rows, nbytes)
            and (deadline == math.inf or model.meets(deadline, entries))
        ):
            model.enqueue_all(entries, rows, nbytes, nearest_deadline=deadline)
            return
        for entry in entries:
            request = entry.request
            if request is None:  # cancelled by who heard of another's refusal
                model.statistics.record_failure(FailureReason.CANCELED, 0)
                continue
            try:
                model.admit(entry, request)
            except ServingError as error:
                entry.end(error.bare())
            else:
                model.enqueue(entry)

    def refuse_all(self, error: ServingError) -> None:
        """Answers everything that is here with this error."""
        entries, self.entries = self.entries, []
        for entry in entries:
            self._model.statistics.record_failure(
                FailureReason.CANCELED if entry.dead else FailureReason.OTHER, 0
            )
            if not entry.dead:
                entry.end(error)

    def clear(self) -> None:
        """Somebody has run what is here."""
        self.entries = []

    def count_demand(self, entries: Sequence[Pending]) -> None:
        """Adds these, which came here, to what the autoscaler sees."""
        model, first, retries = self._model, entries[0], 0
        if len(entries) == 1 and (request := first.request) is not None:
            model.count_demand(first.form, 1, first.arrived, is_retry=request.is_retry)
            return
        for entry in entries:
            if entry.form is not first.form:
                for each in entries:
                    if each.request is not None:
                        retry = each.request.is_retry
                        model.count_demand(each.form, 1, each.arrived, is_retry=retry)
                return
            if entry.request is not None and entry.request.is_retry:
                retries += 1
        model.count_demand(first.form, len(entries) - retries, first.arrived, is_retry=False)

    def _end_turn(self) -> None:
        model = self._model
        self._ends = False
        model.turn_began = 0.0
        if model.inline is not None:
            model.inline.end_turn(len(self.entries))
        if self.entries or model.waiting.entries:  # somebody may have gathered before
            model.serve()

    def _living(self, entries: list[Pending]) -> list[Pending]:
        living = [entry for entry in entries if not entry.dead]
        for _ in range(len(entries) - len(living)):
            self._model.statistics.record_failure(FailureReason.CANCELED, 0)
        return living
