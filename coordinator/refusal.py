"""Why the coordinator refuses a call: one table from the kind of refusal to its gRPC and HTTP status."""

from enum import Enum

import grpc

from coordinator.errors import Failure

REFUSAL_KEY = "refusal"
"""The name of the trailing metadata by which a refusal is known from what gRPC says when nobody answers."""


class Refusal(Enum):
    """A kind of refusal: (gRPC status, HTTP status, and what tells it from another with the same)."""

    BAD_INPUT = (grpc.StatusCode.INVALID_ARGUMENT, 400)
    NO_KEY = (grpc.StatusCode.UNAUTHENTICATED, 401)
    NOT_ALLOWED = (grpc.StatusCode.PERMISSION_DENIED, 403)
    NOT_FOUND = (grpc.StatusCode.NOT_FOUND, 404)
    WRONG_METHOD = (grpc.StatusCode.UNIMPLEMENTED, 405)
    TOO_SLOW = (grpc.StatusCode.DEADLINE_EXCEEDED, 408)  # to send what it asks
    ALREADY_EXISTS = (grpc.StatusCode.ALREADY_EXISTS, 409)
    TOO_UNSURE = (grpc.StatusCode.FAILED_PRECONDITION, 409)
    TOO_LARGE = (grpc.StatusCode.INVALID_ARGUMENT, 413)
    WRONG_FORM = (grpc.StatusCode.INVALID_ARGUMENT, 415)
    OVERLOADED = (grpc.StatusCode.RESOURCE_EXHAUSTED, 429)
    OVER_QUOTA = (grpc.StatusCode.RESOURCE_EXHAUSTED, 429, "what the tenant has itself")  # an enum's values differ
    UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, 503)
    FAILED = (grpc.StatusCode.ABORTED, 500)  # on the vehicles, which were asked as they should be
    DAMAGED = (grpc.StatusCode.DATA_LOSS, 500)
    TOO_LATE = (grpc.StatusCode.DEADLINE_EXCEEDED, 504)

    @property
    def status(self) -> grpc.StatusCode:
        """The gRPC status."""
        status: grpc.StatusCode = self.value[0]
        return status

    @property
    def http_status(self) -> int:
        """The HTTP status."""
        status: int = self.value[1]
        return status


class Refused(Exception):
    """A call that is not served: its kind, and one sentence with the value, the limit and the remedy."""

    def __init__(self, refusal: Refusal, message: str, retry_after_s: float | None = None) -> None:
        """`retry_after_s` tells the caller when to come back."""
        super().__init__(message)
        self.refusal = refusal
        self.retry_after_s = retry_after_s

    @property
    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        """What a gRPC caller is told beside the status: that a coordinator refused it, and not gRPC itself."""
        told = (REFUSAL_KEY, self.refusal.name.lower())
        if self.retry_after_s is None:
            return (told,)
        return told, ("retry-after-ms", str(round(1000 * self.retry_after_s)))


def refused(failure: Failure, what: str, *, alone: bool = False) -> Refused:
    """What a call is refused with for which `what` failed: bad input is its caller's to mend, nothing else is.

    Of what is `alone` bad input is told as the vehicle says it: its caller knows what is meant.
    """
    told = f"{what} failed ({failure.code}): {failure.message}"
    if failure.code == "bad_input":
        return Refused(Refusal.BAD_INPUT, failure.message if alone else told)
    return Refused(Refusal.FAILED, told)
