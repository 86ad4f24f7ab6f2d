"""What `stoker check` finds: every model opened and completed, none served.

Uses the same opening as the server, so that a clean report means a server that loads.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from stoker.checking import CheckedModel
from stoker.device import CPU, DeviceReport
from stoker.lifecycle.opening import Inspection, ModelDefinition, Opener
from stoker.model import ModelConfig
from stoker.runtime.independence import Independence
from stoker.runtime.session import Placement


def check_models(
    definitions: Iterable[ModelDefinition],
    opener: Opener,
    to_text: Callable[[ModelConfig], str],
) -> tuple[CheckedModel, ...]:
    """One entry per version, or one for a model of which no version can be opened.

    `to_text` prints a completed configuration. Blocks while models are opened.
    """
    checked: list[CheckedModel] = []
    for definition in definitions:
        if definition.problems:
            checked.append(
                CheckedModel(
                    definition.name, problems=definition.problems, warnings=definition.warnings
                )
            )
            continue
        for version, problem in definition.version_problems.items():
            checked.append(CheckedModel(definition.name, str(version), problems=(problem,)))
        checked.extend(
            _check_version(definition, version, opener, to_text) for version in definition.versions
        )
    return tuple(checked)


def _check_version(
    definition: ModelDefinition,
    version: int,
    opener: Opener,
    to_text: Callable[[ModelConfig], str],
) -> CheckedModel:
    found = opener.inspect(definition, version)
    config = found.config
    if config is None:
        return CheckedModel(
            definition.name,
            str(version),
            problems=found.problems,
            warnings=(*definition.warnings, *found.warnings),
        )
    return CheckedModel(
        name=definition.name,
        version=str(version),
        warnings=(*definition.warnings, *found.warnings),
        inputs=tuple(config.client_spec(each) for each in config.inputs),
        outputs=tuple(config.client_spec(each) for each in config.outputs),
        max_batch_size=config.max_batch_size,
        batching=_batching(config, found.independence),
        instances=_instances(found.placements),
        device=", ".join(dict.fromkeys(str(report) for report in found.reports)),
        details=_details(found),
        config=to_text(config),
    )


def _batching(config: ModelConfig, independence: Independence) -> str:
    batching = config.batching
    if independence is Independence.DEPENDENT:
        return "one request at a time, rows are dependent"
    if not config.batches or batching is None:
        return "one request at a time"
    words = ["dynamic"]
    if batching.preferred_batch_sizes:
        words.append(f"preferred {', '.join(map(str, batching.preferred_batch_sizes))}")
    if batching.max_queue_delay_us:
        words.append(f"delay {batching.max_queue_delay_us} us")
    if batching.priority_levels:
        words.append(f"{batching.priority_levels} priority levels")
    return ", ".join(words)


def _instances(placements: Sequence[Placement]) -> str:
    runs = Counter[str]()
    for placement in placements:
        runs[placement.device] += placement.instances
    return ", ".join(f"{count} on {device}" for device, count in runs.items())


def _details(found: Inspection) -> tuple[str, ...]:
    lines = [f"memory: {found.memory}"] if found.memory else []
    lines += [line for report in found.reports for line in device_lines(report)]
    return tuple(dict.fromkeys(lines))


def device_lines(report: DeviceReport) -> tuple[str, ...]:
    """What is worth a line about a session on a GPU; nothing about one on the CPU."""
    if report.device == CPU:
        return ()
    nodes = ", ".join(f"{count} {provider}" for provider, count in report.nodes.items())
    copies = "not counted" if report.memcpy_nodes is None else str(report.memcpy_nodes)
    options = " ".join(f"{key}={value}" for key, value in sorted(report.options.items()))
    return (
        f"{report.device}: compute capability {report.compute_capability or 'unknown'}, "
        f"{report.memory_bytes} bytes of memory",
        f"{report.device}: nodes: {nodes}; copies between CPU and GPU: {copies}",
        f"{report.device}: options: {options}",
    )
