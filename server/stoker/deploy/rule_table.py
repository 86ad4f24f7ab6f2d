"""All rules of `stoker k8s lint`, in the order of docs/k8s-lint.md.

An id is for ever: people silence it in their pipelines.
"""

from typing import Final

from stoker.deploy.finding import Rule
from stoker.deploy.rules import (
    acceptance,
    arguments,
    egress,
    eviction,
    gpu,
    gpu_requests,
    lifecycle,
    models,
    monitoring,
    never_run,
    patience,
    probes,
    resources,
    routes,
    scaling,
    scaling_metrics,
    security,
    services,
)

SECTIONS: Final[dict[str, tuple[Rule, ...]]] = {
    "Settings and image": arguments.RULES,
    "Pods that never run": never_run.RULES,
    "Models": models.RULES,
    "Probes": (*probes.RULES, *patience.RULES),
    "Life cycle": (*lifecycle.RULES, *eviction.RULES),
    "GPUs": (*gpu_requests.RULES, *gpu.RULES),
    "Memory, CPU and volumes": resources.RULES,
    "Autoscaling": (*scaling.RULES, *scaling_metrics.RULES),
    "Services and connections": (*services.RULES, *routes.RULES),
    "Monitoring and network": (*monitoring.RULES, *egress.RULES),
    "Security": security.RULES,
    "Accepted findings": acceptance.RULES,
}

RULES: Final[tuple[Rule, ...]] = tuple(rule for rules in SECTIONS.values() for rule in rules)
