"""What went wrong, read from a status and its details."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

StatusCode = grpc.StatusCode

_CODES: Mapping[int, StatusCode] = {code.value[0]: code for code in StatusCode}

# What an HTTP/2 stream that was cut looks like, depending on who cut it and how.
_CUT = frozenset({StatusCode.INTERNAL, StatusCode.UNKNOWN, StatusCode.CANCELLED})


class CallError(Exception):
    """A call, a request on a stream, or a reply failed.

    Attributes:
        code: The status code.
        message: One sentence for people: what is wrong and what to do, as the server says it.
        reason: Name of a `chatapi.v1.ErrorReason` without its prefix; empty where the failure is not the server's
            word, but that of Envoy or of the connection.
        field: The field that is not acceptable; empty where none is named.
        retry_after: Seconds after which the same call may succeed; None where the server names no time.
        metadata: Names and values that belong to the reason, such as the id in question.
    """

    def __init__(
        self,
        code: StatusCode,
        message: str,
        *,
        reason: str = "",
        field: str = "",
        retry_after: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason
        self.field = field
        self.retry_after = retry_after
        self.metadata = dict(metadata or {})

    def __str__(self) -> str:
        return f"{self.reason or self.code.name}: {self.message}"

    @property
    def temporary(self) -> bool:
        """Whether the same call may succeed later. All calls of the contract may be repeated: the keys that clients
        choose keep them from doing a thing twice."""
        cut = self.code in _CUT and not self.reason
        return cut or self.code is StatusCode.UNAVAILABLE or self.retry_after is not None

    @classmethod
    def from_status(cls, status: Status) -> Self:
        """The failure that a status tells of."""
        info, violation, retry = ErrorInfo(), BadRequest(), RetryInfo()
        for detail in status.details:
            # A detail of another type leaves all three as they are.
            detail.Unpack(info) or detail.Unpack(violation) or detail.Unpack(retry)
        field = violation.field_violations[0].field if violation.field_violations else info.metadata.get("field", "")
        return cls(
            _CODES.get(status.code, StatusCode.UNKNOWN),
            status.message,
            reason=info.reason,
            field=field,
            retry_after=retry.retry_delay.ToMilliseconds() / 1000 if retry.HasField("retry_delay") else None,
            metadata=info.metadata,
        )

    @classmethod
    def from_call(cls, error: grpc.aio.AioRpcError) -> Self:
        """The failure of a call, with the server's details where it sent any."""
        try:
            status = rpc_status.from_call(error)  # type: ignore[arg-type]
        except ValueError:
            # The details contradict the status itself, so somebody in between replaced it.
            status = None
        return cls.from_status(status) if status is not None else cls(error.code(), error.details() or "")
