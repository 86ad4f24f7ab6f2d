"""The files that make up a model, and the digest of their content.

Weights may lie in files beside the `.onnx` file, which names them. A compiled engine belongs to all
of these bytes and to nothing else of a model: neither its name nor its place.
Source: onnx.proto3, TensorProto.external_data.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from stoker.errors import InvalidRequest
from stoker.runtime.external_data import external_locations

_BLOCK: Final = 1 << 20


def model_files(path: Path) -> tuple[Path, ...]:
    """The `.onnx` file and the files of its external data that exist, in an order of their own."""
    outside = sorted(external_locations(path))
    return (path, *(each for each in (path.parent / place for place in outside) if each.is_file()))


def digest(path: Path, *, proceed: Callable[[], bool] = lambda: True) -> str:
    """SHA-256 of the model's files in hexadecimal digits. Reads all of them, about 1 s a GB.

    `proceed` is asked now and then; raises InterruptedError when it says no, and InvalidRequest
    where a file cannot be read.
    """
    total = hashlib.sha256()
    try:
        for file in model_files(path):
            total.update(file_digest(file, proceed=proceed))
    except InterruptedError:
        raise
    except OSError as error:
        raise InvalidRequest(f"cannot read '{path.name}' and its weights") from error
    return total.hexdigest()


def file_digest(path: Path, *, proceed: Callable[[], bool] = lambda: True) -> bytes:
    """SHA-256 of one file. Raises OSError; InterruptedError as `digest`."""
    one = hashlib.sha256()
    with path.open("rb") as content:
        while block := content.read(_BLOCK):
            if not proceed():
                raise InterruptedError
            one.update(block)
    return one.digest()
