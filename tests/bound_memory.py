"""The memory of a bound tensor as an array, for what stands in at the ONNX Runtime boundary."""

import numpy as np
from stoker.runtime.session import BoundTensor
from stoker.tensor import Array


class _Memory:
    """Memory of a bound tensor, for numpy."""

    def __init__(self, tensor: BoundTensor) -> None:
        self.__array_interface__ = {
            "shape": tensor.shape,
            "typestr": np.dtype(tensor.datatype.numpy).str,
            "data": (tensor.address, False),
            "version": 3,
        }


def memory_of(tensor: BoundTensor) -> Array:
    """A view of the host's memory at the tensor's address."""
    return np.asarray(_Memory(tensor))
