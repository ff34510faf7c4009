"""Page tokens: a position in a list, bound to the caller and the request that it came from.

A token is no secret and no capability: the rows behind it are the caller's own in any case. The digest keeps clients
from using it with another request, where the position would mean something else, and finds damaged ones.
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from uuid import UUID

from chatapi.v1 import conversation_service_pb2, knowledge_service_pb2

from chatrpc.domain import Page
from chatrpc.errors import InvalidInput

ListRequest = (
    conversation_service_pb2.ListConversationsRequest
    | conversation_service_pb2.ListMessagesRequest
    | knowledge_service_pb2.ListDocumentsRequest
    | knowledge_service_pb2.ListCollectionsRequest
)

DEFAULT_PAGE_SIZE = 50
_DIGEST_BYTES = 12


def page_of(user_id: UUID, request: ListRequest) -> Page:
    """The page that a request asks for.

    Raises:
        InvalidInput: The token is altered, or from another caller or request.
    """
    return Page(size=request.page_size or DEFAULT_PAGE_SIZE, after=_position(user_id, request))


def next_page_token(user_id: UUID, request: ListRequest, position: str | None) -> str:
    """The token of the page after `position`; empty on the last page."""
    if position is None:
        return ""
    raw = position.encode()
    return urlsafe_b64encode(_digest(user_id, request, raw) + raw).decode().rstrip("=")


def _position(user_id: UUID, request: ListRequest) -> str | None:
    token = request.page_token
    if not token:
        return None
    try:
        position = urlsafe_b64decode(token.encode() + b"=" * (-len(token) % 4))[_DIGEST_BYTES:].decode()
    except (Base64Error, UnicodeDecodeError):
        position = ""
    # Base64 has several spellings of the same bytes, so the token itself is compared, not what it decodes to.
    if token != next_page_token(user_id, request, position):
        raise InvalidInput(
            "page_token",
            "page_token is not from the previous answer to this request; leave it empty to start anew.",
        )
    return position


def _digest(user_id: UUID, request: ListRequest, position: bytes) -> bytes:
    bound = type(request)()
    bound.CopyFrom(request)  # type: ignore[arg-type]
    bound.page_token = ""
    digest = hashlib.sha256(user_id.bytes)
    digest.update(request.DESCRIPTOR.full_name.encode() + b"\0")
    digest.update(len(position).to_bytes(4) + position)
    digest.update(bound.SerializeToString(deterministic=True))
    return digest.digest()[:_DIGEST_BYTES]
