"""Context reports of past replies."""

from __future__ import annotations

from uuid import UUID

from chatrpc.db.codec import report_from_json
from chatrpc.db.engine import Database
from chatrpc.domain import ContextReport
from chatrpc.errors import NotFound, Reason

GET = """
SELECT r.report FROM messages m
JOIN context_reports r ON r.user_id = m.user_id AND r.conversation_id = m.conversation_id AND r.reply_id = m.id
WHERE m.user_id = %s AND m.id = %s
"""


class Reports:
    """Reads what the model was given; the rows are written with the finished reply."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, user_id: UUID, reply_id: UUID) -> ContextReport:
        """Raises NotFound where there is no such reply or its context was not recorded."""
        [rows] = await self._database.query(user_id, (GET, (user_id, reply_id)))
        if not rows:
            raise NotFound(Reason.CONTEXT_REPORT_NOT_FOUND, "context report of reply", str(reply_id))
        return report_from_json(rows[0]["report"])
