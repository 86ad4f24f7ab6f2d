"""The HorizontalPodAutoscaler's own algorithm (`autoscaling/v2`, `behavior`), at invented times.

Written after the controller of Kubernetes 1.34: what a metric proposes (`proposal`), which of the
proposals holds, the stabilisation windows over what was recommended before, the limits that
policies set to the change within their periods, minimum and maximum. Quantities are integers of a
thousandth, as the controller's are, and averages are cut to them. In:

  - `Pods` metrics with an average value, and the `Resource` metric with a utilisation in per cent;
  - pods that are terminating (no part of it), pending or without the metric (missing ones count as
    0 when growing and as on target when shrinking), and for the CPU such as are not ready yet;
  - several metrics: the largest proposal; with one that has no value, nobody is taken away.

Source: kubernetes/kubernetes, pkg/controller/podautoscaler, `replica_calculator.go` and
`horizontal.go`; the concept page "Horizontal Pod Autoscaling".
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

CPU_INITIALIZATION_S = 300.0
"""--horizontal-pod-autoscaler-cpu-initialization-period"""
INITIAL_READINESS_S = 30.0
"""--horizontal-pod-autoscaler-initial-readiness-delay"""
TOLERANCE = 0.1
"""--horizontal-pod-autoscaler-tolerance"""
CPU_WINDOW_S = 15.0
"""What a CPU sample of the metrics server is the mean of."""


class Select(Enum):
    """`selectPolicy`: which of several policies holds."""

    MAX = "Max"
    MIN = "Min"
    DISABLED = "Disabled"


@dataclass(frozen=True)
class Policy:
    """How much the number may change within a period."""

    kind: str
    """`Pods` or `Percent`."""
    value: int
    period_s: int


@dataclass(frozen=True)
class Rules:
    """`behavior` of one direction."""

    policies: tuple[Policy, ...]
    stabilization_s: int = 0
    select: Select = Select.MAX
    tolerance: float = TOLERANCE


@dataclass(frozen=True)
class Metric:
    """One of `spec.metrics`."""

    name: str
    target: int
    """A thousandth of the average value; of a resource its per cent of the request."""
    is_resource: bool = False


@dataclass(frozen=True)
class Spec:
    """What an HPA object says."""

    metrics: tuple[Metric, ...]
    up: Rules
    down: Rules
    min_replicas: int
    max_replicas: int


DEFAULT_UP = Rules((Policy("Percent", 100, 15), Policy("Pods", 4, 15)))
DEFAULT_DOWN = Rules((Policy("Percent", 100, 15),), stabilization_s=300)


@dataclass(frozen=True)
class PodView:
    """What the controller sees of a pod."""

    name: str
    is_running: bool
    """Its containers have started; False: pending."""
    is_ready: bool
    started: float = 0.0
    """When it began to run: `status.startTime`."""
    ready_changed: float = 0.0
    """When its condition Ready last changed."""
    is_terminating: bool = False


@dataclass(frozen=True)
class Sample:
    """A pod's value of one metric in thousandths (of a resource: thousandths of the request)."""

    value: int
    at: float = 0.0
    """When it was taken."""


class NoMetric(Exception):
    """No pod has the metric."""


def proposal(
    metric: Metric,
    samples: Mapping[str, Sample],
    pods: Sequence[PodView],
    current: int,
    *,
    now: float,
    up: float = TOLERANCE,
    down: float = TOLERANCE,
) -> int:
    """How many replicas one metric asks for. Raises NoMetric."""
    known: dict[str, int] = {}
    unready: list[str] = []
    missing: list[str] = []
    for pod in pods:
        if pod.is_terminating:
            continue
        sample = samples.get(pod.name)
        if not pod.is_running:
            unready.append(pod.name)
        elif sample is None:
            missing.append(pod.name)
        elif metric.is_resource and not _counts(pod, sample, now):
            unready.append(pod.name)
        else:
            known[pod.name] = sample.value
    if not known:
        raise NoMetric(f"no pod has a value of {metric.name}")
    ratio = _ratio(metric, known)
    grows_with_unready = bool(unready) and ratio > 1.0
    if not grows_with_unready and not missing:
        if _is_within(ratio, up, down):
            return current
        return math.ceil(ratio * len(known))
    for name in missing:
        known[name] = _on_target(metric) if ratio < 1.0 else 0
    if grows_with_unready:
        for name in unready:
            known[name] = 0
    again = _ratio(metric, known)
    if _is_within(again, up, down) or (ratio < 1.0 < again) or (again < 1.0 < ratio):
        return current
    replicas = math.ceil(again * len(known))
    if (again < 1.0 and replicas > current) or (again > 1.0 and replicas < current):
        return current
    return replicas


