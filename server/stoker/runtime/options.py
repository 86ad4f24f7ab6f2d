"""What a model's configuration asks of ONNX Runtime, as values that need no ONNX Runtime.

`session_options` reads `parameters` and `optimization` of a ModelConfig and refuses by name what
cannot be obeyed; `onnx.py` applies the result. Switches of other readers (`SWITCHES`) are looked at
here too, before anything is opened; other parameters are theirs, or a user's own.
Source: Triton's ONNX Runtime backend, "Model Config Options"; ONNX Runtime's session config keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeVar

from stoker.errors import InvalidRequest
from stoker.model import ModelConfig

T = TypeVar("T")

GRAPH_KEY: Final = "gpu_graph_id"
"""Of a run: which CUDA graph is captured or replayed; -1 for none."""


ARENA_SHRINKAGE: Final = "memory.enable_memory_arena_shrinkage"
"""Parameter of a model, and key of ONNX Runtime's run options: which arenas a run shrinks."""


SWITCHES: Final = ("batching_proof", "split_oversized", "cuda_graphs")
"""Parameters that are `on` or `off`. On a machine that has no use for one its value counts as well:
a file is checked on one and served on another."""
STRICT: Final = "strict_placement"
"""The parameter by which a model refuses to be served while it computes on the CPU in part."""


class GraphLevel(Enum):
    """Graph optimisations; the value is the name of ONNX Runtime's constant."""

    ALL = "ORT_ENABLE_ALL"
    EXTENDED = "ORT_ENABLE_EXTENDED"
    BASIC = "ORT_ENABLE_BASIC"
    OFF = "ORT_DISABLE_ALL"


_GRAPH_LEVELS: Final = {
    0: GraphLevel.ALL,
    1: GraphLevel.EXTENDED,
    -1: GraphLevel.BASIC,
    2: GraphLevel.OFF,
}


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """Options of one session, all of them decided."""

    graph_level: GraphLevel
    intra_op_threads: int
    inter_op_threads: int
    is_parallel: bool
    memory_arena: bool
    memory_pattern: bool
    config_entries: Mapping[str, str]
    run_config_entries: Mapping[str, str]


def session_options(config: ModelConfig, *, intra_op_threads: int) -> SessionOptions:
    """The options of a session whose placement gives a run `intra_op_threads` threads.

    Raises InvalidRequest for a value that ONNX Runtime has no meaning for. Spinning is always off:
    waiting threads burn a pod's CPU quota (six times the CPU at a duty cycle of a tenth).
    """
    for key in SWITCHES:
        switch(config, key)
    flag(config, STRICT, default=False)
    level = _GRAPH_LEVELS.get(config.optimization.graph_level)
    if level is None:
        raise InvalidRequest(
            f"model '{config.name}': optimization.graph.level: expected 0 (all), 1 (extended), "
            f"-1 (basic) or 2 (off), got {config.optimization.graph_level}"
        )
    entries = {
        "session.intra_op.allow_spinning": "0",
        "session.inter_op.allow_spinning": "0",
    }
    if flag(config, "session.use_device_allocator_for_initializers", default=False):
        entries["session.use_device_allocator_for_initializers"] = "1"
    # -1: no CUDA graph is captured or replayed. Written out because ONNX Runtime's Python layer
    # looks the key up in each bound run and throws and catches an exception (48 us) if it is
    # not there.
    run_entries = {GRAPH_KEY: "-1"}
    shrink = config.parameters.get(ARENA_SHRINKAGE, "")
    if shrink:
        run_entries[ARENA_SHRINKAGE] = shrink
    return SessionOptions(
        graph_level=level,
        intra_op_threads=intra_op_threads,
        inter_op_threads=count(config, "inter_op_thread_count"),
        is_parallel=choice(config, "execution_mode", {"0": False, "1": True}, default=False),
        memory_arena=flag(config, "enable_mem_arena", default=True),
        memory_pattern=flag(config, "enable_mem_pattern", default=True),
        config_entries=entries,
        run_config_entries=run_entries,
    )


def count(config: ModelConfig, key: str) -> int:
    """A parameter that is a whole number of at least 0; 0 without it."""
    text = config.parameters.get(key, "0").strip()
    if not (text.isascii() and text.isdigit()):
        raise InvalidRequest(
            f"model '{config.name}': parameter '{key}': expected a whole number of at least 0, "
            f"got '{text}'"
        )
    return int(text)


def flag(config: ModelConfig, key: str, *, default: bool) -> bool:
    """A parameter that is 0 or 1."""
    return choice(
        config, key, {"0": False, "1": True, "false": False, "true": True}, default=default
    )


def switch(config: ModelConfig, key: str) -> bool | None:
    """A parameter that is on or off; None without it."""
    words = {"on": True, "off": False, "1": True, "0": False}
    more = {"true": True, "false": False, "yes": True, "no": False}
    return choice(config, key, {**words, **more}, default=None)


def choice(config: ModelConfig, key: str, values: Mapping[str, T], *, default: T) -> T:
    """A parameter out of a closed set of words."""
    text = config.parameters.get(key)
    if text is None:
        return default
    if text.strip().lower() not in values:
        raise InvalidRequest(
            f"model '{config.name}': parameter '{key}': expected one of {', '.join(values)}, "
            f"got '{text}'"
        )
    return values[text.strip().lower()]
