"""Opens a session of ONNX Runtime with what was decided: options and providers, no fallback.

`onnx.py` gives the library, translates what is raised here, and looks at what was opened.
"""

import contextlib
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from stoker.runtime import copies
from stoker.runtime.candidate import Stop
from stoker.runtime.cpu import at_low_priority
from stoker.runtime.options import SessionOptions
from stoker.runtime.providers import ProviderList

LOG_ERRORS: Final = 3
"""ONNX Runtime's log, which goes to the standard error in a form of its own, says no more."""


def open_session(
    ort: ModuleType,
    path: Path,
    options: SessionOptions,
    providers: ProviderList,
    *,
    written: Path | None = None,
    stop: Stop | None = None,
) -> Any:
    """A session. `written`: where ONNX Runtime writes the graph as it runs it. `stop` ends the
    opening between two of its steps. Raises what ONNX Runtime raises."""
    chosen = ort.SessionOptions()
    chosen.graph_optimization_level = getattr(ort.GraphOptimizationLevel, options.graph_level.value)
    chosen.intra_op_num_threads = options.intra_op_threads
    chosen.inter_op_num_threads = options.inter_op_threads
    mode = "ORT_PARALLEL" if options.is_parallel else "ORT_SEQUENTIAL"
    chosen.execution_mode = getattr(ort.ExecutionMode, mode)
    chosen.enable_cpu_mem_arena = options.memory_arena
    chosen.enable_mem_pattern = options.memory_pattern
    chosen.log_severity_level = LOG_ERRORS
    if written is not None:
        chosen.optimized_model_filepath = str(written)
    for key, value in options.config_entries.items():
        chosen.add_session_config_entry(key, value)
    chosen.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if stop is not None:
        stop.on_set(lambda: chosen.set_load_cancellation_flag(True))
    named = [(name, dict(each)) if each else name for name, each in providers]
    # Else ONNX Runtime's Python layer opens the session once more, on the CPU, where this fails
    # and in a run whose provider fails.
    return at_low_priority(
        lambda: ort.InferenceSession(str(path), chosen, providers=named, enable_fallback=0)
    )


def open_counted(
    ort: ModuleType, path: Path, options: SessionOptions, providers: ProviderList
) -> tuple[Any, int | None]:
    """A session, and the copies between devices in its graph; None where that cannot be counted."""
    # A model that ONNX Runtime cannot write is opened again, without the count.
    with contextlib.suppress(Exception), tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "graph.onnx"
        session = open_session(ort, path, options, providers, written=written)
        return session, copies.count(written)
    return open_uncounted(ort, path, options, providers)


def open_uncounted(
    ort: ModuleType, path: Path, options: SessionOptions, providers: ProviderList
) -> tuple[Any, None]:
    """A session whose copies nobody counts."""
    return open_session(ort, path, options, providers), None
