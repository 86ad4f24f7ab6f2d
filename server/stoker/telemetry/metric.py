"""What a metric is, and how it behaves. The metrics themselves stand in `metric_table.py`."""

from dataclasses import dataclass
from enum import Enum


class MetricType(Enum):
    """How a metric behaves. A Triton counter carries no `_total`; see `exposition.family`."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"


@dataclass(frozen=True, slots=True, eq=False)  # each is one object: hashed by identity
class Metric:
    """One metric. `name` is the one in the classic text: our counters end in `_total`."""

    name: str
    type: MetricType
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    per_model: bool = False
    """Read from each model version's statistics; its series also carry the model's metric tags."""

    @property
    def is_triton(self) -> bool:
        """Whether the name is Triton's, to be kept to the letter."""
        return self.name.startswith("nv_")
