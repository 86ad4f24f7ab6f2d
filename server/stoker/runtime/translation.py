"""The one place where ONNX Runtime's exceptions become ours; `faults.py` says what each means."""

from types import TracebackType

from stoker.errors import OutOfMemory, ServingError
from stoker.runtime import faults


class Translation:
    """The one place where ONNX Runtime's exceptions become ours. Used by many threads at once."""

    def __init__(self, model: str, *, on_gpu: bool, opening: str | None = None) -> None:
        """`opening`: the name of the model file while it is being opened."""
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
                str(error), model=self._model, filename=self._opening, on_gpu=self._on_gpu
            ) from error
        raise faults.run_error(str(error), model=self._model, on_gpu=self._on_gpu) from error
