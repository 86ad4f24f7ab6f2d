"""What a failure text of ONNX Runtime means: whose fault it is and what a client may read of it.

ONNX Runtime has no class for "out of memory" or "the GPU is dead", only texts, and those hold host
names, source files and machine paths. `classify` reads the text, `run_error` and `open_error` build
the error a client gets. Pure; `onnx.py` calls it where exceptions are caught.
Source: CUDA runtime error numbers (cudaError_t); texts of ONNX Runtime 1.31.
"""

import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final, TypeAlias

from stoker.errors import (
    DeviceFailed,
    ExecutionFailed,
    InvalidRequest,
    OutOfMemory,
    Reach,
    ServingError,
)
from stoker.runtime.gpu_diagnosis import CAPABILITIES_TEXT


class Fault(Enum):
    """Whose fault a failed run is."""

    DATA = "data"
    """The request's own data, or the model."""
    MEMORY = "memory"
    """It did not fit; a smaller batch may."""
    UNSUPPORTED = "unsupported"
    """This GPU and this package do not fit together: no retry helps."""
    STARTUP = "startup"
    """The device cannot be used from the start: driver, visibility, mode."""
    CAPTURE = "capture"
    """A CUDA graph could not be captured or replayed; the session works without graphs."""
    UNKNOWN = "unknown"
    """The GPU failed and the text does not say how badly: a probe of the device decides."""
    STICKY = "sticky"
    """The device's context is dead: every later call of the process fails too."""


DeviceProbe: TypeAlias = Callable[[], int]
"""Asks the device how it is, without work on it, as `cudaStreamQuery` does: 0 is well, else the
CUDA error number, which after a sticky error is that error."""

_LIBRARY_FAILURE: Final = re.compile(
    r"\b(CUDA|CUBLAS|CUDNN(?:_FE)?|CUFFT|CURAND) (?:failure|error) (\d+|cuda\w+)(?:/\d+)?"
    r"\s*:?\s*([^;\n]*)"
)
STARTUP_REMEDIES: Final = {
    "35": "the NVIDIA driver is too old for this ONNX Runtime: CUDA 13 needs branch R580 or later",
    "46": "the GPU is busy or in prohibited mode",
    "100": "the driver sees no GPU: look at the resource nvidia.com/gpu and CUDA_VISIBLE_DEVICES",
    "101": "the GPU does not exist: look at CUDA_VISIBLE_DEVICES and the instance groups",
    "802": "the fabric manager must run on the node",
    "803": "restart the node's driver",
    "804": "update the node's driver",
}
"""What to do where the device cannot be used from the start, by CUDA's number."""

_REQUESTED_BYTES: Final = re.compile(r"requested (?:buffer of size|bytes of) (\d+)")
ABSURD_BYTES: Final = 1 << 50
"""A request for more is broken shape data, not memory pressure."""

