"""Finished replies, told from the database."""

from __future__ import annotations

from uuid import UUID

from chatrpc.db.reports import Reports
from chatrpc.db.transcript import Transcript
from chatrpc.domain import Message
from chatrpc.errors import NotFound
from chatrpc.turns.replay import replay
from chatrpc.turns.reply_log import ReplyLog


class StoredReplies:
    """Reads what is left of turns that are over."""

    def __init__(self, transcript: Transcript, reports: Reports) -> None:
        self._transcript = transcript
        self._reports = reports

    async def log(self, user_id: UUID, reply: Message) -> ReplyLog:
        """The log of a finished reply, the same as it was told live."""
        try:
            report = await self._reports.get(user_id, reply.id)
        except NotFound:
            report = None
        return ReplyLog.told(reply.id, reply.attempt, replay(reply, report))

    async def finished(self, user_id: UUID, reply_id: UUID) -> ReplyLog | None:
        """The log of a reply; None while it is not finished. Raises NotFound, Unavailable."""
        reply = (await self._transcript.turn(user_id, reply_id)).reply
        return await self.log(user_id, reply) if reply.state.finished else None
