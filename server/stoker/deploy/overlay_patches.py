"""The patches of an overlay: measured numbers, each with a comment that says where it is from.

YAML is written as text, since no emitter keeps comments. Pure, as `overlay.py`, which puts the
files together.
"""

import json
import textwrap
from typing import Final

from stoker.deploy.gpu_sizes import GpuSize
from stoker.deploy.manifest import numbered, objects, parse_manifests, text
from stoker.deploy.quantity import MIB, format_memory
from stoker.deploy.rules.acceptance import ACCEPTED
from stoker.deploy.sizing import LIMIT_FACTOR, GpuNeed, Sizing, Wishes
from stoker.units import format_duration, format_size

_AFFINITY: Final = (
    *("spec", "template", "spec", "affinity", "nodeAffinity"),
    *("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"),
)
COMPONENT_SLICE: Final = "nvidia.com/mig-1g.10gb"
"""The profile that components/mig asks for."""


def deployment_patch(model_name: str, wishes: Wishes, sizing: Sizing) -> str:
    """What the Deployment gets from the measurement."""
    patch = _Yaml()
    patch.line(0, "apiVersion: apps/v1", "kind: Deployment", "metadata:", "  name: stoker")
    accepted = []
    if wishes.device == "gpu" and wishes.has_spare_gpu:
        why = "There is a spare GPU (--spare-gpu), which no manifest shows."
        accepted.append(("surge-without-spare-gpu", why))
    usual = Wishes()
    if (wishes.drain_delay_s, wishes.drain_timeout_s) != (
        usual.drain_delay_s,
        usual.drain_timeout_s,
    ):
        why = "The drain below is another than that of the base's settings' file."
        accepted.append(("setting-hidden", why))
    if accepted:
        patch.line(2, "annotations:")
        for _, why in accepted:
            patch.comment(4, why)
        patch.line(4, f"{ACCEPTED}: {','.join(rule for rule, _ in accepted)}")
    patch.line(0, "spec:")
    patch.comment(2, _sentence(sizing.progress_origin))
    patch.line(2, f"progressDeadlineSeconds: {sizing.progress_s}")
    patch.comment(2, _sentence(sizing.strategy_origin))
    patch.line(2, "strategy:", "  type: RollingUpdate", "  rollingUpdate:")
    patch.line(6, f"maxSurge: {sizing.surge}", f"maxUnavailable: {sizing.unavailable}")
    patch.line(2, "template:", "  spec:")
    patch.comment(6, f"{sizing.grace_origin}.")
    patch.line(6, f"terminationGracePeriodSeconds: {sizing.grace_s}")
    patch.line(6, "containers:", "  - name: stoker")
    _environment(patch, model_name, wishes, sizing)
    patch.comment(10, f"{sizing.startup_s} s: {sizing.startup_origin}.")
    patch.line(10, "startupProbe:")
    patch.line(12, f"periodSeconds: {sizing.startup_period_s}")
    patch.line(12, f"failureThreshold: {sizing.startup_failures}")
    patch.line(10, "resources:")
    patch.comment(
        12, "The sum below without one of the two buffers: what it takes under usual load."
    )
    patch.line(12, "requests:", f"  memory: {format_memory(sizing.memory_request)}")
    patch.comment(
        12,
        f"{LIMIT_FACTOR:g} times {format_memory(sizing.memory.total)}, for arenas grow, the sum of",
    )
    for part in sizing.memory.parts:
        patch.comment(12, f"  {part.name} {format_memory(part.nbytes)}: {part.origin}")
    patch.line(12, "limits:", f"  memory: {format_memory(sizing.memory_limit)}")
    return patch.text


def _environment(patch: "_Yaml", model_name: str, wishes: Wishes, sizing: Sizing) -> None:
    patch.line(10, "env:")
    patch.comment(12, _sentence(sizing.buffered_origin))
    patch.variable("STOKER_MAX_BUFFERED_BYTES", format_size(sizing.buffered_bytes))
    patch.comment(12, "The grace period above covers these two.")
    patch.variable("STOKER_DRAIN_DELAY", format_duration(wishes.drain_delay_s))
    patch.variable("STOKER_DRAIN_TIMEOUT", format_duration(wishes.drain_timeout_s))
    if model_name:
        patch.comment(12, "The source is a model itself, which would be called after its mount.")
        patch.variable("STOKER_MODEL_NAME", model_name)


def models_argument_patch() -> str:
    """For models in the server's own image."""
    return """\
# The models are in the server's image, below /models.
- op: add
  path: /spec/template/spec/containers/0/args/1
  value: /models
"""


def gpu_terms(component: str) -> list[int]:
    """The terms of components/gpu's node affinity that ask for labels of GPU Feature Discovery;
    `component` is its deployment.yaml."""
    (manifest,) = parse_manifests(component, "components/gpu")
    return [
        index
        for index, term in numbered(manifest.value, *_AFFINITY)
        if all(
            text(each, "operator") != "DoesNotExist" for each in objects(term, "matchExpressions")
        )
    ]


def gpu_memory_patch(need: GpuNeed, terms: list[int]) -> str:
    """Nodes whose GPU has too little memory are left out."""
    patch = _Yaml()
    mebibytes = need.nbytes // MIB
    patch.comment(0, f"GPUs with more than {mebibytes} MiB: {need.origin}.")
    patch.comment(0, f"The smallest that has so much: {suggestion(need)}.")
    patch.comment(0, "A term without the labels of GPU Feature Discovery stays as it is.")
    for term in terms:
        patch.line(0, "- op: add", f"  path: /{'/'.join(_AFFINITY)}/{term}/matchExpressions/-")
        patch.line(0, "  value:", "    key: nvidia.com/gpu.memory", "    operator: Gt")
        patch.line(0, f'    values: ["{mebibytes}"]')
    return patch.text


