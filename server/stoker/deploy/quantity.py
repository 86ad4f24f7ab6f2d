"""Quantities as Kubernetes writes them: `500m`, `2`, `1.5Gi`, `12e6`; and back.

For `stoker k8s`, which compares and prints amounts of CPU and memory. Settings of the server are
written otherwise: `units.py`.  Source: Kubernetes API reference, "Quantity".
"""

import re
from fractions import Fraction
from math import ceil
from typing import Final

from stoker.deploy.manifest import JsonValue, text

_FACTORS: Final = {
    "": Fraction(1),
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    **{unit: Fraction(1000**power) for power, unit in enumerate("kMGTPE", start=1)},
    **{f"{unit}i": Fraction(1024**power) for power, unit in enumerate("KMGTPE", start=1)},
}
_QUANTITY: Final = re.compile(
    r"\+?([0-9]{1,20}(?:\.[0-9]{0,12})?|\.[0-9]{1,12})(?:[eE]([+-]?[0-9]{1,2})|([A-Za-z]*))"
)

MIB: Final = 1 << 20
GIB: Final = 1 << 30


def parse_quantity(value: JsonValue, *path: str | int) -> Fraction | None:
    """The amount at `path`, in cores or bytes; None where there is none that can be read."""
    match = _QUANTITY.fullmatch(text(value, *path).strip())
    if match is None:
        return None
    if match[2] is not None:
        return Fraction(match[1]) * Fraction(10) ** int(match[2])
    factor = _FACTORS.get(match[3])
    return None if factor is None else Fraction(match[1]) * factor


def format_memory(nbytes: int) -> str:
    """Bytes as `Gi` where that is whole, else `Mi`, rounded up."""
    if nbytes % GIB == 0 and nbytes:
        return f"{nbytes // GIB}Gi"
    return f"{ceil(nbytes / MIB)}Mi"
