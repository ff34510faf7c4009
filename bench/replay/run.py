"""Says a dialogue to a server, turn by turn, and asks its questions of what the server remembers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from chatapi.v1.context_report_pb2 import ContextReport, DropReason
from chatapi.v1.conversation_pb2 import Conversation
from chatapi.v1.conversation_service_pb2 import (
    CreateConversationRequest,
    GetConversationRequest,
    ListMessagesRequest,
    PreviewContextRequest,
)
from chatapi.v1.message_pb2 import Message, Part, Role, TextPart

from bench.replay.dataset import Dialogue, Question
from bench.replay.measures import DEPTHS, Asked
from chatrpc.client import ChatClient, text_message
from chatrpc.settings import ContextSettings

# The background work of the last turns, on a busy machine and with a slow language model.
SETTLE_TIMEOUT = 600.0


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of it.

    Attributes:
        seconds: Time that the turns took, each with its reply.
        messages: Stored messages, turns and replies.
        summaries: Versions of the rolling summary.
        summarized: Messages that the newest covers.
        asked: The questions that have evidence.
    """

    dialogue: Dialogue
    seconds: float
    messages: int
    reply_model: str
    summaries: int
    summarized: int
    embedding_model: str
    asked: tuple[Asked, ...]


async def replay(client: ChatClient, dialogue: Dialogue, settings: ContextSettings) -> Replay:
    """Say all, wait for the memory to be complete, ask all.

    Args:
        settings: What the server works with, to know when its background work is done.

    Raises:
        RuntimeError: What is stored is not what was said, or the background work does not end.
    """
    created = await client.call(
        client.conversations.CreateConversation,
        CreateConversationRequest(conversation=Conversation(title=dialogue.name)),
    )
    conversation_id = created.conversation.id
    started = time.monotonic()
    reply = Message()
    async with client.chat() as session:
        for turn in dialogue.turns:
            # The turn's id is the key, so that each is stored once whatever happens on the way.
            said = await session.send(text_message(conversation_id, turn.text, turn.id))
            reply = await said.reply()
    seconds = time.monotonic() - started
    ids = await _stored(client, conversation_id, dialogue)
    await _settled(client, conversation_id, dialogue, ids, settings)
    asked = [await _ask(client, conversation_id, each, ids) for each in dialogue.questions if each.evidence]
    last = await _preview(client, conversation_id, "What was said last?", 0)
    conversation = await client.call(
        client.conversations.GetConversation, GetConversationRequest(conversation_id=conversation_id)
    )
    return Replay(
        dialogue=dialogue,
        seconds=seconds,
        messages=conversation.conversation.message_count,
        reply_model=reply.model,
        summaries=last.summary.version,
        summarized=last.summary.message_count,
        embedding_model=last.embedding_model,
        asked=tuple(asked),
    )


async def _stored(client: ChatClient, conversation_id: str, dialogue: Dialogue) -> dict[str, str]:
    """The turns by the ids of their messages. Checks that each is one stored message, in order, word for word."""
    messages: list[Message] = []
    page_token = ""
    while True:
        page = await client.call(
            client.conversations.ListMessages,
            ListMessagesRequest(conversation_id=conversation_id, page_size=1_000, page_token=page_token),
        )
        messages += page.messages
        page_token = page.next_page_token
        if not page_token:
            break
    said = [message for message in messages if message.role == Role.ROLE_USER]
    if [message.parts[0].text.text for message in said] != [turn.text for turn in dialogue.turns]:
        raise RuntimeError("The stored messages are not the turns of the dialogue, one by one and in order.")
    return {message.id: turn.id for message, turn in zip(said, dialogue.turns, strict=True)}


async def _settled(
    client: ChatClient,
    conversation_id: str,
    dialogue: Dialogue,
    ids: Mapping[str, str],
    settings: ContextSettings,
) -> None:
    """Wait until all that is due is summarised and embedded.

    Messages are embedded in order, so the memory is complete when the last turn that the summary covers can be found.
    """
    due = settings.hot_path + settings.fold
    texts = {turn.id: turn.text for turn in dialogue.turns}
    order = list(ids)
    deadline = time.monotonic() + SETTLE_TIMEOUT
    while time.monotonic() < deadline:
        covered = (await _preview(client, conversation_id, "What was said last?", 0)).summary.message_count
        if 2 * len(order) - covered < due:
            if covered < 2:
                return
            # A turn stands at every odd depth. Its own words would be left out as a repetition of the question.
            last = order[(covered - 1) // 2]
            found = await _preview(client, conversation_id, f"Remember: {texts[ids[last]]}", max(DEPTHS))
            if last in {passage.message_id for passage in found.retrieved}:
                return
        await asyncio.sleep(0.2)
    raise RuntimeError(f"The background work is not done after {SETTLE_TIMEOUT:.0f} s.")


async def _ask(client: ChatClient, conversation_id: str, question: Question, ids: Mapping[str, str]) -> Asked:
    usual = await _preview(client, conversation_id, question.text, 0)
    large = await _preview(client, conversation_id, question.text, max(DEPTHS))
    return Asked(
        question=question,
        retrieved=tuple(ids.get(passage.message_id) for passage in large.retrieved),
        below_floor=_dropped(large, DropReason.DROP_REASON_BELOW_FLOOR),
        over_budget=_dropped(large, DropReason.DROP_REASON_BUDGET),
        window=frozenset(ids[each.message_id] for each in large.verbatim if each.message_id in ids),
        delivered=frozenset(ids[each.message_id] for each in usual.retrieved if each.message_id in ids),
        tokens=sum(section.tokens for section in usual.sections),
        assembly_micros=usual.assembly_time.ToMicroseconds(),
        embedding_micros=usual.embedding_time.ToMicroseconds(),
        search_micros=large.assembly_time.ToMicroseconds(),
    )


def _dropped(report: ContextReport, reason: DropReason.ValueType) -> int:
    return sum(each.reason == reason for each in report.dropped)


async def _preview(client: ChatClient, conversation_id: str, text: str, max_retrieved: int) -> ContextReport:
    answer = await client.call(
        client.conversations.PreviewContext,
        PreviewContextRequest(
            conversation_id=conversation_id, parts=[Part(text=TextPart(text=text))], max_retrieved=max_retrieved
        ),
    )
    return answer.report