def _counts(pod: PodView, sample: Sample, now: float) -> bool:
    """Whether a pod's CPU says anything of its load, or only of its start."""
    if now < pod.started + CPU_INITIALIZATION_S:
        return pod.is_ready and sample.at >= pod.ready_changed + CPU_WINDOW_S
    return pod.is_ready or pod.ready_changed > pod.started + INITIAL_READINESS_S


def _ratio(metric: Metric, known: Mapping[str, int]) -> float:
    total = sum(known.values())
    if metric.is_resource:
        return (total * 100 // (len(known) * 1000)) / metric.target
    return (total // len(known)) / metric.target


def _on_target(metric: Metric) -> int:
    """A missing pod's value when shrinking. For a resource it is the whole request."""
    return 1000 if metric.is_resource else metric.target


def _is_within(ratio: float, up: float, down: float) -> bool:
    return 1.0 - down <= ratio <= 1.0 + up


class Autoscaler:
    """One HPA object and what its controller remembers of it."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._recommended: list[tuple[float, int]] = []
        self._added: list[tuple[float, int]] = []
        self._removed: list[tuple[float, int]] = []

    def sync(
        self,
        now: float,
        current: int,
        pods: Sequence[PodView],
        samples: Mapping[str, Mapping[str, Sample]],
    ) -> int:
        """One turn of the control loop: the number of replicas from here on.

        `current` is `spec.replicas` of the Deployment, `samples` are by metric and pod.
        """
        spec = self.spec
        if not self._recommended:
            self._recommended.append((now, current))
        if current > spec.max_replicas:
            desired = spec.max_replicas
        elif current < spec.min_replicas:
            desired = spec.min_replicas
        else:
            proposed = self._proposed(now, current, pods, samples)
            if proposed is None:
                return current
            desired = self._limited(now, current, self._stabilised(now, current, proposed))
        if desired > current:
            self._added.append((now, desired - current))
        elif desired < current:
            self._removed.append((now, current - desired))
        return desired

    def _proposed(
        self,
        now: float,
        current: int,
        pods: Sequence[PodView],
        samples: Mapping[str, Mapping[str, Sample]],
    ) -> int | None:
        proposals: list[int] = []
        for metric in self.spec.metrics:
            try:
                proposals.append(
                    proposal(
                        metric,
                        samples.get(metric.name, {}),
                        pods,
                        current,
                        now=now,
                        up=self.spec.up.tolerance,
                        down=self.spec.down.tolerance,
                    )
                )
            except NoMetric:
                continue
        most = max(proposals, default=None)
        if most is None or (len(proposals) < len(self.spec.metrics) and most < current):
            return None
        return most

    def _stabilised(self, now: float, current: int, proposed: int) -> int:
        """The number nearest to the present one that the recommendations of both windows allow."""
        up, down = self.spec.up.stabilization_s, self.spec.down.stabilization_s
        least = min([proposed, *[n for at, n in self._recommended if at > now - up]])
        most = max([proposed, *[n for at, n in self._recommended if at > now - down]])
        longest = max(up, down)
        self._recommended = [one for one in self._recommended if one[0] > now - longest]
        self._recommended.append((now, proposed))
        return min(max(current, least), most)

    def _limited(self, now: float, current: int, desired: int) -> int:
        spec = self.spec
        if desired > current:
            limit = max(current, self._most(now, current))
            return min(desired, limit, spec.max_replicas)
        if desired < current:
            limit = min(current, self._least(now, current))
            return max(desired, limit, spec.min_replicas)
        return desired

    def _most(self, now: float, current: int) -> int:
        rules = self.spec.up
        if rules.select is Select.DISABLED:
            return current
        limits = []
        for policy in rules.policies:
            begin = self._at_begin(now, current, policy)
            if policy.kind == "Pods":
                limits.append(begin + policy.value)
            else:
                limits.append(math.ceil(begin * (1 + policy.value / 100)))
        return min(limits) if rules.select is Select.MIN else max(limits)

    def _least(self, now: float, current: int) -> int:
        rules = self.spec.down
        if rules.select is Select.DISABLED:
            return current
        limits = []
        for policy in rules.policies:
            begin = self._at_begin(now, current, policy)
            if policy.kind == "Pods":
                limits.append(begin - policy.value)
            else:
                limits.append(int(begin * (1 - policy.value / 100)))
        return max(limits) if rules.select is Select.MIN else min(limits)

    def _at_begin(self, now: float, current: int, policy: Policy) -> int:
        """Replicas when the policy's period began."""
        since = now - policy.period_s
        added = sum([count for at, count in self._added if at > since])
        removed = sum([count for at, count in self._removed if at > since])
        return current - added + removed
