"""The one place where ONNX Runtime's exceptions become ours; `faults.py` says what each means."""

from types import TracebackType

from stoker.errors import OutOfMemory, ServingError
from stoker.runtime import faults
from stoker.runtime.device_probe import device_probe
from stoker.runtime.providers import cuda_index


class Translation:
    """The one place where ONNX Runtime's exceptions become ours. Used by many threads at once."""

    def __init__(
        self,
        model: str,
        *,
        on_gpu: bool,
        opening: str | None = None,
        probe: faults.DeviceProbe | None = None,
    ) -> None:
        """`opening`: the name of the model file while it is being opened. `probe` is asked how far
        a failure of the GPU reaches that does not say so itself."""
        self._probe = probe
        self._model = model
        self._on_gpu = on_gpu
        self._opening = opening

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # ONNX Runtime's classes derive from Exception one by one, and bound runs raise a plain
        # RuntimeError: only the text tells them apart.
        if not isinstance(error, Exception) or isinstance(error, ServingError):
            return
        if isinstance(error, MemoryError):
            raise OutOfMemory(f"model '{self._model}': out of memory") from error
        if self._opening is not None:
            raise faults.open_error(
                str(error),
                model=self._model,
                filename=self._opening,
                on_gpu=self._on_gpu,
                probe=self._probe,
            ) from error
        raise faults.run_error(
            str(error), model=self._model, on_gpu=self._on_gpu, probe=self._probe
        ) from error


def translation(model: str, device: str, *, opening: str | None = None) -> Translation:
    """Of what a session on `device` raises, or one that is asked for there."""
    index = cuda_index(device)
    return Translation(
        model,
        on_gpu=index is not None,
        opening=opening,
        probe=None if index is None else device_probe(index),
    )
