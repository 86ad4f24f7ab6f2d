"""Whether ONNX Runtime is installed as it must be: exactly one of its distributions, whole.

`onnxruntime` and `onnxruntime-gpu` own the same import package; the last one installed wins, and
removing either destroys the other without a word from pip. `onnx.py` asks at start-up.
Imports nothing of ours.
"""

import importlib.metadata
from collections.abc import Sequence
from typing import Final

DISTRIBUTIONS: Final = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-training",
)
"""Distributions that own the import package `onnxruntime`: at most one may be installed."""


class BrokenInstallation(Exception):
    """ONNX Runtime is missing or broken; the text says what to install. Raised at start-up."""


def installation_problem(installed: Sequence[str], *, imports: bool) -> str | None:
    """What is wrong with these distributions of ONNX Runtime; None when all is well.

    `imports`: the package imports and has `InferenceSession`.
    """
    remedy = 'install one of "stoker[cpu]" and "stoker[gpu]"'
    if len(installed) > 1:
        return (
            f"{' and '.join(installed)} are installed together and overwrite each other's files; "
            f"uninstall all of them, then {remedy}"
        )
    if not installed and not imports:
        return f"ONNX Runtime is not installed; {remedy}"
    if not imports:
        return (
            f"{' '.join(installed)} is installed, but its files are damaged (another distribution "
            f"of it was removed?); uninstall it, then {remedy}"
        )
    return None


def installed_distributions() -> tuple[str, ...]:
    """Which of DISTRIBUTIONS are installed."""
    return tuple(name for name in DISTRIBUTIONS if _is_installed(name))


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
