"""Puts TensorRT's progress, model by model, on `/metrics`.

Series exist for versions that ask for TensorRT and for no other.
"""

from collections.abc import Callable

from stoker.lifecycle.upgrade import UpgradeState
from stoker.lifecycle.upgrades import Upgrades
from stoker.runtime.candidate import Preparation
from stoker.telemetry import tensorrt_table as table
from stoker.telemetry.metrics import MetricsRegistry


def show_upgrades(metrics: MetricsRegistry, upgrades: Upgrades) -> None:
    """Registers the state of each candidate, and what preparing it took."""

    def states() -> dict[tuple[str, ...], float]:
        return {
            (identity.name, str(identity.version), state.value): float(state is present)
            for identity, present in upgrades.states().items()
            for state in UpgradeState
        }

    def read(figure: Callable[[Preparation], float]) -> Callable[[], dict[tuple[str, ...], float]]:
        def figures() -> dict[tuple[str, ...], float]:
            return {
                (each.identity.name, str(each.identity.version)): figure(each.preparation)
                for each in upgrades.all()
            }

        return figures

    metrics.register_labelled(table.STATE, states)
    metrics.register_labelled(table.HITS, read(lambda of: of.hits))
    metrics.register_labelled(table.MISSES, read(lambda of: of.misses))
    metrics.register_labelled(table.BUILD_SECONDS, read(lambda of: of.seconds))
    metrics.register_labelled(table.ENGINE_BYTES, read(lambda of: of.nbytes))
    metrics.register_labelled(
        table.DEVICE_BYTES,
        lambda: {
            (each.identity.name, str(each.identity.version)): each.preparation.device_bytes
            for each in upgrades.all()
            if each.preparation.device_bytes is not None
        },
    )
    metrics.register_labelled(table.CRASHED_BUILDS, read(lambda of: of.crashes))
