"""One table from errors to statuses, in step with the contract."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from chatapi.v1.error_reason_pb2 import ErrorReason
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, ResourceInfo, RetryInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

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
from chatrpc.rpc.status import (
    MAX_STATUS_BYTES,
    MAX_VIOLATIONS,
    InvalidRequest,
    Violation,
    internal_error,
    status_of,
)

PROTO = Path(__file__).parents[2] / "proto/chatapi/v1/error_reason.proto"

# Each reason with the class that the rooms raise it by.
RAISED: dict[Reason, ChatError] = {
    error.reason: error
    for error in (
        InvalidInput("field", "Remedy."),
        Unauthenticated(Reason.TOKEN_MISSING, "Remedy."),
        Unauthenticated(Reason.TOKEN_INVALID, "Remedy."),
        Unauthenticated(Reason.TOKEN_EXPIRED, "Remedy."),
        Unavailable(Reason.KEYS_UNAVAILABLE, "Remedy."),
        PermissionDenied(Reason.SCOPE_MISSING, "Remedy.", scope="chat.act_as"),
        NotFound(Reason.CONVERSATION_NOT_FOUND, "conversation", "x"),
        NotFound(Reason.MESSAGE_NOT_FOUND, "message", "x"),
        NotFound(Reason.REPLY_NOT_FOUND, "reply", "x"),
        NotFound(Reason.CONTEXT_REPORT_NOT_FOUND, "context report of reply", "x"),
        AlreadyExists(Reason.CLIENT_MESSAGE_ID_REUSED, "message", "x", "Remedy."),
        AlreadyExists(Reason.REQUEST_ID_REUSED, "conversation", "x", "Remedy."),
        Conflict(Reason.REVISION_CONFLICT, "Remedy."),
        OutOfRange(Reason.SEQUENCE_OUT_OF_RANGE, "Remedy."),
        Unavailable(Reason.REPLY_HELD_ELSEWHERE, "Remedy."),
        ResourceExhausted(Reason.TOO_MANY_TURNS, "Remedy.", "stream"),
        ResourceExhausted(Reason.QUOTA_EXCEEDED, "Remedy.", "user", 60.0, metric="tokens", limit="9", window="day"),
        ResourceExhausted(Reason.MESSAGE_TOO_LARGE, "Remedy.", "request"),
        Unavailable(Reason.MODEL_UNAVAILABLE, "Remedy."),
        ModelRejected(Reason.MODEL_REJECTED, "Remedy."),
        Unavailable(Reason.DATABASE_UNAVAILABLE, "Remedy."),
        Unavailable(Reason.SERVER_DRAINING, "Remedy."),
        Unavailable(Reason.SERVER_OVERLOADED, "Remedy."),
        Unavailable(Reason.TURN_TIMED_OUT, "Remedy."),
        Conflict(Reason.CONVERSATION_BUSY, "Remedy.", id="c-1"),
        FailedPrecondition(Reason.MEMORY_FIXED, "Remedy."),
        Unavailable(Reason.TOOL_RESULT_TIMED_OUT, "Remedy."),
        FailedPrecondition(Reason.TOOL_ARGUMENTS_INVALID, "Remedy."),
        FailedPrecondition(Reason.TOOL_ROUNDS_EXCEEDED, "Remedy."),
        FailedPrecondition(Reason.TOOL_CALL_NOT_PENDING, "Remedy.", call_id="c"),
        FailedPrecondition(Reason.RESPONSE_SCHEMA_VIOLATED, "Remedy."),
        FailedPrecondition(Reason.MESSAGE_ERASED, "Remedy."),
        FailedPrecondition(Reason.REPLY_UNFINISHED, "Remedy."),
        FailedPrecondition(Reason.PATH_TOO_LONG, "Remedy."),
        ResourceExhausted(Reason.TOO_MANY_FORKS, "Remedy.", "user", 1.0),
        ResourceExhausted(Reason.TOO_MANY_WATCHES, "Remedy.", "user", 5.0),
        NotFound(Reason.DOCUMENT_NOT_FOUND, "document", "x"),
        NotFound(Reason.COLLECTION_NOT_FOUND, "collection", "x"),
        InvalidInput("description.media_type", "Remedy.", Reason.MEDIA_TYPE_UNSUPPORTED),
        InvalidInput("description.size", "Remedy.", Reason.DOCUMENT_TOO_LARGE),
        InvalidInput("description.sha256", "Remedy.", Reason.CONTENT_MISMATCH),
        FailedPrecondition(Reason.UPLOAD_INCOMPLETE, "Remedy.", received="7"),
        internal_error("r-1"),
    )
}

# Reasons that a document bears, and no call fails with.
OF_DOCUMENTS = {Reason.DOCUMENT_BROKEN, Reason.DOCUMENT_TOO_COSTLY, Reason.DOCUMENT_EMPTY}


def documented_codes() -> dict[str, str]:
    """The status code that the comment of each value of the contract begins with."""
    found = re.findall(r"// ([A-Z_]+)\. [^\n]*\n(?:\s*//[^\n]*\n)*\s*ERROR_REASON_([A-Z_]+) = ", PROTO.read_text())
    return {reason: code for code, reason in found}


def detail(status: Status, kind):
    for packed in status.details:
        if packed.Is(kind.DESCRIPTOR):
            message = kind()
            packed.Unpack(message)
            return message
    return None


def test_the_contract_has_the_reasons_of_the_domain() -> None:
    contract = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.DESCRIPTOR.values_by_name} - {"UNSPECIFIED"}
    assert contract == {reason.name for reason in Reason}
    assert all(reason.name == reason.value for reason in Reason)


def test_every_reason_has_the_code_that_the_contract_states() -> None:
    assert set(RAISED) == set(Reason) - OF_DOCUMENTS
    assert {reason.name: Code.Name(status_of(error).code) for reason, error in RAISED.items()} == documented_codes()


@pytest.mark.parametrize("error", RAISED.values(), ids=lambda error: error.reason)
def test_every_status_names_its_reason_and_what_belongs_to_it(error: ChatError) -> None:
    info = detail(status_of(error), ErrorInfo)
    assert info.domain == "chatrpc"
    assert info.reason == error.reason
    assert dict(info.metadata) == error.metadata
    assert status_of(error).message == error.message


def test_invalid_input_names_field_and_remedy() -> None:
    [violation] = detail(status_of(InvalidInput("page_token", "Leave it empty.")), BadRequest).field_violations
    assert (violation.field, violation.description) == ("page_token", "Leave it empty.")


def test_what_is_unavailable_says_when_to_retry() -> None:
    retry = detail(status_of(Unavailable(Reason.DATABASE_UNAVAILABLE, "Remedy.", retry_after=2.5)), RetryInfo)
    assert retry.retry_delay.ToMilliseconds() == 2500


def test_an_exhausted_resource_names_the_quota_and_the_wait_where_it_is_known() -> None:
    status = status_of(ResourceExhausted(Reason.TOO_MANY_TURNS, "Wait.", "stream"))
    [violation] = detail(status, QuotaFailure).violations
    assert (violation.subject, violation.description) == ("stream", "Wait.")
    assert detail(status, RetryInfo) is None
    waiting = status_of(ResourceExhausted(Reason.TOO_MANY_TURNS, "Wait.", "stream", retry_after=1))
    assert detail(waiting, RetryInfo).retry_delay.ToMilliseconds() == 1000


def test_a_used_up_quota_is_named_with_its_limit() -> None:
    error = ResourceExhausted(
        Reason.QUOTA_EXCEEDED, "Wait.", "user", 60.0, metric="tokens", limit="1000", used="990", window="day"
    )
    [violation] = detail(status_of(error), QuotaFailure).violations
    assert (violation.subject, violation.quota_metric, violation.quota_id, violation.quota_value) == (
        "user",
        "tokens",
        "tokens-per-day",
        1000,
    )
    assert detail(status_of(error), ErrorInfo).metadata["used"] == "990"


@pytest.mark.parametrize(
    "error",
    [
        NotFound(Reason.REPLY_NOT_FOUND, "reply", "r"),
        AlreadyExists(Reason.REQUEST_ID_REUSED, "reply", "r", "Remedy."),
    ],
)
def test_a_resource_is_named(error: ChatError) -> None:
    info = detail(status_of(error), ResourceInfo)
    assert (info.resource_type, info.resource_name) == ("reply", "r")


def test_a_class_without_a_row_takes_that_of_its_parent() -> None:
    class SpecialInput(InvalidInput):
        pass

    assert status_of(SpecialInput("field", "Remedy.")).code == Code.INVALID_ARGUMENT


@given(st.lists(st.builds(Violation, st.text(max_size=5_000), st.text(max_size=5_000)), min_size=1, max_size=100))
def test_a_status_fits_into_a_header_whatever_the_client_sent(violations: list[Violation]) -> None:
    status = status_of(InvalidRequest(tuple(violations)))
    assert status.ByteSize() <= MAX_STATUS_BYTES
    kept = detail(status, BadRequest).field_violations
    assert 1 <= len(kept) <= MAX_VIOLATIONS


@given(st.text(max_size=20_000))
def test_reflected_values_are_cut(text: str) -> None:
    for error in (
        NotFound(Reason.MESSAGE_NOT_FOUND, "message", text),
        AlreadyExists(Reason.CLIENT_MESSAGE_ID_REUSED, "message", text, text),
        ResourceExhausted(Reason.TOO_MANY_TURNS, text, text, retry_after=1),
        InvalidInput(text, text),
    ):
        assert status_of(error).ByteSize() <= MAX_STATUS_BYTES
