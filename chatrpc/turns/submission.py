"""The way of tool results to the process that generates the reply they are for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

from chatrpc.db.transcript import Transcript
from chatrpc.domain import Message, ToolCallPart, ToolResultPart
from chatrpc.errors import ChatError, Unavailable
from chatrpc.turns.events import ToolCall, ToolResult
from chatrpc.turns.reply_log import held_elsewhere
from chatrpc.turns.reply_logs import ReplyLogs
from chatrpc.turns.running import RunningReplies
from chatrpc.turns.tool_results import new_results, not_pending, results_of

# How many seconds another process gets to take results.
PATIENCE = 5.0


class Submissions:
    """Brings results to a reply, in whichever process it is generated.

    Args:
        running: What this process generates.
    """

    def __init__(self, transcript: Transcript, logs: ReplyLogs, running: RunningReplies) -> None:
        self._transcript = transcript
        self._logs = logs
        self._running = running

    async def submit(self, user_id: UUID, reply_id: UUID, results: Sequence[ToolResultPart]) -> None:
        """As `Turns.submit_tool_results`."""
        running = self._running.get(user_id, reply_id)
        if running is not None:
            running.submit(results)
            return
        reply = (await self._transcript.turn(user_id, reply_id)).reply
        if not reply.state.finished:
            try:
                await self._submit_elsewhere(user_id, reply, results)
            except Unavailable:
                # It may have finished meanwhile.
                reply = (await self._transcript.turn(user_id, reply_id)).reply
                if not reply.state.finished:
                    raise
            else:
                return
        # Whoever did not hear that a result was taken sends it again.
        new_results(results, results_of(reply.parts), ())

    async def _submit_elsewhere(self, user_id: UUID, reply: Message, results: Sequence[ToolResultPart]) -> None:
        """Have them taken by the process that generates the reply; what it takes, it tells in the log."""
        found = await self._logs.find(user_id, reply.id, reply.attempt)
        owner = await self._transcript.owner(user_id, reply.id)
        if found is None or owner is None:
            raise held_elsewhere()
        told = [event.event.part for event in found.events if isinstance(event.event, ToolCall | ToolResult)]
        taken = results_of(told)
        calls = {part.id for part in told if isinstance(part, ToolCallPart)} - taken.keys()
        missing = {result.call_id: result for result in new_results(results, taken, calls)}
        reader = found.read(len(found.events))
        if missing and not await self._logs.submit(owner, user_id, reply.id, tuple(missing.values())):
            raise held_elsewhere()
        try:
            async with asyncio.timeout(PATIENCE):
                while missing:
                    event = (await anext(reader)).event
                    if isinstance(event, ToolResult) and missing.pop(event.part.call_id, event.part) != event.part:
                        raise not_pending(event.part.call_id)
        except (TimeoutError, StopAsyncIteration):
            raise held_elsewhere() from None
        finally:
            reader.close()

    def hear(self, user_id: UUID, reply_id: UUID, results: Sequence[ToolResultPart]) -> None:
        """Results that another process passes on. It learns from the log which ones were taken."""
        running = self._running.get(user_id, reply_id)
        if running is not None:
            with suppress(ChatError):
                running.submit(results)
