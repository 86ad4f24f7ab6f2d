"""The series of one metric of the server: as samples for prometheus-client, as lines in shares.

A server metric may have a series for each loaded version, such as `stoker_model_ready`: a thousand
lines that must not be written in one turn of the loop. The lines' beginnings are kept from scrape
to scrape; a scrape writes only numbers behind them.

Knows the text formats, and no socket.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

from prometheus_client.samples import Sample

from stoker.telemetry.exposition import line, number, prefix
from stoker.telemetry.metric import Metric

Labelled: TypeAlias = Callable[[], Mapping[tuple[str, ...], float]]
"""Gives the value of each series by the values of the metric's labels, in their order."""


class ServerSeries:
    """Few series: written at once."""

    def __init__(self, samples: Callable[[], Sequence[Sample]]) -> None:
        self.samples = samples
        """The present values, for the library."""

    def shares(self, lines: int) -> Iterator[tuple[int, bytes]]:
        """The text in shares of at most `lines` lines, each with their number."""
        found = self.samples()
        for start in range(0, len(found), lines):
            share = found[start : start + lines]
            yield len(share), "".join([line(sample) for sample in share]).encode()


class LabelledSeries(ServerSeries):
    """Any number of series. All values are those of the moment at which the first share is asked
    for."""

    def __init__(self, metric: Metric, read: Labelled) -> None:
        super().__init__(self._samples)
        self._metric = metric
        self._read = read
        self._prefixes: dict[tuple[str, ...], str] = {}

    def shares(self, lines: int) -> Iterator[tuple[int, bytes]]:
        """See `ServerSeries`."""
        found = self._read()
        # Not its items: a thousand new tuples at once start a garbage collection.
        keys, values = list(found), list(found.values())
        known, kept = self._prefixes, dict[tuple[str, ...], str]()
        for start in range(0, len(keys), lines):
            share = slice(start, start + lines)
            written = []
            for key, value in zip(keys[share], values[share], strict=True):
                before = kept[key] = known.get(key) or prefix(self._metric.name, self._labels(key))
                written.append(f"{before}{number(value)}\n")
            yield len(written), "".join(written).encode()
        self._prefixes = kept  # without those of versions that are gone

    def _samples(self) -> list[Sample]:
        return [
            Sample(self._metric.name, self._labels(key), value)
            for key, value in self._read().items()
        ]

    def _labels(self, key: tuple[str, ...]) -> dict[str, str]:
        return dict(zip(self._metric.labels, key, strict=True))
