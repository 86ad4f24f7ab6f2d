"""The arguments of `stoker k8s init`: from words to wishes, options and places."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast, get_args

from stoker.arguments import Parser, UsageError
from stoker.deploy.measuring import PATIENCE_S
from stoker.deploy.overlay import (
    BASE_NAME,
    Autoscaler,
    GpuBy,
    ModelsKind,
    ModelsPlace,
    Monitoring,
    OverlayOptions,
)
from stoker.deploy.sizing import Wishes
from stoker.units import format_duration, parse_duration, parse_size

# A name is a prefix of the names of Services, which are DNS labels of at most 63 characters:
# `-stoker-headless` takes 16 of them.  Source: Kubernetes, "Object names and IDs".
_NAME: Final = re.compile(r"[a-z]([a-z0-9-]{0,45}[a-z0-9])?")
_NAMESPACE: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_CLAIM: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
# What a registry could be asked for at all.  Source: OCI distribution, "Pulling manifests".
_IMAGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]*(@[a-z0-9]+:[0-9a-f]+)?")
_PLACES: Final[Mapping[str, re.Pattern[str]]] = {
    "pvc": _CLAIM,
    "s3": re.compile(r"[^\s/][^\n\r]*"),
    "image": _IMAGE,
}


@dataclass(frozen=True, slots=True)
class InitOptions:
    """Everything that `stoker k8s init` was asked for."""

    sources: tuple[str, ...]
    output: Path
    force: bool
    base: str
    measured: Path | None
    """A measurement to take in place of measuring here."""
    model_name: str
    patience_s: float
    names_place: bool
    """Whether it was said where the pods get the models."""
    wishes: Wishes
    overlay: OverlayOptions


def init_parser() -> argparse.ArgumentParser:
    """The arguments of `stoker k8s init`."""
    parser = Parser(
        prog="stoker k8s init",
        usage="stoker k8s init [SOURCE ...] --output FOLDER [OPTION ...]",
        description="Starts a server with these models on this machine, measures how long it takes "
        "and what it needs, and writes a kustomize overlay with the numbers that follow. SOURCE as "
        "in `stoker serve`; none: the demo models.",
        epilog="Exit codes: 0 written, 1 the models cannot be served, 2 bad usage. "
        "docs/k8s-init.md has the formulas.",
        allow_abbrev=False,
    )
    parser.add_argument("sources", metavar="SOURCE", nargs="*", help="the models, on this machine")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FOLDER", help="where the overlay is written"
    )
    parser.add_argument("--force", action="store_true", help="write over an overlay that is there")
    parser.add_argument(
        "--base",
        default="",
        metavar="PATH|URL",
        help="folder or kustomize URL that holds base and components (default: those of the "
        "checkout around --output, else a copy that is written beside the overlay)",
    )
    parser.add_argument(
        "--measured",
        type=Path,
        metavar="FILE",
        help="take this measured.json, of another machine say, and measure nothing",
    )
    parser.add_argument(
        "--patience",
        type=_duration,
        default=PATIENCE_S,
        metavar="TIME",
        help=f"how long the measured start may take (default: {format_duration(PATIENCE_S)})",
    )
    _add_placing(parser)
    _add_scaling(parser)
    return parser


def _add_placing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--name",
        default=BASE_NAME,
        type=_matching(_NAME, "a name of small letters, digits and -, at most 47"),
        help="prefix of all names, where a namespace has several deployments",
    )
    parser.add_argument(
        "--namespace",
        type=_matching(_NAMESPACE, "a namespace's name"),
        help="where it goes (default: whoever applies it decides)",
    )
    parser.add_argument(
        "--image",
        default=BASE_NAME,
        type=_matching(_IMAGE, "an image, NAME:TAG or NAME@DIGEST"),
        metavar="IMAGE",
        help="the server's, best with a digest",
    )
    parser.add_argument(
        "--device",
        choices=("gpu", "cpu"),
        default="gpu",
        help="what the pods run on (default: gpu)",
    )
    parser.add_argument(
        "--gpu",
        choices=get_args(GpuBy),
        help="how a pod asks for its GPU: a whole one, the smallest MIG slice that fits, or by a "
        "claim (default: limit)",
    )
    parser.add_argument(
        "--spare-gpu",
        action="store_true",
        help="there is a free GPU in rollouts: a new pod starts before an old one goes",
    )
    parser.add_argument(
        "--models",
        type=_models,
        metavar="WHERE",
        help="where pods get the models: pvc[:CLAIM], s3[:BUCKET/PREFIX], image[:IMAGE], baked "
        "(into the server's image, below /models), demo (default: demo where that is measured, "
        "else pvc)",
    )
    parser.add_argument(
        "--model-name", default="", metavar="NAME", help="where the one SOURCE is a model itself"
    )
    parser.add_argument(
        "--max-buffered-bytes",
        type=_size,
        metavar="SIZE",
        help="of requests and answers (default: four of the largest batches, at least 256MiB)",
    )


def _add_scaling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--autoscaler",
        choices=get_args(Autoscaler),
        default="hpa",
        help="who sets the number of pods (default: hpa)",
    )
    parser.add_argument("--replicas", type=_count, metavar="N", help="without an autoscaler")
    parser.add_argument("--min", type=_count, metavar="N", help="least replicas (default: 2)")
    parser.add_argument("--max", type=_count, metavar="N", help="most replicas (default: 10)")
    parser.add_argument(
        "--demand-target",
        type=_target,
        default=0.65,
        metavar="RATIO",
        help="of stoker_demand_ratio (default: 0.65)",
    )
    parser.add_argument(
        "--prometheus", default="", metavar="URL", help="for KEDA (default: that of the component)"
    )
    parser.add_argument(
        "--monitoring",
        choices=get_args(Monitoring),
        default="operator",
        help="who scrapes: the Prometheus Operator, with rules and dashboard; scrape: the same "
        "without those, which another deployment brought; or who follows annotations "
        "(default: operator)",
    )
    parser.add_argument(
        "--drain-delay", type=_duration, default=5.0, metavar="TIME", help="(default: 5s)"
    )
    parser.add_argument(
        "--drain-timeout", type=_duration, default=30.0, metavar="TIME", help="(default: 30s)"
    )


def parse_init(words: Sequence[str]) -> InitOptions:
    """The options. Raises UsageError with what was expected and what came; prints help."""
    parsed = init_parser().parse_args(words)
    least, most = _replicas(parsed)
    if parsed.autoscaler == "keda" and not parsed.namespace:
        raise UsageError("--autoscaler keda: expected --namespace too, for the queries name it")
    if parsed.drain_delay == 0:
        raise UsageError("--drain-delay: expected a time above 0, for proxies to notice")
    if parsed.spare_gpu and parsed.device == "cpu":
        raise UsageError("--spare-gpu: expected --device gpu")
    if parsed.gpu and parsed.device == "cpu":
        raise UsageError(f"--gpu {parsed.gpu}: expected --device gpu, got cpu")
    sources = tuple(parsed.sources)
    models = parsed.models or ModelsPlace("pvc" if sources else "demo")
    if models.kind == "demo" and sources:
        raise UsageError(f"--models demo: expected no SOURCE, got {sources[0]}")
    if models.kind != "demo" and not sources and parsed.measured is None:
        raise UsageError(f"--models {models.kind}: expected a SOURCE to measure, got none")
    wishes = Wishes(
        device=parsed.device,
        least=least,
        most=most,
        has_spare_gpu=parsed.spare_gpu,
        drain_delay_s=parsed.drain_delay,
        drain_timeout_s=parsed.drain_timeout,
        buffered_bytes=parsed.max_buffered_bytes,
        demand_target=parsed.demand_target,
        downloads_models=models.kind == "s3",
    )
    overlay = OverlayOptions(
        models=models,
        name=parsed.name,
        namespace=parsed.namespace or "",
        image=parsed.image,
        model_name=parsed.model_name,
        autoscaler=parsed.autoscaler,
        monitoring=parsed.monitoring,
        gpu_by=parsed.gpu or "limit",
        prometheus=parsed.prometheus,
    )
    return InitOptions(
        sources=sources,
        output=parsed.output,
        force=parsed.force,
        base=parsed.base,
        measured=parsed.measured,
        model_name=parsed.model_name,
        patience_s=parsed.patience,
        names_place=parsed.models is not None,
        wishes=wishes,
        overlay=overlay,
    )


def _replicas(parsed: argparse.Namespace) -> tuple[int, int]:
    """The least and the most."""
    if parsed.autoscaler == "none":
        if parsed.min is not None or parsed.max is not None:
            raise UsageError("--min and --max: expected an --autoscaler, got none; use --replicas")
        count = parsed.replicas or 2
        return count, count
    if parsed.replicas is not None:
        raise UsageError("--replicas: expected --autoscaler none, or --min and --max instead")
    least = parsed.min or 2
    most = max(10, least) if parsed.max is None else parsed.max
    if most < least:
        raise UsageError(f"--max: expected at least --min, {least}, got {most}")
    return least, most


def _models(written: str) -> ModelsPlace:
    kind, _, place = written.partition(":")
    if kind not in get_args(ModelsKind) or (place and kind in ("baked", "demo")):
        raise argparse.ArgumentTypeError(
            "expected pvc[:CLAIM], s3[:BUCKET/PREFIX], image[:IMAGE], baked or demo, "
            f"got {written!r}"
        )
    if place and not _PLACES[kind].fullmatch(place):
        names = {"pvc": "a claim's name", "s3": "BUCKET/PREFIX", "image": "an image"}
        raise argparse.ArgumentTypeError(f"expected {names[kind]} behind {kind}:, got {place!r}")
    return ModelsPlace(cast("ModelsKind", kind), place)


def _matching(pattern: re.Pattern[str], expected: str) -> Callable[[str], str]:
    def parse(written: str) -> str:
        if not pattern.fullmatch(written):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {written!r}")
        return written

    return parse


def _count(written: str) -> int:
    if not written.isascii() or not written.isdecimal() or int(written) == 0:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {written!r}")
    return int(written)


def _duration(written: str) -> float:
    try:
        return parse_duration(written)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _size(written: str) -> int:
    try:
        return parse_size(written)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _target(written: str) -> float:
    try:
        ratio = float(written)
    except ValueError:
        ratio = 0.0
    if not 0 < ratio <= 0.9:
        raise argparse.ArgumentTypeError(
            f"expected a ratio above 0 and at most 0.9, got {written!r}"
        )
    return ratio
