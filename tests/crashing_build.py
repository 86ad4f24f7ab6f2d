"""`python -m tests.crashing_build serve ...`: a whole server process whose TensorRT builds are told
what to do by the test, the death of the process among it.

All is real but TensorRT: its sessions are ONNX Runtime's on the CPU. A build waits inside of the
opening, as the compiler would, where nothing can stop it, until the test writes a word into the
FIFO that ORDERS names.
"""

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from stoker.arguments import parse_settings
from stoker.model import ModelConfig
from stoker.process import serve
from stoker.runtime.candidate import Candidate, Stop
from stoker.runtime.gpu_facts import Gpu
from stoker.runtime.onnx import OnnxRuntime
from stoker.runtime.session import Placement, Session
from stoker.runtime.tensorrt import ModelSource, TensorRtPlaces, tensorrt_candidate
from stoker.runtime.tensorrt_library import TensorRtLibrary

ORDERS = "TEST_BUILD_ORDERS"
"""The environment variable."""
DIE, BUILD = "die", "build"
ENGINE = "TensorrtExecutionProvider_graph_0_sm89.engine"


class BuildingRuntime(OnnxRuntime):
    """Implements `TensorRtRuntime` on the CPU."""

    def __init__(self, cache: Path) -> None:
        super().__init__("cpu")
        self._cache = cache

    def candidate(
        self, path: Path, folder: Path, config: ModelConfig, session: Session, *, max_rows: int
    ) -> Candidate | None:
        return tensorrt_candidate(
            ModelSource(path, folder, config),
            session,
            self,
            lambda: TensorRtLibrary("10.16.1"),
            TensorRtPlaces(self._cache),
            buckets=(1, max_rows),
        )

    def gpu(self, device: str) -> Gpu:
        return Gpu(0, "NVIDIA L4", (8, 9))

    def open_tensorrt(
        self,
        path: Path,
        config: ModelConfig,
        placement: Placement,
        options: Mapping[str, str],
        stop: Stop,
    ) -> Session:
        engine = Path(options["trt_engine_cache_path"]) / ENGINE
        if not engine.exists():
            if Path(os.environ[ORDERS]).read_text() == DIE:
                os.kill(os.getpid(), signal.SIGKILL)
            engine.write_bytes(b"an engine")
        return self.open(path, config, placement)


def main() -> int:
    """The exit code, where the process ends by returning."""
    settings = parse_settings("serve", sys.argv[2:])
    return serve(settings, runtime=BuildingRuntime(Path(settings.trt_cache_dir)))


if __name__ == "__main__":
    sys.exit(main())
