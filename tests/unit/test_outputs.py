"""Slabs for outputs: bounded, and used again only after the last answer has left."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from stoker.engine.outputs import POOL_SLABS, SET_BYTES, SLAB_BYTES, BatchLease, OutputPool
from stoker.engine.plan import PlannedOutput
from stoker.tensor import DataType

WIDTH = SLAB_BYTES // 8 // 4  # eight rows of FP32 fill the least slab
BIG = PlannedOutput("big", DataType.FP32, (WIDTH,), (WIDTH,))
SMALL = PlannedOutput("small", DataType.FP32, (1,), (1,))


def pool(*outputs: PlannedOutput, batches: bool = True) -> OutputPool:
    """A pool whose model has made its outputs as it declares them."""
    outputs = outputs or (BIG, SMALL)
    at = OutputPool(outputs, batches=batches, max_rows=8)
    at.observe(*made(outputs))
    return at


def made(outputs: Sequence[PlannedOutput]) -> tuple[list[str], list[np.ndarray]]:
    """Names and arrays of a run with one row."""
    return [each.name for each in outputs], [
        np.zeros((1, *map(abs, each.model_dims)), each.datatype.numpy) for each in outputs
    ]


def lend(at: OutputPool, *, rows: int = 8, shares: int = 1) -> tuple[np.ndarray, BatchLease]:
    lent = at.lend(["big", "small"], rows, shares)
    assert lent is not None
    arrays, lease = lent
    assert list(arrays) == ["big"]
    return arrays["big"], lease


def test_only_large_outputs_of_fixed_shape_have_slabs() -> None:
    assert pool(SMALL).is_empty
    assert pool(PlannedOutput("y", DataType.FP32, (-1, WIDTH), (-1, WIDTH))).is_empty
    assert pool(PlannedOutput("y", DataType.BYTES, (WIDTH,), (WIDTH,))).is_empty
    assert pool(BIG, batches=False).is_empty
    assert not pool(PlannedOutput("y", DataType.BF16, (2 * WIDTH,), (2 * WIDTH,))).is_empty
    assert not pool().is_empty


def test_an_output_gets_slabs_only_after_it_was_made_as_declared() -> None:
    at = OutputPool((BIG,), batches=True, max_rows=8)
    assert at.lend(["big"], 8, 1) is None
    at.observe(["big"], [np.zeros((3, WIDTH), np.float32)])
    assert at.lend(["big"], 8, 1) is not None


def test_an_output_of_another_shape_than_declared_gets_no_slab() -> None:
    at = OutputPool((BIG,), batches=True, max_rows=8)
    at.observe(["big"], [np.zeros((3, 1, WIDTH), np.float32)])
    at.observe(["big"], [np.zeros((3, WIDTH), np.float32)])
    assert at.lend(["big"], 8, 1) is None
    assert at.is_empty


def test_a_closed_pool_lends_nothing() -> None:
    at = pool()
    at.close()
    assert at.lend(["big"], 8, 1) is None


def test_a_set_of_slabs_is_bounded_in_bytes() -> None:
    width = SET_BYTES // 4 // 4
    huge = PlannedOutput("big", DataType.FP32, (width,), (width,))
    at = pool(huge)
    assert lend(at, rows=4)[0].shape == (4, width)
    assert at.lend(["big"], 5, 1) is None


def test_a_slab_is_exactly_as_long_as_the_batch() -> None:
    wide = PlannedOutput("big", DataType.FP32, (8 * WIDTH,), (8 * WIDTH,))
    array, _ = lend(pool(wide), rows=3)
    assert array.shape == (3, 8 * WIDTH)
    assert array.dtype == np.float32


def test_batches_too_small_or_too_large_for_a_slab_get_none() -> None:
    assert pool().lend(["big"], 7, 1) is None
    assert pool().lend(["big"], 9, 1) is None
    assert pool().lend(["small"], 8, 1) is None


def test_a_slab_is_used_again_only_after_the_last_release() -> None:
    at = pool()
    first, lease = lend(at, shares=3)
    lease.release()
    lease.release()
    second, _ = lend(at)
    assert not np.shares_memory(first, second)
    lease.release()
    third, _ = lend(at)
    assert np.shares_memory(first, third)


def test_the_pool_is_bounded_and_a_batch_without_a_slab_gets_fresh_arrays() -> None:
    at = pool()
    leases = [lend(at)[1] for _ in range(POOL_SLABS)]
    assert at.lend(["big"], 8, 1) is None
    leases[0].release()
    assert at.lend(["big"], 8, 1) is not None


@given(st.lists(st.integers(1, 3), max_size=30), st.randoms(use_true_random=False))
def test_no_two_batches_ever_hold_the_same_slab(shares: list[int], chance: object) -> None:
    at = pool()
    lent: list[tuple[int, BatchLease, int]] = []
    for count in shares:
        batch = at.lend(["big"], 8, count)
        assert (batch is None) == (len(lent) == POOL_SLABS)
        if batch is not None:
            address = batch[0]["big"].__array_interface__["data"][0]
            assert address not in [other for other, _, _ in lent]
            lent.append((address, batch[1], count))
        if len(lent) == POOL_SLABS:
            _, lease, left = lent.pop(0)
            for _ in range(left):
                lease.release()
