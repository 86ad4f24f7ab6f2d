"""Every failure that a client is told about.

    ServingError
      InvalidRequest      malformed, wrong datatype, shape, byte size, unknown or missing input
      ModelNotFound       no such model or version
      ModelNotReady       known, but loading, failed or unloaded
      Overloaded          the queue is full or the predicted wait too long; carries when to retry
      DeadlineExceeded    expired in the queue; never run
      Cancelled           the client went away
      TooLarge            a message over the limit
      Unauthenticated     no or wrong credentials
      PermissionDenied    known, but not allowed
      Draining            the server is going away
      Unsupported         a part of the protocol that is not served
      ExecutionFailed     ONNX Runtime failed on this request's own data
      OutOfMemory         did not fit, even alone
      DeviceFailed        the device broke
      AlreadyExists       a region or name that is taken
      Internal            a bug of ours

No class here knows a gRPC or HTTP number: `transport/status.py` holds that one table. Messages say
what was expected, what came, and for which model, version and tensor; they never hold a path of
the machine or a stack trace.
"""

from enum import Enum
from typing import ClassVar, Final, Self


class ErrorCode(Enum):
    """What went wrong, in words of the protocol's users. Source: design, section "Errors"."""

    INVALID_REQUEST = "INVALID_REQUEST"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    MODEL_NOT_READY = "MODEL_NOT_READY"
    OVERLOADED = "OVERLOADED"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    CANCELLED = "CANCELLED"
    TOO_LARGE = "TOO_LARGE"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    DRAINING = "DRAINING"
    UNSUPPORTED = "UNSUPPORTED"
    EXECUTION_FAILED = "EXECUTION_FAILED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    DEVICE_FAILED = "DEVICE_FAILED"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    INTERNAL = "INTERNAL"


class ServingError(Exception):
    """A failure the client is told about. Transports read only `code`, `message`, `retry_after`."""

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        """Seconds after which a retry makes sense; None where nothing is known."""

    def bare(self) -> Self:
        """The error without traceback, cause and context, for whoever keeps or replies it.

        A traceback holds the frames it came through, and those the request, its reply, and with
        that the error: a cycle that keeps a client's megabytes until the collector comes by.
        """
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)


class InvalidRequest(ServingError):
    """The request cannot be right for this model. Retrying it unchanged fails again."""

    code = ErrorCode.INVALID_REQUEST


class ModelNotFound(ServingError):
    """No such model or version. The text begins `Request for unknown model`, which clients read."""

    code = ErrorCode.MODEL_NOT_FOUND


class ModelNotReady(ServingError):
    """The model is known, but no version of it can serve; the message has state and reason."""

    code = ErrorCode.MODEL_NOT_READY


class Overloaded(ServingError):
    """The model's queue is full or too slow. Retry with back-off. Raised by admission only."""

    code = ErrorCode.OVERLOADED


class DeadlineExceeded(ServingError):
    """The deadline or the queue timeout passed before the model ran."""

    code = ErrorCode.DEADLINE_EXCEEDED


class Cancelled(ServingError):
    """The client went away."""

    code = ErrorCode.CANCELLED


class TooLarge(ServingError):
    """The message is over a limit; the text has both numbers."""

    code = ErrorCode.TOO_LARGE


class Unauthenticated(ServingError):
    """The caller did not say who it is."""

    code = ErrorCode.UNAUTHENTICATED


class PermissionDenied(ServingError):
    """The caller is known and may not do this."""

    code = ErrorCode.PERMISSION_DENIED


class Draining(ServingError):
    """The server is shutting down. Another replica can take the request."""

    code = ErrorCode.DRAINING


class Unsupported(ServingError):
    """A part of the protocol that is not served."""

    code = ErrorCode.UNSUPPORTED


class ExecutionFailed(ServingError):
    """ONNX Runtime failed on this request's own data."""

    code = ErrorCode.EXECUTION_FAILED


class OutOfMemory(ServingError):
    """The run did not fit into the device's memory, even alone."""

    code = ErrorCode.OUT_OF_MEMORY


class Reach(Enum):
    """How far a device's failure reaches, and with that what helps."""

    RUN = "run"
    """This run only: the device answers as if nothing had happened. Running it again may help."""
    MODEL = "model"
    """This model cannot run on this device; others can."""
    PROCESS = "process"
    """Every later call of this process to a GPU fails as well: only a new process helps."""


RESTART_S: Final = 1.0
"""Another replica answers at once; a lone one is gone within two seconds, and then starts."""


class DeviceFailed(ServingError):
    """The device broke, for one run, one model or the whole process."""

    code = ErrorCode.DEVICE_FAILED

    def __init__(
        self, message: str, *, reach: Reach = Reach.MODEL, retry_after: float | None = None
    ) -> None:
        """What no run of this process can answer, another process can: without a word on the time
        to retry, it may be sent again after RESTART_S."""
        if retry_after is None and reach is Reach.PROCESS:
            retry_after = RESTART_S
        super().__init__(message, retry_after=retry_after)
        self.reach = reach


class AlreadyExists(ServingError):
    """A region or name that is taken."""

    code = ErrorCode.ALREADY_EXISTS


class Internal(ServingError):
    """A bug of ours, or an answer that cannot be built."""

    code = ErrorCode.INTERNAL
