"""ConversationService: conversations, their messages, and what the model saw of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from uuid import UUID

import grpc
from chatapi.v1 import conversation_service_pb2 as pb
from chatapi.v1.conversation_service_pb2_grpc import ConversationServiceServicer

from chatrpc.context.assembler import ContextAssembler
from chatrpc.db.conversations import Conversations
from chatrpc.db.reports import Reports
from chatrpc.rpc.call import current_caller
from chatrpc.rpc.conversation_changes import update_conversation
from chatrpc.rpc.conversation_watch import WatchStream
from chatrpc.rpc.convert import (
    conversation_to_proto,
    memory_from_proto,
    message_to_proto,
    optional_id,
    parts_from_proto,
    settings_from_proto,
)
from chatrpc.rpc.convert_report import prompt_to_proto, report_to_proto
from chatrpc.rpc.outbox import StreamPolicy
from chatrpc.rpc.page_token import next_page_token, page_of
from chatrpc.turns.forks import Forks
from chatrpc.turns.service import Turns
from chatrpc.turns.watch import Watches

_Context = grpc.aio.ServicerContext[Any, Any]


class ConversationServicer(ConversationServiceServicer):
    """Documented in the contract, `conversation_service.proto`."""

    def __init__(
        self,
        conversations: Conversations,
        reports: Reports,
        assembler: ContextAssembler,
        turns: Turns,
        forks: Forks,
        watches: Watches,
        policy: StreamPolicy,
    ) -> None:
        self._conversations = conversations
        self._reports = reports
        self._assembler = assembler
        self._turns = turns
        self._forks = forks
        self._policy = policy
        self._watches = watches

    async def CreateConversation(
        self, request: pb.CreateConversationRequest, context: _Context
    ) -> pb.CreateConversationResponse:
        asked = request.conversation
        conversation = await self._conversations.create(
            current_caller().user_id,
            title=asked.title,
            settings=settings_from_proto(asked.settings),
            labels=dict(asked.labels),
            request_id=request.request_id or None,
            memory=memory_from_proto(asked.memory),
        )
        return pb.CreateConversationResponse(conversation=conversation_to_proto(conversation))

    async def GetConversation(
        self, request: pb.GetConversationRequest, context: _Context
    ) -> pb.GetConversationResponse:
        conversation = await self._conversations.get(current_caller().user_id, UUID(request.conversation_id))
        return pb.GetConversationResponse(conversation=conversation_to_proto(conversation))

    async def ListConversations(
        self, request: pb.ListConversationsRequest, context: _Context
    ) -> pb.ListConversationsResponse:
        user_id = current_caller().user_id
        conversations, following = await self._conversations.list(
            user_id, page_of(user_id, request), title_contains=request.title_contains, labels=dict(request.labels)
        )
        return pb.ListConversationsResponse(
            conversations=map(conversation_to_proto, conversations),
            next_page_token=next_page_token(user_id, request, following),
        )

    async def UpdateConversation(
        self, request: pb.UpdateConversationRequest, context: _Context
    ) -> pb.UpdateConversationResponse:
        conversation = await update_conversation(self._conversations, current_caller().user_id, request)
        self._turns.changed(conversation.id)
        return pb.UpdateConversationResponse(conversation=conversation_to_proto(conversation))

    async def DeleteConversation(
        self, request: pb.DeleteConversationRequest, context: _Context
    ) -> pb.DeleteConversationResponse:
        user_id, conversation_id = current_caller().user_id, UUID(request.conversation_id)
        # First, so that the replies' readers hear of an end and not of a reply that has vanished.
        self._turns.cancel_conversation(user_id, conversation_id)
        counts = await self._conversations.delete(user_id, conversation_id)
        self._assembler.forget(user_id, conversation_id)
        self._turns.changed(conversation_id)
        return pb.DeleteConversationResponse(
            messages=counts.messages,
            summaries=counts.summaries,
            vectors=counts.vectors,
            context_reports=counts.context_reports,
        )

    async def EraseMessage(self, request: pb.EraseMessageRequest, context: _Context) -> pb.EraseMessageResponse:
        caller, message_id = current_caller(), UUID(request.message_id)
        await self._turns.stop(caller, message_id)
        erased = await self._conversations.erase_message(
            caller.user_id, message_id, include_reply=request.include_reply
        )
        self._assembler.forget(caller.user_id, erased.conversation_id)
        self._turns.changed(erased.conversation_id)
        return pb.EraseMessageResponse(
            messages=erased.messages,
            vectors=erased.vectors,
            passages=erased.passages,
            context_reports=erased.context_reports,
            summaries=erased.summaries,
            title_erased=erased.title,
        )

    async def ListMessages(self, request: pb.ListMessagesRequest, context: _Context) -> pb.ListMessagesResponse:
        user_id, conversation_id = current_caller().user_id, UUID(request.conversation_id)
        messages, following = await self._conversations.messages(
            user_id,
            conversation_id,
            page_of(user_id, request),
            newest_first=request.newest_first,
            all_branches=request.all_branches,
        )
        siblings = await self._conversations.branches.siblings(user_id, conversation_id, messages)
        return pb.ListMessagesResponse(
            messages=map(message_to_proto, messages),
            next_page_token=next_page_token(user_id, request, following),
            siblings=[
                pb.Siblings(parent_id=optional_id(each.parent_id), message_ids=map(str, each.message_ids))
                for each in siblings
            ],
        )

    async def SwitchBranch(self, request: pb.SwitchBranchRequest, context: _Context) -> pb.SwitchBranchResponse:
        conversation = await self._conversations.branches.switch(current_caller().user_id, UUID(request.message_id))
        self._turns.changed(conversation.id)
        return pb.SwitchBranchResponse(conversation=conversation_to_proto(conversation))

    async def ForkConversation(
        self, request: pb.ForkConversationRequest, context: _Context
    ) -> pb.ForkConversationResponse:
        self._policy.drain.refuse()
        conversation = await self._forks.fork(
            current_caller(), UUID(request.message_id), request_id=request.request_id or None
        )
        return pb.ForkConversationResponse(conversation=conversation_to_proto(conversation))

    async def WatchConversation(
        self, request: pb.WatchConversationRequest, context: _Context
    ) -> AsyncGenerator[pb.WatchConversationResponse, None]:
        self._policy.drain.refuse()
        watch = WatchStream(self._watches, current_caller(), self._policy)
        async with aclosing(watch.responses(UUID(request.conversation_id), request.after_revision)) as responses:
            async for response in responses:
                yield response

    async def GetContextReport(
        self, request: pb.GetContextReportRequest, context: _Context
    ) -> pb.GetContextReportResponse:
        report = await self._reports.get(current_caller().user_id, UUID(request.reply_id))
        return pb.GetContextReportResponse(report=report_to_proto(report))

    async def PreviewContext(self, request: pb.PreviewContextRequest, context: _Context) -> pb.PreviewContextResponse:
        assembled = await self._assembler.preview(
            current_caller().user_id,
            UUID(request.conversation_id),
            parts_from_proto(request.parts),
            settings_from_proto(request.settings),
            request.max_retrieved or None,
        )
        return pb.PreviewContextResponse(
            report=report_to_proto(assembled.report), prompt=prompt_to_proto(assembled.prompt)
        )
