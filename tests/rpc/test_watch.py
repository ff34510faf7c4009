"""WatchConversation: what a second tab sees of what the first one does."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import grpc
from chatapi.v1 import chat_service_pb2 as chat_pb
from chatapi.v1 import conversation_service_pb2 as pb
from chatapi.v1.conversation_pb2 import Conversation
from chatapi.v1.message_pb2 import MESSAGE_STATE_ERASED, MESSAGE_STATE_PENDING, Message
from google.protobuf.field_mask_pb2 import FieldMask

from chatrpc.db.engine import Database
from tests.rpc.stage import PATIENCE, Stage, failure, new_id, outgoing, rest, signed_in, staged, told
from tests.rpc.test_branches import anew, heard, said


class Tab:
    """A watch of a conversation, with a limit to every wait."""

    def __init__(self, stage: Stage, conversation: str, after_revision: int = 0, **claims: object) -> None:
        request = pb.WatchConversationRequest(conversation_id=conversation, after_revision=after_revision)
        self.call = stage.conversations.WatchConversation(request, metadata=signed_in(**claims))

    async def hear(self) -> pb.WatchConversationResponse:
        response = await asyncio.wait_for(self.call.read(), PATIENCE)
        assert response is not grpc.aio.EOF, "the watch has ended"
        return response

    async def until_changed(self) -> tuple[list[Message], list[chat_pb.ReplyEvent], pb.ConversationChanged]:
        """What is told up to the next change of the conversation."""
        messages, events = [], []
        while True:
            response = await self.hear()
            match response.WhichOneof("event"):
                case "message":
                    messages.append(response.message)
                case "reply":
                    events.append(response.reply)
                case "changed":
                    return messages, events, response.changed

    async def reply(self, kind: str) -> list[chat_pb.ReplyEvent]:
        """The events of replies up to one of a kind."""
        events = []
        while not events or events[-1].WhichOneof("event") != kind:
            response = await self.hear()
            if response.HasField("reply"):
                events.append(response.reply)
        return events

    async def __aenter__(self) -> Tab:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.call.cancel()


def texts_of(messages: list[Message]) -> list[str]:
    return ["".join(part.text.text for part in message.parts) for message in messages]


async def revision(stage: Stage, conversation: str) -> int:
    request = pb.GetConversationRequest(conversation_id=conversation)
    return (await stage.conversations.GetConversation(request, metadata=signed_in())).conversation.revision


async def test_another_tab_sees_a_message_and_its_answer_word_by_word(stage: Stage) -> None:
    conversation = await stage.conversation()
    async with Tab(stage, conversation, await revision(stage, conversation)) as tab:
        call = stage.chat.SendMessage(
            chat_pb.SendMessageRequest(message=outgoing(conversation, "Hi.")), metadata=signed_in()
        )
        accepted = (await heard(call)).accepted
        messages, events, changed = await tab.until_changed()
        assert [message.id for message in messages] == [accepted.message.id, accepted.reply_id]
        assert (texts_of(messages), messages[1].state) == (["Hi.", ""], MESSAGE_STATE_PENDING)
        assert (changed.conversation.head_message_id, changed.reload) == (accepted.reply_id, False)
        speaker = await stage.model.asked()
        speaker.say("one ")
        events += await tab.reply("delta")
        speaker.say("two")
        speaker.finish()
        events += await tab.reply("completed")
        assert events == [response.reply for response in await rest(call)]
        assert (await tab.until_changed())[2].conversation.revision == await revision(stage, conversation)


async def test_a_watch_tells_switches_settings_erasures_and_the_end(stage: Stage) -> None:
    conversation = await stage.conversation()
    first = await said(stage, conversation, "Hi.", "one")
    call = stage.chat.RegenerateReply(anew(conversation, first.reply_id), metadata=signed_in())
    again = (await heard(call)).accepted
    (await stage.model.asked()).finish()
    await rest(call)
    metadata = signed_in()
    async with Tab(stage, conversation) as tab:
        messages, _, changed = await tab.until_changed()
        assert (messages, changed.reload) == ([], True)
        assert changed.conversation.head_message_id == again.reply_id

        await stage.conversations.SwitchBranch(pb.SwitchBranchRequest(message_id=first.reply_id), metadata=metadata)
        _, _, changed = await tab.until_changed()
        assert (changed.conversation.head_message_id, changed.reload) == (first.reply_id, False)

        await stage.conversations.UpdateConversation(
            pb.UpdateConversationRequest(
                conversation=Conversation(id=conversation, title="Renamed"), update_mask=FieldMask(paths=["title"])
            ),
            metadata=metadata,
        )
        assert (await tab.until_changed())[2].conversation.title == "Renamed"

        await stage.conversations.EraseMessage(pb.EraseMessageRequest(message_id=first.reply_id), metadata=metadata)
        [erased], _, _ = await tab.until_changed()
        assert (erased.id, erased.state, list(erased.parts)) == (first.reply_id, MESSAGE_STATE_ERASED, [])

        await stage.conversations.DeleteConversation(
            pb.DeleteConversationRequest(conversation_id=conversation), metadata=metadata
        )
        assert (await tab.hear()).HasField("deleted")
        assert await rest(tab.call) == []
        assert await tab.call.code() is grpc.StatusCode.OK
    error = told(await failure(Tab(stage, conversation).call))
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "CONVERSATION_NOT_FOUND")


async def test_who_comes_back_is_told_of_what_runs_and_whether_there_is_more(stage: Stage) -> None:
    conversation = await stage.conversation()
    call = stage.chat.SendMessage(chat_pb.SendMessageRequest(message=outgoing(conversation)), metadata=signed_in())
    await heard(call)
    speaker = await stage.model.asked()
    speaker.say("one ")
    known = await revision(stage, conversation)
    async with Tab(stage, conversation, known) as tab:
        # Nothing but the reply, from its first event on.
        kinds = [(await tab.hear()).reply.WhichOneof("event") for _ in range(2)]
        assert kinds == ["context_report", "delta"]
    speaker.finish()
    await rest(call)
    async with Tab(stage, conversation, known) as tab:
        _, _, changed = await tab.until_changed()
        assert (changed.reload, changed.conversation.revision) == (True, await revision(stage, conversation))


async def test_the_conversation_of_somebody_else_does_not_exist(stage: Stage) -> None:
    conversation = await stage.conversation()
    for each, who in ((conversation, "mallory"), (new_id(), "alice")):
        assert told(await failure(Tab(stage, each, sub=who).call)).code is grpc.StatusCode.NOT_FOUND


async def test_a_user_watches_so_many_conversations_at_a_time(database: Database, issuer_keys: Path) -> None:
    async with staged(database, issuer_keys, max_watches_per_user=2) as stage:
        conversation = await stage.conversation()
        # What was refused for another reason does not count.
        assert told(await failure(Tab(stage, new_id()).call)).reason == "CONVERSATION_NOT_FOUND"
        async with Tab(stage, conversation) as first, Tab(stage, conversation) as second:
            await first.until_changed()
            await second.until_changed()
            error = told(await failure(Tab(stage, conversation).call))
            assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_WATCHES")
            assert (error.quota, "CHATRPC_SERVER_MAX_WATCHES_PER_USER" in error.message) == ("user", True)
            theirs = await stage.conversation(signed_in(sub="bob"))
            async with Tab(stage, theirs, sub="bob") as other:
                await other.until_changed()
        # The server hears a little later that the two have gone.
        async with asyncio.timeout(PATIENCE):
            while True:
                async with Tab(stage, conversation) as again:
                    with suppress(grpc.aio.AioRpcError):
                        await again.until_changed()
                        break


async def test_a_watch_lives_as_every_stream_does(database: Database, issuer_keys: Path) -> None:
    async with staged(database, issuer_keys, heartbeat=0.05) as stage:
        conversation = await stage.conversation()
        async with Tab(stage, conversation, 1) as silent:
            assert (await silent.hear()).HasField("pong")
            stage.clock.ahead = 4_000
            async with Tab(stage, conversation, 1) as late:
                assert told(await failure(late.call)).code is grpc.StatusCode.UNAUTHENTICATED
        stage.clock.ahead = 0
        call = stage.chat.SendMessage(chat_pb.SendMessageRequest(message=outgoing(conversation)), metadata=signed_in())
        await heard(call)
        speaker = await stage.model.asked()
        async with Tab(stage, conversation, 2) as busy, Tab(stage, await stage.conversation(), 1) as idle:
            await busy.reply("context_report")
            assert (await idle.hear()).HasField("pong")
            stage.drain.begin(30)
            assert told(await failure(idle.call)).reason == "SERVER_DRAINING"
            speaker.say("kept")
            speaker.finish()
            assert (await busy.reply("completed"))[-1].completed.message.parts[0].text.text == "kept"
            assert told(await failure(busy.call)).reason == "SERVER_DRAINING"
        async with Tab(stage, conversation) as refused:
            assert told(await failure(refused.call)).reason == "SERVER_DRAINING"
