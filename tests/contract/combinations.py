"""Which components go together: the table of k8s/README.md, as data.

Components are laid in the order of ORDER, over the base or over an overlay. Not every pair makes
sense; EXCLUDED says why, and every other pair has to render, validate and keep the contract.
"""

from collections.abc import Iterable, Iterator
from itertools import combinations, product
from typing import Final

ORDER: Final = (
    "gpu",
    "mig",
    "dra",
    "models-pvc",
    "models-s3",
    "models-image-volume",
    "trt-cache",
    "spread",
    "priority",
    "scrape",
    "monitoring",
    "tracing",
    "autoscaling-hpa",
    "autoscaling-keda",
    "network-policy",
    "gateway",
)

EXCLUDED: Final = {
    ("gpu", "mig"): "`mig` contains `gpu`; listed after it, `gpu` asks for a whole GPU as well",
    ("gpu", "dra"): "`dra` contains `gpu`; listed after it, `gpu` asks for a second GPU",
    ("mig", "dra"): "two GPUs, by two drivers that must not share a node",
    ("models-pvc", "models-s3"): "two volumes at `/models`",
    ("models-pvc", "models-image-volume"): "two volumes at `/models`",
    ("models-s3", "models-image-volume"): "two volumes at `/models`",
    ("scrape", "monitoring"): "`monitoring` contains `scrape`",
    ("autoscaling-hpa", "autoscaling-keda"): "two autoscalers of one Deployment",
}
"""Pairs, in the order of ORDER, and the reason."""

GPUS: Final = ("gpu", "mig", "dra")
MODELS: Final = ("models-pvc", "models-s3", "models-image-volume")
AUTOSCALERS: Final = ("autoscaling-hpa", "autoscaling-keda")
PART: Final = "scrape"
"""Contained in another component."""

OVER_OVERLAYS: Final = (
    "overlays/dev+models-pvc",
    "overlays/cpu+models-s3+gateway",
    "overlays/gpu+mig",
    "overlays/gpu+dra",
    "overlays/gpu+models-image-volume+trt-cache+spread",
    "overlays/production+models-pvc+gateway",
    "overlays/production+models-s3+gateway",
    "overlays/production+spread",
    "overlays/production+models-image-volume+trt-cache+gateway",
)
"""What an overlay of a user adds to one of ours. MIG and DRA may be laid over a GPU."""


def is_sensible(components: Iterable[str]) -> bool:
    """Whether no two of them exclude each other."""
    listed = sorted(components, key=ORDER.index)
    return not any(pair in EXCLUDED for pair in combinations(listed, 2))


def _fullest() -> Iterator[tuple[str, ...]]:
    """Everything at once, for each choice among those that exclude each other."""
    either = {*GPUS, *MODELS, *AUTOSCALERS, PART}
    for chosen in product(GPUS, MODELS, AUTOSCALERS):
        yield tuple(each for each in ORDER if each in chosen or each not in either)


PAIRS: Final = tuple(pair for pair in combinations(ORDER, 2) if is_sensible(pair))
COMBINATIONS: Final = (
    *("+".join(("base", *pair)) for pair in PAIRS),
    *("+".join(("base", *components)) for components in _fullest()),
    *OVER_OVERLAYS,
)
"""Every sensible combination, as targets of `manifests.render`."""
