"""Page tokens lead on from where they were given, and nowhere else."""

from __future__ import annotations

from uuid import UUID

import pytest
from chatapi.v1.conversation_service_pb2 import ListConversationsRequest, ListMessagesRequest
from hypothesis import assume, given
from hypothesis import strategies as st

from chatrpc.domain import Page
from chatrpc.errors import InvalidInput
from chatrpc.rpc.page_token import next_page_token, page_of

USER, OTHER = UUID(int=1), UUID(int=2)
CONVERSATION = str(UUID(int=3))

requests = st.builds(
    ListConversationsRequest,
    page_size=st.integers(0, 1000),
    title_contains=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    labels=st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz")),
) | st.builds(
    ListMessagesRequest,
    conversation_id=st.just(CONVERSATION),
    page_size=st.integers(0, 1000),
    newest_first=st.booleans(),
    all_branches=st.booleans(),
)
positions = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def with_token(request, token: str):
    following = type(request)()
    following.CopyFrom(request)
    following.page_token = token
    return following


def refused(user_id: UUID, request) -> None:
    with pytest.raises(InvalidInput) as error:
        page_of(user_id, request)
    assert error.value.field == "page_token"


@given(requests, positions)
def test_a_token_leads_to_the_position_it_was_made_of(request, position: str) -> None:
    token = next_page_token(USER, request, position)
    assert page_of(USER, with_token(request, token)) == Page(request.page_size or 50, position)
    # A third page comes from a request that bears the second's token.
    assert next_page_token(USER, with_token(request, token), position) == token


@given(requests)
def test_the_first_page_has_no_position_and_the_last_no_token(request) -> None:
    assert page_of(USER, request).after is None
    assert next_page_token(USER, request, None) == ""


@given(requests, requests, positions)
def test_a_token_of_another_request_is_refused(request, other, position: str) -> None:
    assume(request != other)
    refused(USER, with_token(other, next_page_token(USER, request, position)))


@given(requests, positions)
def test_a_token_of_another_user_is_refused(request, position: str) -> None:
    refused(USER, with_token(request, next_page_token(OTHER, request, position)))


@given(requests, positions, st.data())
def test_an_altered_token_is_refused(request, position: str, data: st.DataObject) -> None:
    token = next_page_token(USER, request, position)
    at = data.draw(st.integers(0, len(token) - 1))
    replacement = data.draw(st.text(max_size=3))
    altered = token[:at] + replacement + token[at + 1 :]
    assume(altered not in (token, ""))
    refused(USER, with_token(request, altered))


@given(requests, st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80))
def test_a_made_up_token_is_refused(request, token: str) -> None:
    refused(USER, with_token(request, token))


def test_the_longest_position_fits_the_contract() -> None:
    # A position of a listing is a timestamp and an id at most.
    token = next_page_token(USER, ListConversationsRequest(), "2026-01-01T00:00:00.000000+00:00 " + CONVERSATION)
    assert len(token) < 512
