"""Options of a session out of a model's configuration."""

from collections.abc import Mapping

import pytest
from stoker.errors import InvalidRequest
from stoker.model import ModelConfig, Optimization
from stoker.runtime.options import GraphLevel, session_options


def config(parameters: Mapping[str, str] | None = None, *, level: int = 0) -> ModelConfig:
    optimization = Optimization(graph_level=level)
    return ModelConfig("m", 0, (), (), None, parameters=parameters or {}, optimization=optimization)


def test_nothing_written_means_everything_on_but_spinning() -> None:
    options = session_options(config(), intra_op_threads=3)
    assert options.graph_level is GraphLevel.ALL
    assert (options.intra_op_threads, options.inter_op_threads) == (3, 0)
    assert not options.is_parallel
    assert options.memory_arena
    assert options.memory_pattern
    assert options.config_entries == {
        "session.intra_op.allow_spinning": "0",
        "session.inter_op.allow_spinning": "0",
    }


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (0, GraphLevel.ALL),
        (1, GraphLevel.EXTENDED),
        (-1, GraphLevel.BASIC),
        (2, GraphLevel.OFF),
    ],
)
def test_graph_levels_mean_what_they_mean_to_triton(level: int, expected: GraphLevel) -> None:
    assert session_options(config(level=level), intra_op_threads=1).graph_level is expected


def test_every_parameter_is_obeyed() -> None:
    options = session_options(
        config(
            {
                "inter_op_thread_count": "2",
                "execution_mode": "1",
                "enable_mem_arena": "0",
                "enable_mem_pattern": "0",
                "memory.enable_memory_arena_shrinkage": "cpu:0",
                "session.use_device_allocator_for_initializers": "1",
                "batching_proof": "off",
            }
        ),
        intra_op_threads=1,
    )
    assert options.inter_op_threads == 2
    assert options.is_parallel
    assert not options.memory_arena
    assert not options.memory_pattern
    assert options.config_entries["session.use_device_allocator_for_initializers"] == "1"
    assert options.run_config_entries["memory.enable_memory_arena_shrinkage"] == "cpu:0"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("inter_op_thread_count", "-1"),
        ("inter_op_thread_count", "many"),
        ("execution_mode", "2"),
        ("enable_mem_arena", "yes"),
        ("enable_mem_pattern", ""),
        ("session.use_device_allocator_for_initializers", "2"),
        ("batching_proof", "of"),
        ("split_oversized", "never"),
        ("cuda_graphs", "max"),
        ("strict_placement", "2"),
    ],
)
def test_a_value_without_meaning_is_refused_by_name(key: str, value: str) -> None:
    with pytest.raises(InvalidRequest, match=f"model 'm': parameter '{key}': expected"):
        session_options(config({key: value}), intra_op_threads=1)


def test_an_unknown_graph_level_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"optimization\.graph\.level: expected .* got 3"):
        session_options(config(level=3), intra_op_threads=1)
