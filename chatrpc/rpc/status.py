"""The one table from the domain's errors to `google.rpc.Status`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as ProtoMessage
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, ResourceInfo, RetryInfo
from google.rpc.status_pb2 import Status

from chatrpc.errors import (
    AlreadyExists,
    ChatError,
    Conflict,
    FailedPrecondition,
    InvalidInput,
    ModelRejected,
    NotFound,
    OutOfRange,
    PermissionDenied,
    Reason,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)

DOMAIN = "chatrpc"

# HTTP/2 stacks refuse header blocks of more than 8 KiB by default, and a status travels twice: its text percent-encoded
# (three bytes for one) in `grpc-message`, all of it in base64 (four for three) in `grpc-status-details-bin`.
MAX_STATUS_BYTES = 4096
MAX_MESSAGE_BYTES = 512
MAX_VALUE_BYTES = 200
MAX_VIOLATIONS = 16


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong with a request: which field, and what to do."""

    field: str
    description: str


class InvalidRequest(InvalidInput):
    """A request that breaks the constraints of the schema, in one place or more."""

    def __init__(self, violations: tuple[Violation, ...]) -> None:
        first = violations[0]
        others = f" ({len(violations) - 1} more)" if len(violations) > 1 else ""
        super().__init__(first.field, f"{first.field}: {first.description}{others}")
        self.violations = violations


Details = Callable[[Any], Iterator[ProtoMessage]]


def _bad_request(error: InvalidInput) -> Iterator[ProtoMessage]:
    found = error.violations if isinstance(error, InvalidRequest) else (Violation(error.field, error.message),)
    yield BadRequest(
        field_violations=[
            BadRequest.FieldViolation(field=_cut(each.field), description=_cut(each.description))
            for each in found[:MAX_VIOLATIONS]
        ]
    )


def _resource(error: NotFound | AlreadyExists) -> Iterator[ProtoMessage]:
    yield ResourceInfo(resource_type=error.resource_type, resource_name=_cut(error.name))


def _quota(error: ResourceExhausted) -> Iterator[ProtoMessage]:
    violation = QuotaFailure.Violation(subject=_cut(error.subject), description=_cut(error.message))
    if error.reason is Reason.QUOTA_EXCEEDED:
        violation.quota_metric = error.metadata["metric"]
        violation.quota_id = f"{error.metadata['metric']}-per-{error.metadata['window']}"
        violation.quota_value = int(error.metadata["limit"])
    yield QuotaFailure(violations=[violation])
    if error.retry_after is not None:
        yield _retry(error.retry_after)


def _unavailable(error: Unavailable) -> Iterator[ProtoMessage]:
    yield _retry(error.retry_after)


def _retry(seconds: float) -> RetryInfo:
    delay = Duration()
    delay.FromMilliseconds(round(seconds * 1000))
    return RetryInfo(retry_delay=delay)


def _nothing(error: ChatError) -> Iterator[ProtoMessage]:
    return iter(())


TABLE: dict[type[ChatError], tuple[Code.ValueType, Details]] = {
    InvalidInput: (Code.INVALID_ARGUMENT, _bad_request),
    Unauthenticated: (Code.UNAUTHENTICATED, _nothing),
    PermissionDenied: (Code.PERMISSION_DENIED, _nothing),
    NotFound: (Code.NOT_FOUND, _resource),
    AlreadyExists: (Code.ALREADY_EXISTS, _resource),
    Conflict: (Code.ABORTED, _nothing),
    FailedPrecondition: (Code.FAILED_PRECONDITION, _nothing),
    ModelRejected: (Code.FAILED_PRECONDITION, _nothing),
    OutOfRange: (Code.OUT_OF_RANGE, _nothing),
    ResourceExhausted: (Code.RESOURCE_EXHAUSTED, _quota),
    Unavailable: (Code.UNAVAILABLE, _unavailable),
    ChatError: (Code.INTERNAL, _nothing),
}


def internal_error(request_id: str) -> ChatError:
    """What callers hear of a fault of the server: nothing but the id that finds it in the logs."""
    return ChatError(
        Reason.INTERNAL,
        f"Internal error; the server's logs know more about request {request_id}.",
        request_id=request_id,
    )


def status_of(error: ChatError) -> Status:
    """The status that stands for an error, with its details; never longer than `MAX_STATUS_BYTES`."""
    code, details = next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)
    status = Status(code=code, message=_cut(error.message, MAX_MESSAGE_BYTES))
    info = ErrorInfo(
        reason=error.reason.value,
        domain=DOMAIN,
        metadata={name: _cut(value) for name, value in error.metadata.items()},
    )
    status.details.add().Pack(info)
    for detail in details(error):
        if isinstance(detail, BadRequest):
            _shorten(detail, MAX_STATUS_BYTES - status.ByteSize())
        status.details.add().Pack(detail)
    return status


def _shorten(detail: BadRequest, room: int) -> None:
    # The type's name, which Any adds, is shorter than this.
    while len(detail.field_violations) > 1 and detail.ByteSize() + 64 > room:
        del detail.field_violations[-1]


def _cut(text: str, limit: int = MAX_VALUE_BYTES) -> str:
    raw = text.encode()
    if len(raw) <= limit:
        return text
    return raw[: limit - 3].decode(errors="ignore") + "…"
