"""What can go wrong, in the words of the domain.

No transport code stands here: `chatrpc.rpc.status` maps each class to a `google.rpc.Status`. The text of a
`ChatError` is shown to callers, so it names the field and the remedy and never carries another error's text.
"""

from __future__ import annotations

from enum import StrEnum


class SettingsError(Exception):
    """A setting is missing or wrong; the text is one sentence that names it."""


class Reason(StrEnum):
    """Why a call failed, for programs; equal to `chatapi.v1.ErrorReason` by name (a test holds them together)."""

    INVALID_FIELD = "INVALID_FIELD"
    TOKEN_MISSING = "TOKEN_MISSING"
    TOKEN_INVALID = "TOKEN_INVALID"
    TOKEN_EXPIRED = "TOKEN_EXPIRED"
    KEYS_UNAVAILABLE = "KEYS_UNAVAILABLE"
    SCOPE_MISSING = "SCOPE_MISSING"
    CONVERSATION_NOT_FOUND = "CONVERSATION_NOT_FOUND"
    MESSAGE_NOT_FOUND = "MESSAGE_NOT_FOUND"
    REPLY_NOT_FOUND = "REPLY_NOT_FOUND"
    CONTEXT_REPORT_NOT_FOUND = "CONTEXT_REPORT_NOT_FOUND"
    CLIENT_MESSAGE_ID_REUSED = "CLIENT_MESSAGE_ID_REUSED"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    REVISION_CONFLICT = "REVISION_CONFLICT"
    SEQUENCE_OUT_OF_RANGE = "SEQUENCE_OUT_OF_RANGE"
    REPLY_HELD_ELSEWHERE = "REPLY_HELD_ELSEWHERE"
    TOO_MANY_TURNS = "TOO_MANY_TURNS"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    MODEL_UNAVAILABLE = "MODEL_UNAVAILABLE"
    MODEL_REJECTED = "MODEL_REJECTED"
    DATABASE_UNAVAILABLE = "DATABASE_UNAVAILABLE"
    SERVER_DRAINING = "SERVER_DRAINING"
    INTERNAL = "INTERNAL"
    DOCUMENT_NOT_FOUND = "DOCUMENT_NOT_FOUND"
    COLLECTION_NOT_FOUND = "COLLECTION_NOT_FOUND"
    MEDIA_TYPE_UNSUPPORTED = "MEDIA_TYPE_UNSUPPORTED"
    DOCUMENT_TOO_LARGE = "DOCUMENT_TOO_LARGE"
    UPLOAD_INCOMPLETE = "UPLOAD_INCOMPLETE"
    CONTENT_MISMATCH = "CONTENT_MISMATCH"
    DOCUMENT_BROKEN = "DOCUMENT_BROKEN"
    DOCUMENT_TOO_COSTLY = "DOCUMENT_TOO_COSTLY"
    DOCUMENT_EMPTY = "DOCUMENT_EMPTY"
    MEMORY_FIXED = "MEMORY_FIXED"
    CONVERSATION_BUSY = "CONVERSATION_BUSY"
    TURN_TIMED_OUT = "TURN_TIMED_OUT"
    TOOL_RESULT_TIMED_OUT = "TOOL_RESULT_TIMED_OUT"
    TOOL_ARGUMENTS_INVALID = "TOOL_ARGUMENTS_INVALID"
    TOOL_ROUNDS_EXCEEDED = "TOOL_ROUNDS_EXCEEDED"
    TOOL_CALL_NOT_PENDING = "TOOL_CALL_NOT_PENDING"
    RESPONSE_SCHEMA_VIOLATED = "RESPONSE_SCHEMA_VIOLATED"
    SERVER_OVERLOADED = "SERVER_OVERLOADED"
    MESSAGE_ERASED = "MESSAGE_ERASED"
    REPLY_UNFINISHED = "REPLY_UNFINISHED"
    PATH_TOO_LONG = "PATH_TOO_LONG"
    TOO_MANY_FORKS = "TOO_MANY_FORKS"
    TOO_MANY_WATCHES = "TOO_MANY_WATCHES"


class ChatError(Exception):
    """Base of all that callers are told about.

    Attributes:
        reason: Stable, for programs.
        message: One sentence for people: what is wrong and what to do.
        metadata: Names and values that belong to it, such as the id in question.
    """

    def __init__(self, reason: Reason, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = metadata


class InvalidInput(ChatError):
    """A field of the request is not acceptable."""

    def __init__(self, field: str, message: str, reason: Reason = Reason.INVALID_FIELD) -> None:
        super().__init__(reason, message, field=field)
        self.field = field


class Unauthenticated(ChatError):
    """No valid token."""


class PermissionDenied(ChatError):
    """A valid token that lacks a scope. Never used for another user's resource: that is NotFound."""


class NotFound(ChatError):
    """The resource does not exist, or belongs to somebody else: the caller cannot tell which."""

    def __init__(self, reason: Reason, resource_type: str, name: str) -> None:
        super().__init__(reason, f"{resource_type} {name!r} does not exist.", id=name)
        self.resource_type = resource_type
        self.name = name


class AlreadyExists(ChatError):
    """An idempotency key was used before, for something else."""

    def __init__(self, reason: Reason, resource_type: str, name: str, message: str) -> None:
        super().__init__(reason, message, id=name)
        self.resource_type = resource_type
        self.name = name


class Conflict(ChatError):
    """The state changed underneath, or is not what the caller wants to meet; retry at a higher level."""


class FailedPrecondition(ChatError):
    """The state does not allow it; retrying without a change is of no use."""


class OutOfRange(ChatError):
    """A position beyond the end."""


class ResourceExhausted(ChatError):
    """A limit is reached."""

    def __init__(
        self, reason: Reason, message: str, subject: str, retry_after: float | None = None, **metadata: str
    ) -> None:
        super().__init__(reason, message, subject=subject, **metadata)
        self.subject = subject
        self.retry_after = retry_after


class Unavailable(ChatError):
    """A part is down or draining; the same call succeeds later.

    Attributes:
        retry_after: Seconds to wait before the next try.
        begun: Of a language model: whether it had begun to answer, be it with thoughts alone.
    """

    def __init__(self, reason: Reason, message: str, retry_after: float = 1.0) -> None:
        super().__init__(reason, message)
        self.retry_after = retry_after
        self.begun = False


class ModelRejected(ChatError):
    """The language model's endpoint refused the request; a retry of the same turn is of no use."""


class SummaryRefused(Exception):
    """A summariser's output is of no use; the sentence says why. Never shown to callers."""
