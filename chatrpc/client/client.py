"""The way in: one connection to a server, for calls and for sessions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import grpc
from chatapi.v1.account_service_pb2_grpc import AccountServiceStub
from chatapi.v1.chat_service_pb2_grpc import ChatServiceStub
from chatapi.v1.conversation_service_pb2_grpc import ConversationServiceStub
from chatapi.v1.knowledge_service_pb2_grpc import KnowledgeServiceStub

from chatrpc.client.credentials import Credentials, TokenSource
from chatrpc.client.documents import Documents
from chatrpc.client.endpoint import open_channel
from chatrpc.client.errors import CallError
from chatrpc.client.retry import Backoff, RetryListener, RetryPolicy
from chatrpc.client.session import ChatSession
from chatrpc.client.watch import watch_conversation

if TYPE_CHECKING:
    # Only the type hints know these classes.
    from chatapi.v1.account_service_pb2_grpc import AccountServiceAsyncStub
    from chatapi.v1.chat_service_pb2_grpc import ChatServiceAsyncStub
    from chatapi.v1.conversation_service_pb2 import WatchConversationResponse
    from chatapi.v1.conversation_service_pb2_grpc import ConversationServiceAsyncStub
    from chatapi.v1.knowledge_service_pb2_grpc import KnowledgeServiceAsyncStub

# Seconds that one try of a unary call may take.
DEADLINE = 30.0

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


@asynccontextmanager
async def connect(
    endpoint: str,
    token: str | TokenSource,
    on_behalf_of: str | None = None,
    *,
    retry: RetryPolicy | None = None,
    on_retry: RetryListener | None = None,
) -> AsyncGenerator[ChatClient, None]:
    """A client, until the block ends. The server is met with the first call, not before.

    Args:
        endpoint: `http://host:port`, `https://host:port` or `host:port`.
        token: A token, or a coroutine function that gives one. With the function, streams outlive their tokens.
        on_behalf_of: Subject of the user that a service acts for; its token needs the scope `chat.act_as`.
        on_retry: Called before each wait with what went wrong and with the seconds until the next try.

    Raises:
        InvalidInput: The endpoint or the subject has no acceptable form.
    """
    credentials = Credentials(token, on_behalf_of)
    channel = open_channel(endpoint)
    try:
        yield ChatClient(channel, credentials, retry or RetryPolicy(), on_retry)
    finally:
        await channel.close()


class ChatClient:
    """Made by `connect`.

    Attributes:
        documents: Uploads and watches documents.
        account: Stub of `AccountService`, for `call`.
        conversations: Stub of `ConversationService`, for `call`.
        knowledge: Stub of `KnowledgeService`, for `call`.
        replies: Stub of `ChatService`, for `call`; streams are read by a session.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        credentials: Credentials,
        retry: RetryPolicy,
        listener: RetryListener | None,
    ) -> None:
        self.account: AccountServiceAsyncStub = AccountServiceStub(channel)
        self.conversations: ConversationServiceAsyncStub = ConversationServiceStub(channel)
        self.knowledge: KnowledgeServiceAsyncStub = KnowledgeServiceStub(channel)
        self.replies: ChatServiceAsyncStub = ChatServiceStub(channel)
        self._credentials = credentials
        self._retry = retry
        self._listener = listener
        self.documents = Documents(self.knowledge, credentials, self._new_backoff)

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        *,
        retry: RetryPolicy | None = None,
    ) -> _Response:
        """Call a unary method of a stub, again where that may help: `call(client.conversations.GetConversation, …)`.

        Give `CreateConversationRequest` a `request_id`, else a repeated call may create two conversations.

        Args:
            retry: In place of the client's own policy.

        Raises:
            CallError: The call failed for good, or too many times.
        """
        backoff = Backoff(retry or self._retry, self._credentials, self._listener)
        while True:
            metadata = await self._credentials.metadata()
            try:
                return await method(request, metadata=metadata, timeout=DEADLINE)
            except grpc.aio.AioRpcError as error:
                await backoff.pause(CallError.from_call(error), metadata)

    @asynccontextmanager
    async def chat(self) -> AsyncGenerator[ChatSession, None]:
        """A session, until the block ends. Replies that run by then run on; only the reading ends."""
        session = ChatSession(self.replies, self._credentials, self._new_backoff)
        try:
            yield session
        finally:
            await session.aclose()

    def watch(self, conversation_id: str, after_revision: int = 0) -> AsyncGenerator[WatchConversationResponse, None]:
        """What happens in a conversation, whoever does it, until it is deleted; see `watch_conversation`."""
        return watch_conversation(
            self.conversations, self._credentials, self._new_backoff(), conversation_id, after_revision
        )

    def _new_backoff(self) -> Backoff:
        return Backoff(self._retry, self._credentials, self._listener)
