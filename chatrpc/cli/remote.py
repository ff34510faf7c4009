"""What the terminal asks of the server, apart from answers."""

from __future__ import annotations

from uuid import uuid4

from chatapi.v1.conversation_pb2 import (
    CONVERSATION_MEMORY_REMEMBERED,
    CONVERSATION_MEMORY_TEMPORARY,
    Conversation,
)
from chatapi.v1.conversation_service_pb2 import (
    CreateConversationRequest,
    ForkConversationRequest,
    GetContextReportRequest,
    GetContextReportResponse,
    GetConversationRequest,
    ListConversationsRequest,
    ListMessagesRequest,
    PreviewContextRequest,
    PreviewContextResponse,
    Siblings,
    SwitchBranchRequest,
)
from chatapi.v1.message_pb2 import Message, Part, TextPart

from chatrpc.client import ChatClient, RetryPolicy

_TITLE_CHARACTERS = 80
_PAGE = 100
# A wrong address should be told soon, not after the patience that a running conversation deserves.
_FIRST_CALL = RetryPolicy(tries=3)


class Remote:
    """All methods raise CallError."""

    def __init__(self, client: ChatClient) -> None:
        self._client = client
        self._stub = client.conversations

    async def check(self) -> None:
        """Find out whether the server is there and takes the token."""
        await self._client.call(self._stub.ListConversations, ListConversationsRequest(page_size=1), retry=_FIRST_CALL)

    async def conversation(self, conversation_id: str) -> Conversation:
        request = GetConversationRequest(conversation_id=conversation_id)
        return (await self._client.call(self._stub.GetConversation, request, retry=_FIRST_CALL)).conversation

    async def create_conversation(self, first_message: str, *, temporary: bool = False) -> str:
        """The id of a new conversation, which is named after its first message."""
        memory = CONVERSATION_MEMORY_TEMPORARY if temporary else CONVERSATION_MEMORY_REMEMBERED
        request = CreateConversationRequest(
            conversation=Conversation(title=first_message[:_TITLE_CHARACTERS], memory=memory), request_id=str(uuid4())
        )
        return (await self._client.call(self._stub.CreateConversation, request)).conversation.id

    async def newest_messages(self, conversation_id: str, number: int) -> list[Message]:
        """The last messages of a conversation, oldest first."""
        messages: list[Message] = []
        request = ListMessagesRequest(conversation_id=conversation_id, page_size=min(number, _PAGE), newest_first=True)
        while True:
            page = await self._client.call(self._stub.ListMessages, request)
            messages += page.messages
            if len(messages) >= number or not page.next_page_token:
                return messages[:number][::-1]
            request.page_token = page.next_page_token

    async def tree(self, conversation_id: str) -> tuple[list[Message], list[Siblings]]:
        """All messages of a conversation in order of acceptance, and which of them stand beside each other."""
        messages: list[Message] = []
        siblings: dict[str, Siblings] = {}
        request = ListMessagesRequest(conversation_id=conversation_id, page_size=_PAGE, all_branches=True)
        while True:
            page = await self._client.call(self._stub.ListMessages, request)
            messages += page.messages
            siblings |= {each.parent_id: each for each in page.siblings}
            if not page.next_page_token:
                return messages, list(siblings.values())
            request.page_token = page.next_page_token

    async def switch(self, message_id: str) -> Conversation:
        """Make the path through a message the active one."""
        request = SwitchBranchRequest(message_id=message_id)
        return (await self._client.call(self._stub.SwitchBranch, request)).conversation

    async def fork(self, message_id: str) -> Conversation:
        """A new conversation with copies of the path to a message."""
        request = ForkConversationRequest(message_id=message_id, request_id=str(uuid4()))
        return (await self._client.call(self._stub.ForkConversation, request)).conversation

    async def context_report(self, reply_id: str) -> GetContextReportResponse:
        """What the model was given for a reply."""
        return await self._client.call(self._stub.GetContextReport, GetContextReportRequest(reply_id=reply_id))

    async def preview(self, conversation_id: str, text: str) -> PreviewContextResponse:
        """What the model would be given for a message."""
        request = PreviewContextRequest(conversation_id=conversation_id, parts=[Part(text=TextPart(text=text))])
        return await self._client.call(self._stub.PreviewContext, request)
