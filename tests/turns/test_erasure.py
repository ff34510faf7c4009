"""A reply is stopped before what it answers is erased, in whichever process it is generated."""

from __future__ import annotations

from uuid import UUID

from chatrpc.db.conversations import Conversations
from chatrpc.db.engine import Database
from chatrpc.domain import MessageState, Page
from chatrpc.turns.events import Completed, Delta
from tests.support.provider import Answer, Fault, Provider
from tests.turns.conftest import Process, running


async def test_a_reply_of_this_process_has_ended_when_it_is_stopped(process: Process, provider: Provider) -> None:
    provider.script(Answer(deltas=("on ", "and on"), fault=Fault.STALL))
    accepted, events = await process.send("tell me")
    async for event in events:
        if isinstance(event.event, Delta):
            break
    await process.turns.stop(process.caller, accepted.message.id)
    # A second time, and for a message that is not there, there is nothing to stop.
    await process.turns.stop(process.caller, accepted.reply.id)
    await process.turns.stop(process.caller, process.process_id)
    [_, reply] = (
        await Conversations(process.database).messages(process.caller.user_id, process.conversation_id, Page(9))
    )[0]
    assert reply.state is MessageState.CANCELLED


async def test_a_process_that_cannot_be_reached_loses_the_reply(
    database: Database, provider: Provider, user_id: UUID, conversation_id: UUID, process: Process
) -> None:
    provider.script(Answer(deltas=("on ", "and on"), fault=Fault.STALL))
    accepted, events = await process.send("a secret")
    async for event in events:
        if isinstance(event.event, Delta):
            break
    async with running(database, provider, user_id, conversation_id) as other:
        await other.turns.stop(other.caller, accepted.message.id)
        await Conversations(database).erase_message(user_id, accepted.message.id, include_reply=True)
        # Now the first process ends its attempt, and finds that the reply is not its own any more.
        await process.turns.cancel(process.caller, accepted.reply.id)
        [tombstone] = [event.event for event in await other.followed(accepted.reply.id)]
        assert isinstance(tombstone, Completed)
        assert (tombstone.message.state, tombstone.message.parts) == (MessageState.ERASED, ())
