"""Models opened by the server's own runtime, on the GPU or the CPU, for comparing the two."""

from pathlib import Path

import onnx
from stoker.model import Accelerator, ModelConfig, Optimization
from stoker.runtime.onnx import OnnxRuntime
from stoker.runtime.session import Placement, Session

from tests.models import write_model


def config(**options: str) -> ModelConfig:
    """A configuration with these options of the CUDA provider."""
    accelerators = (Accelerator("cuda", options),) if options else ()
    optimization = Optimization(gpu_accelerators=accelerators)
    return ModelConfig("m", 0, (), (), None, optimization=optimization)


def open_on(device: str, folder: Path, model: onnx.ModelProto, **options: str) -> Session:
    """The model on `cpu` or `cuda:N`, as the server opens it."""
    return open_path(device, write_model(folder / "model.onnx", model), **options)


def open_path(device: str, path: Path, **options: str) -> Session:
    """The same of a file."""
    runtime = OnnxRuntime("cpu" if device == "cpu" else "gpu")
    return runtime.open(path, config(**options), Placement(device, 1, 1))