CUDA_ERRORS: Final[Mapping[int, tuple[str, Fault]]] = {
    2: ("cudaErrorMemoryAllocation", Fault.MEMORY),
    4: ("cudaErrorCudartUnloading", Fault.STICKY),
    35: ("cudaErrorInsufficientDriver", Fault.STARTUP),
    46: ("cudaErrorDevicesUnavailable", Fault.STARTUP),
    100: ("cudaErrorNoDevice", Fault.STARTUP),
    101: ("cudaErrorInvalidDevice", Fault.STARTUP),
    200: ("cudaErrorInvalidKernelImage", Fault.UNSUPPORTED),
    209: ("cudaErrorNoKernelImageForDevice", Fault.UNSUPPORTED),
    214: ("cudaErrorECCUncorrectable", Fault.STICKY),
    218: ("cudaErrorInvalidPtx", Fault.UNSUPPORTED),
    219: ("cudaErrorInvalidGraphicsContext", Fault.STICKY),
    220: ("cudaErrorNvlinkUncorrectable", Fault.STICKY),
    222: ("cudaErrorUnsupportedPtxVersion", Fault.UNSUPPORTED),
    226: ("cudaErrorContained", Fault.STICKY),
    700: ("cudaErrorIllegalAddress", Fault.STICKY),
    702: ("cudaErrorLaunchTimeout", Fault.STICKY),
    709: ("cudaErrorContextIsDestroyed", Fault.STICKY),
    710: ("cudaErrorAssert", Fault.STICKY),
    714: ("cudaErrorHardwareStackError", Fault.STICKY),
    715: ("cudaErrorIllegalInstruction", Fault.STICKY),
    716: ("cudaErrorMisalignedAddress", Fault.STICKY),
    717: ("cudaErrorInvalidAddressSpace", Fault.STICKY),
    718: ("cudaErrorInvalidPc", Fault.STICKY),
    719: ("cudaErrorLaunchFailure", Fault.STICKY),
    721: ("cudaErrorTensorMemoryLeak", Fault.STICKY),
    802: ("cudaErrorSystemNotReady", Fault.STARTUP),
    803: ("cudaErrorSystemDriverMismatch", Fault.STARTUP),
    804: ("cudaErrorCompatNotSupportedOnDevice", Fault.STARTUP),
    900: ("cudaErrorStreamCaptureUnsupported", Fault.CAPTURE),
    901: ("cudaErrorStreamCaptureInvalidated", Fault.CAPTURE),
    902: ("cudaErrorStreamCaptureMerge", Fault.CAPTURE),
    903: ("cudaErrorStreamCaptureUnmatched", Fault.CAPTURE),
    904: ("cudaErrorStreamCaptureUnjoined", Fault.CAPTURE),
    905: ("cudaErrorStreamCaptureIsolation", Fault.CAPTURE),
    906: ("cudaErrorStreamCaptureImplicit", Fault.CAPTURE),
    907: ("cudaErrorCapturedEvent", Fault.CAPTURE),
    908: ("cudaErrorStreamCaptureWrongThread", Fault.CAPTURE),
    999: ("cudaErrorUnknown", Fault.STICKY),
}
"""Runtime errors whose number says enough. All others are for the probe."""
_NUMBERS: Final = {name: number for number, (name, _) in CUDA_ERRORS.items()}

_CUBLAS_ALLOC_FAILED: Final = "3"
_CUBLAS_ARCH_MISMATCH: Final = "8"
_CUDNN_INTERNAL_ERROR: Final = ("4", "4000")
"""Number before and from cuDNN 9 on. Mostly cuDNN's workspace that did not fit."""

_MEMORY_TEXTS: Final = (
    "Failed to allocate memory for requested buffer",
    "is smaller than requested bytes of",
    "std::bad_alloc",
    "bad allocation",
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",
)


def classify(text: str, *, on_gpu: bool = False) -> Fault:
    """The fault that a failure text of ONNX Runtime tells of. On the CPU no device can break."""
    failure = _LIBRARY_FAILURE.search(text) if on_gpu else None
    if failure is not None:
        return _library_fault(failure[1], failure[2], text)
    if on_gpu and "cuDNN is not available" in text:
        return Fault.UNSUPPORTED
    if any(known in text for known in _MEMORY_TEXTS):
        size = _REQUESTED_BYTES.search(text)
        if size is not None and int(size[1]) >= ABSURD_BYTES:
            return Fault.STICKY if on_gpu else Fault.DATA
        return Fault.MEMORY
    return Fault.DATA


def _library_fault(library: str, code: str, text: str) -> Fault:
    if library == "CUDA":
        number = int(code) if code.isdigit() else _NUMBERS.get(code, -1)
        return CUDA_ERRORS[number][1] if number in CUDA_ERRORS else Fault.UNKNOWN
    if "ALLOC_FAILED" in text or "ALLOCATION_FAILED" in text:
        return Fault.MEMORY
    if library == "CUBLAS" and code == _CUBLAS_ALLOC_FAILED:
        return Fault.MEMORY
    if library == "CUBLAS" and code == _CUBLAS_ARCH_MISMATCH:
        return Fault.UNSUPPORTED
    if library.startswith("CUDNN") and code in _CUDNN_INTERNAL_ERROR:
        return Fault.MEMORY
    return Fault.UNKNOWN


def run_error(
    text: str, *, model: str, on_gpu: bool, probe: DeviceProbe | None = None
) -> ServingError:
    """The error of a failed run. Device faults are told by number and name only.

    `probe` is asked where the text alone does not tell how far the failure reaches.
    """
    fault = classify(text, on_gpu=on_gpu)
    if fault is Fault.DATA:
        return ExecutionFailed(f"model '{model}' failed on this data: {public_reason(text)}")
    if fault is Fault.MEMORY:
        size = _REQUESTED_BYTES.search(text)
        wanted = f" of {size[1]} bytes" if size is not None else ""
        return OutOfMemory(f"model '{model}': an allocation{wanted} did not fit into memory")
    return _device_error(text, fault, model, probe)


