"""The hardware that the checks run on, and why they cannot run where there is none."""

import os
from dataclasses import dataclass
from functools import cache

from stoker.runtime.gpu_diagnosis import NO_PROVIDER, cuda_needs, gpu_absence, gpu_unfitness
from stoker.runtime.gpu_facts import Gpu, read_gpu_facts
from stoker.runtime.onnx import library


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the report says of the machine."""

    absence: str
    """Why nothing can run on a GPU here; empty where something can."""
    gpus: tuple[Gpu, ...]
    driver: str
    """What CUDA the driver is for, `13.0`; empty without one."""
    onnxruntime: str
    """`onnxruntime-gpu 1.31.1 (CUDA 13.0)`."""

    def lines(self) -> tuple[tuple[str, str], ...]:
        """Name and value of each fact, for a report."""
        names = ", ".join(
            f"{gpu.name} (compute capability {gpu.capability_text}, "
            f"{gpu.memory_bytes / 2**30:.1f} GiB)"
            for gpu in self.gpus
        )
        return (
            ("GPUs", names or "none"),
            ("can be used", f"no: {self.absence}" if self.absence else "yes"),
            ("driver is for CUDA", self.driver or "no driver"),
            ("ONNX Runtime", self.onnxruntime),
        )


@cache
def hardware() -> Hardware:
    """Looks once. Makes no context."""
    ort = library()
    cuda = str(getattr(ort, "cuda_version", "") or "")
    package = str(getattr(ort, "package_name", "") or "onnxruntime")
    described = f"{package} {ort.__version__}" + (f" (CUDA {cuda})" if cuda else "")
    facts = read_gpu_facts(visible=os.environ.get("CUDA_VISIBLE_DEVICES"))
    absence = gpu_absence(facts, cuda_needs(cuda)) or gpu_unfitness(facts, 0) or ""
    if absence == NO_PROVIDER:
        absence += " (ONNXRUNTIME=gpu make ...)"
    version = facts.driver_version
    driver = f"{version // 1000}.{version % 1000 // 10}" if version else ""
    return Hardware(absence, facts.gpus, driver, described)