def gpu_claim_patch(need: GpuNeed) -> str:
    """Of the devices that a claim may get, those with too little memory are left out."""
    patch = _Yaml()
    mebibytes = need.nbytes // MIB
    patch.comment(0, f"GPUs with {mebibytes} MiB or more: {need.origin}.")
    patch.comment(0, f"The smallest that has so much: {suggestion(need)}.")
    patch.line(0, "- op: add", "  path: /spec/spec/devices/requests/0/exactly/selectors/-")
    patch.line(0, "  value:", "    cel:", "      expression: >-")
    patch.line(8, "device.capacity['gpu.nvidia.com'].memory.compareTo(")
    patch.line(8, f"quantity('{mebibytes}Mi')) >= 0")
    return patch.text


def mig_patch(chosen: GpuSize) -> str:
    """Another profile in place of the component's."""
    limits = "/spec/template/spec/containers/0/resources/limits/"
    was, becomes = (each.replace("/", "~1") for each in (COMPONENT_SLICE, chosen.resource))
    operation = "move" if was != becomes else "test"
    lines = [
        f"# {chosen.name}: the smallest slice that has room for the models.",
        f"- op: {operation}",
    ]
    if operation == "move":
        lines.append(f"  from: {limits}{was}")
    lines.append(f"  path: {limits}{becomes}")
    if operation == "test":
        lines.append('  value: "1"')
    return "\n".join(lines) + "\n"


def hpa_patch(wishes: Wishes) -> str:
    """The bounds and the target of the HorizontalPodAutoscaler."""
    return f"""\
{_bounds(wishes)}
- op: replace
  path: /spec/minReplicas
  value: {wishes.least}
- op: replace
  path: /spec/maxReplicas
  value: {wishes.most}
{_target(wishes)}
- op: test
  path: /spec/metrics/0/pods/metric/name
  value: stoker_demand_ratio
- op: replace
  path: /spec/metrics/0/pods/target/averageValue
  value: {round(wishes.demand_target * 1000)}m
"""


def keda_patch(wishes: Wishes, namespace: str, workload: str, prometheus: str) -> str:
    """The bounds, the target and the queries of the ScaledObject."""
    lines = [
        _bounds(wishes),
        *("- op: replace", "  path: /spec/minReplicaCount", f"  value: {wishes.least}"),
        *("- op: replace", "  path: /spec/maxReplicaCount", f"  value: {wishes.most}"),
        "# While Prometheus is away or the first pods start: as many as there are, at least these.",
        *("- op: replace", "  path: /spec/fallback/replicas", f"  value: {max(1, wishes.least)}"),
        _target(wishes),
        *("- op: test", "  path: /spec/triggers/0/name", "  value: demand"),
        *("- op: replace", "  path: /spec/triggers/0/metadata/threshold"),
        f'  value: "{wishes.demand_target:g}"',
        "# Of these pods only.",
    ]
    for index, metric in enumerate(("stoker_demand_ratio", "stoker_queue_delay_seconds")):
        query = f'sum({metric}{{namespace="{namespace}",pod=~"{workload}-.*"}})'
        path = f"/spec/triggers/{index}/metadata"
        lines += ["- op: replace", f"  path: {path}/query", f"  value: {quoted(query)}"]
        if prometheus:
            lines += [
                "- op: replace",
                f"  path: {path}/serverAddress",
                f"  value: {quoted(prometheus)}",
            ]
    return "\n".join(lines) + "\n"


def no_budget_patch() -> str:
    """One replica has none."""
    return """\
# A budget protects the other replicas; there are none, and it could only block node drains.
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: stoker
$patch: delete
"""


def quoted(value: str) -> str:
    """A user's word as YAML's string, whatever it looks like: `on`, `1e3`, `a: b`."""
    return json.dumps(value, ensure_ascii=False)


def suggestion(need: GpuNeed) -> str:
    """`T4 (15360 MiB); as a MIG slice 1g.10gb of ...`."""
    whole = "none that is known" if need.whole is None else need.whole.name
    if need.whole is not None:
        whole += f" ({need.whole.memory_mib} MiB)"
    return whole if need.slice is None else f"{whole}; or {need.slice.name}"


def _bounds(wishes: Wishes) -> str:
    return (
        f"# From {wishes.least} to {wishes.most} replicas, as --min and --max say: what the load "
        "needs is not measured here."
    )


def _target(wishes: Wishes) -> str:
    room = 1 / wishes.demand_target
    return (
        f"# At demand {wishes.demand_target:g} the load may grow {room:.2f}-fold before requests "
        "wait: room until the next pod is ready."
    )


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


class _Yaml:
    """Lines of a file."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    @property
    def text(self) -> str:
        return "\n".join(self._lines) + "\n"

    def line(self, indent: int, *lines: str) -> None:
        self._lines += [" " * indent + line for line in lines]

    def comment(self, indent: int, words: str) -> None:
        hanging = len(words) - len(words.lstrip())
        self._lines += textwrap.wrap(
            words.strip(),
            100,
            initial_indent=" " * indent + "# " + " " * hanging,
            subsequent_indent=" " * indent + "# " + " " * hanging,
            break_on_hyphens=False,
        )

    def variable(self, name: str, value: str) -> None:
        self.line(12, f"- name: {name}", f"  value: {quoted(value)}")
