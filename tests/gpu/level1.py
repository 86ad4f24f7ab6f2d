"""The server's own fixed bindings (`runtime/fixed.py`), for comparing with plain runs."""

import numpy as np
from stoker.runtime.buckets import Buckets, powers_of_two
from stoker.runtime.fixed import FixedRuns
from stoker.runtime.fixed_shapes import fixed_shapes
from stoker.runtime.session import Session
from stoker.tensor import Array

from tests.gpu import checks
from tests.models import config_of


class Level1:
    """FP32 x [batch, *item] -> y, in buckets of powers of two. For the thread that makes it."""

    def __init__(self, session: Session, max_rows: int = 8) -> None:
        """Raises ValueError with the reason where the model has no fixed shapes."""
        self._session = session
        shapes = fixed_shapes(config_of(session, max_rows), session, max_rows)
        if isinstance(shapes, str):
            raise ValueError(shapes)
        if session.memory is None:
            raise ValueError(f"a session on {session.device} without memory for it")
        self.runs = FixedRuns(session, session.memory, shapes, Buckets(powers_of_two(max_rows)))
        if not self.runs.is_host:
            self.runs.warm()  # the host's own slabs are for small outputs only
        (output,) = shapes.outputs
        self._lent: Array | None = None
        if self.runs.needs_slab(0, max_rows):
            slab = session.memory.slab(output.row_bytes * max_rows)
            shape = shapes.shape(output, max_rows)
            self._lent = slab.array.view(np.float32).reshape(shape)

    def run(self, x: Array) -> Array:
        """What level 1 answers. A large answer lies in a slab, as in the server, until the next."""
        rows = len(x)
        (place,) = self.runs.inputs
        place.array[:rows] = x
        if self._lent is not None and self.runs.needs_slab(0, rows):
            (y,) = self.runs.run(rows, (0,), {0: self._lent[: self.runs.bucket(rows)]}, 1)
        else:
            (y,) = self.runs.run(rows, (0,), {}, 0)
        return y

    def distance(self, x: Array) -> float:
        """How far its answer is from a plain run's, as a share of its values."""
        return checks.distance(self.run(x), self._session.run({"x": x}, ["y"])[0])

    def close(self) -> None:
        """Ends the bindings, then their session."""
        self.runs.forget()
        self._session.close()