def open_error(
    text: str, *, model: str, filename: str, on_gpu: bool, probe: DeviceProbe | None = None
) -> ServingError:
    """The error of a model that could not be opened."""
    fault = classify(text, on_gpu=on_gpu)
    if fault is Fault.DATA:
        return InvalidRequest(
            f"model '{model}': ONNX Runtime cannot open '{filename}': {public_reason(text)}"
        )
    if fault is Fault.MEMORY:
        return OutOfMemory(f"model '{model}': its weights did not fit into memory")
    return _device_error(text, fault, model, probe)


def _device_error(text: str, fault: Fault, model: str, probe: DeviceProbe | None) -> DeviceFailed:
    reason = device_reason(text, fault)
    if fault is not Fault.UNKNOWN:
        return DeviceFailed(f"model '{model}': {reason}", reach=_REACHES[fault])
    if probe is None:
        return DeviceFailed(f"model '{model}': {reason}", reach=Reach.PROCESS)
    number = probe()
    if number == 0:
        return DeviceFailed(
            f"model '{model}': {reason}; the device answers well after it", reach=Reach.RUN
        )
    name = CUDA_ERRORS[number][0] if number in CUDA_ERRORS else "of no known name"
    return DeviceFailed(
        f"model '{model}': {reason}; the device answers with CUDA error {number}, {name}",
        reach=Reach.PROCESS,
    )


_REACHES: Final = {
    Fault.UNSUPPORTED: Reach.MODEL,
    Fault.STARTUP: Reach.MODEL,
    Fault.CAPTURE: Reach.RUN,
    Fault.STICKY: Reach.PROCESS,
}


def device_reason(text: str, fault: Fault) -> str:
    """A device fault in words: library, number and name, without host and source file."""
    if "cuDNN is not available" in text:
        return (
            "it needs cuDNN, which this installation lacks; install it with the extra `gpu` "
            "of stoker, which brings onnxruntime-gpu[cuda,cudnn]"
        )
    failure = _LIBRARY_FAILURE.search(text)
    if failure is None:
        return "the GPU reported an allocation of impossible size; its state is not trusted"
    code = str(_NUMBERS.get(failure[2], failure[2]))  # by number, whichever way it was written
    what = f"{failure[1]} failure {code}"
    if failure[3].strip():
        what += f": {public_reason(failure[3])}"
    if fault is Fault.UNSUPPORTED:
        return (
            f"{what}; onnxruntime-gpu has code for compute capability {CAPABILITIES_TEXT}, and "
            "this GPU is none of them"
        )
    if fault is Fault.STARTUP and code in STARTUP_REMEDIES:
        return f"{what}; {STARTUP_REMEDIES[code]}"
    return what


_PREFIX: Final = re.compile(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
_INNER_PREFIX: Final = re.compile(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
_IN_EXECUTION: Final = re.compile(r"^Error in execution: ")
_SOURCE: Final = re.compile(
    r"\S*/onnxruntime(?:_src)?/\S*?\.(?:cc|h|cu|cpp|hpp|cuh):\d+ .*?\) ?(?:\[with [^\]]*\] )?"
)
_BARE_SOURCE: Final = re.compile(r"\b\w+\.(?:cc|h|cu):\d+ \w+ ")
_OPENING: Final = re.compile(r"^Load model from .*? failed: ?", re.DOTALL)
_PATH: Final = re.compile(r"(?<!Name:')(?<![\w.)])/[^\s'\":;,()\[\]]+(?:/[^\s'\":;,()\[\]]*)*")
_HOST: Final = re.compile(r"\bhostname=[^;\s]*\s*;?")
_ADVICE: Final = " Please fix either the inputs/outputs or the model."
REASON_LIMIT: Final = 400


def public_reason(text: str) -> str:
    """A text of ONNX Runtime that may leave the machine: no path, host name or source file.

    The names of nodes that exporters write with slashes (`Name:'/block/Gather'`) stay.
    """
    text = _PREFIX.sub("", _IN_EXECUTION.sub("", text.strip()))
    text = _OPENING.sub("", text)
    text = _INNER_PREFIX.sub("", _BARE_SOURCE.sub("", _SOURCE.sub("", text)))
    text = _HOST.sub("", _PATH.sub("(path)", text))
    text = text.replace(_ADVICE, "")
    text = " ".join(text.split())
    return text if len(text) <= REASON_LIMIT else f"{text[: REASON_LIMIT - 3]}..."
