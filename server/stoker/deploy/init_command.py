"""`stoker k8s init`: measures the user's models and writes an overlay that fits them."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Final, TextIO

from stoker.arguments import UsageError
from stoker.deploy.base_location import BaseLocation, NoBase, copy_base, find_base
from stoker.deploy.init_arguments import InitOptions, parse_init
from stoker.deploy.lint import lint
from stoker.deploy.lint_output import print_findings
from stoker.deploy.manifest import objects, parse_manifests, text
from stoker.deploy.manifest_files import render
from stoker.deploy.measurement import Measurement, read_measurement, to_json
from stoker.deploy.measuring import measure
from stoker.deploy.overlay import (
    CLAIM_FILE,
    CLAIM_NAME,
    ModelsPlace,
    components,
    overlay_files,
)
from stoker.deploy.overlay_patches import gpu_terms, suggestion
from stoker.deploy.quantity import MIB, format_memory, parse_quantity
from stoker.deploy.sizing import Sizing, size

MEASURED: Final = "measured.json"
_S3_LEFT: Final = (
    "credentials, and the bucket's region (us-east-1 as it stands) or endpoint: "
    "components/models-s3"
)


def run_init(words: Sequence[str], stdout: TextIO) -> None:
    """Measures, writes, and tells what was found and what is left to do.

    Raises UsageError, MeasuringFailed, and UnreadableMeasurement for --measured.
    """
    options = parse_init(words)
    _refuse_to_overwrite(options)
    there = None if options.measured is None else read_measurement(options.measured)
    if there is not None:
        options = placed(options, there)
    base = _base(options)
    measured = there or _measure(options, base, stdout)
    sizing = size(measured, options.wishes)
    _write(options, base, measured, sizing)
    _tell(options, base, measured, sizing, stdout)


def placed(options: InitOptions, measured: Measurement) -> InitOptions:
    """The options where no SOURCE says whether the pods serve the demo: what was measured does.

    Raises UsageError for the demo's overlay with another model's numbers.
    """
    models = options.overlay.models
    if options.sources or models.kind != "demo" or measured.is_of_the_demo:
        return options
    if options.names_place:
        names = ", ".join(sorted({each.name for each in measured.models}))
        raise UsageError(f"--models demo: expected a measurement of the demo models, got {names}")
    return replace(options, overlay=replace(options.overlay, models=ModelsPlace("pvc")))


def _refuse_to_overwrite(options: InitOptions) -> None:
    output = options.output
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output: expected a folder, got the file {output}")
    if not options.force and output.is_dir() and any(output.iterdir()):
        raise UsageError(
            f"--output: expected a folder that is not there or empty, got {output} with "
            f"{sorted(each.name for each in output.iterdir())[0]}; --force writes over it"
        )


def _base(options: InitOptions) -> BaseLocation:
    try:
        base = find_base(options.output, options.base)
    except NoBase as error:
        raise UsageError(str(error)) from error
    missing = [each for each in components(options.overlay, options.wishes) if not base.has(each)]
    if missing:
        raise UsageError(f"expected the component {missing[0]} in {base.origin}, got none")
    return base


def _measure(options: InitOptions, base: BaseLocation, stdout: TextIO) -> Measurement:
    what = ", ".join(options.sources) or "the demo models"
    stdout.write(f"measuring {what}: starting a server ...\n")
    stdout.flush()
    flags = ("--model-name", options.model_name) if options.model_name else ()
    return measure(
        options.sources,
        device="cpu" if options.wishes.device == "cpu" else "auto",
        flags=flags,
        cpus=pod_cpus(base.folder, options.wishes.device),
        patience_s=options.patience_s,
        tell=lambda sentence: _line(stdout, f"  {sentence}"),
    )


def pod_cpus(base: Path, device: str) -> int | None:
    """The CPU limit that the pods get from base/ or components/gpu, in whole processors; None where
    there is none. A start with more of them would be measured too fast."""
    files = [base / "base" / "deployment.yaml"]
    if device == "gpu":
        files.insert(0, base / "components" / "gpu" / "deployment.yaml")
    for file in files:
        for manifest in parse_manifests(file.read_text(), str(file)) if file.is_file() else ():
            for container in objects(manifest.value, "spec", "template", "spec", "containers"):
                limit = parse_quantity(container, "resources", "limits", "cpu")
                if limit is not None:
                    return max(1, ceil(limit))
    return None


def _write(options: InitOptions, base: BaseLocation, measured: Measurement, sizing: Sizing) -> None:
    gpu = sizing.gpu
    if options.overlay.gpu_by == "mig" and gpu is not None and gpu.slice is None:
        raise UsageError(
            f"--gpu mig: expected models that fit a slice, got {gpu.nbytes // MIB} MiB: "
            f"{gpu.origin}"
        )
    component = base.folder / "components" / "gpu" / "deployment.yaml"
    terms = gpu_terms(component.read_text()) if component.is_file() else []
    overlay = options.overlay
    name = _model_name(options, measured)
    files = overlay_files(
        replace(overlay, model_name=name), options.wishes, sizing, base, gpu_terms=terms
    )
    files[MEASURED] = to_json(measured)
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        if base.is_copied:
            copy_base(base, options.output)
        for each, content in files.items():
            (options.output / each).write_text(content)
    except (OSError, shutil.Error) as error:
        raise UsageError(
            f"--output: expected a folder that can be written, got {options.output}: {error}"
        ) from error


def _model_name(options: InitOptions, measured: Measurement) -> str:
    """The name that the pods must be told: in the cluster a model itself lies at /models."""
    names = {each.name for each in measured.models}
    if options.model_name or len(options.sources) != 1 or len(names) != 1:
        return options.model_name
    return next(iter(names)) if is_a_model(Path(options.sources[0])) else ""


def is_a_model(source: Path) -> bool:
    """Whether a source is a model itself, no repository."""
    if source.is_file():
        return True
    return any(source.glob("*.onnx")) or any(
        each.is_file() for each in source.glob("[0-9]*/model.onnx")
    )


def _tell(
    options: InitOptions,
    base: BaseLocation,
    measured: Measurement,
    sizing: Sizing,
    stdout: TextIO,
) -> None:
    def say(sentence: str) -> None:
        _line(stdout, sentence)

    count = len(measured.models)
    models = f"{count} model{'' if count == 1 else 's'}"
    peak = f"at most {measured.peak_bytes / MIB:.0f} MiB resident"
    say(f"measured  {models}, ready after {measured.start_s:.1f} s, {peak}")
    for model in measured.models:
        cost = (
            f", {model.row_seconds * 1e6:,.1f} us of its device a row" if model.row_seconds else ""
        )
        say(f"          {model.name}: loaded in {model.load_s:.1f} s{cost}")
    request, limit = format_memory(sizing.memory_request), format_memory(sizing.memory_limit)
    say(f"memory    request {request}, limit {limit}")
    if sizing.gpu is not None:
        say(f"GPU       {sizing.gpu.nbytes / MIB:.0f} MiB ({sizing.gpu.origin})")
        say(f"          smallest: {suggestion(sizing.gpu)}")
    say(f"start     {sizing.startup_s} s: {sizing.startup_origin}")
    say(f"end       {sizing.grace_s} s: {sizing.grace_origin}")
    say(
        f"rollout   maxSurge {sizing.surge}, maxUnavailable {sizing.unavailable}: "
        f"{sizing.strategy_origin}"
    )
    for note in sizing.notes:
        say(f"note      {note}")
    say(f"written   {options.output}, on {base.origin}")
    _lint(options, measured, stdout)
    _left_to_do(options, base, measured, sizing, stdout)


def _lint(options: InitOptions, measured: Measurement, stdout: TextIO) -> None:
    """The overlay is rendered and looked at where there is a renderer."""
    if not shutil.which("kubectl") and not shutil.which("kustomize"):
        _line(stdout, "lint      not run: neither kubectl nor kustomize to render it")
        return
    if "://" in options.base:
        _line(stdout, "lint      not run: the base would have to be fetched")
        return
    manifests = parse_manifests(render(options.output), str(options.output))
    print_findings(lint(manifests, measured=measured), manifests, "text", stdout)


def _left_to_do(
    options: InitOptions,
    base: BaseLocation,
    measured: Measurement,
    sizing: Sizing,
    stdout: TextIO,
) -> None:
    overlay, output = options.overlay, options.output
    if overlay.image == "stoker":
        _line(stdout, "left      --image: where the cluster pulls the server's image from")
    for each in _models_left(options, measured, sizing):
        _line(stdout, f"left      {each}")
    if overlay.gpu_by == "mig" and sizing.gpu is not None and sizing.gpu.slice is not None:
        chosen = sizing.gpu.slice
        needed = sizing.gpu.nbytes // MIB
        _line(stdout, f"left      nodes that have {chosen.resource}, of {chosen.name};")
        _line(
            stdout, f"          on other cards mig.yaml names their profile of {needed} MiB or more"
        )
    if overlay.autoscaler == "hpa":
        _line(stdout, "left      a Prometheus Adapter with the rules of components/autoscaling-hpa")
    if overlay.autoscaler == "keda" and not overlay.prometheus:
        address = _assumed_prometheus(base)
        _line(stdout, f"left      --prometheus: its address, taken to be {address}")
    namespace = f"kubectl create namespace {overlay.namespace}; " if overlay.namespace else ""
    _line(stdout, f"then      {namespace}kubectl apply -k {output}")


def _models_left(options: InitOptions, measured: Measurement, sizing: Sizing) -> Iterator[str]:
    """What is still to be done for the pods to find the models."""
    kind, place = options.overlay.models.kind, options.overlay.models.place
    volume = sizing.volume
    needed = format_memory(volume.nbytes)
    file = options.output / CLAIM_FILE
    match kind:
        case "pvc" if place:
            yield f"{needed} or more in the claim {place}, with these models in it ({file})"
        case "pvc":
            yield (
                f"the claim {CLAIM_NAME}, of {needed} or more, filled with these models: kubectl "
                f"apply -f {file}, then fill.yaml of components/models-pvc"
            )
        case "s3":
            yield _S3_LEFT if place else f"BUCKET/PREFIX, {_S3_LEFT}"
        case "image" if not place:
            yield "the image of the models (components/models-image-volume)"
        case "baked":
            yield "an image with these models below /models"
    names = [each.name for each in measured.models]
    if kind != "demo" and not options.sources and len(names) == 1 and not options.model_name:
        # With a SOURCE its form is seen, and the pods are told the name.
        yield f"--model-name {names[0]}, where the pods get that model itself and no repository"
    if kind in ("pvc", "s3") and not volume.is_known:
        yield (
            f"the size of the repository, which was not looked at: {needed} is from the weights "
            f"alone, {volume.files_bytes / MIB:.0f} MiB"
        )


def _assumed_prometheus(base: BaseLocation) -> str:
    """The address in components/autoscaling-keda; empty where it cannot be read."""
    file = base.folder / "components" / "autoscaling-keda" / "scaledobject.yaml"
    for manifest in parse_manifests(file.read_text(), str(file)) if file.is_file() else ():
        for trigger in objects(manifest.value, "spec", "triggers"):
            return text(trigger, "metadata", "serverAddress")
    return ""


def _line(stdout: TextIO, sentence: str) -> None:
    stdout.write(sentence + "\n")
