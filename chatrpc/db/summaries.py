"""Versions of rolling summaries: added by compare-and-set, never changed."""

from __future__ import annotations

from uuid import UUID

from chatrpc.db.codec import summary_of
from chatrpc.db.engine import Database
from chatrpc.domain import Message, Summary

LOCK = "SELECT id FROM conversations WHERE user_id = %s AND id = %s FOR NO KEY UPDATE"
NEWEST = "SELECT coalesce(max(version), 0) AS newest FROM summaries WHERE user_id = %s AND conversation_id = %s"
# A path takes the deepest of its anchors, so a second version with the same anchor is the loser of a race. A deeper
# anchor of the same branch says nothing: a path may have branched off before it.
CLASH = """
SELECT 1 FROM summaries
WHERE user_id = %s AND conversation_id = %s AND anchor_branch = %s AND anchor_depth = %s
"""
ADD = """
INSERT INTO summaries (user_id, conversation_id, version, previous_version, anchor_id, anchor_branch, anchor_depth,
                       text, tokens, model)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
RETURNING *
"""
BUMP = "UPDATE conversations SET revision = revision + 1 WHERE user_id = %s AND id = %s"


class Summaries:
    """Writes versions; reading is `chatrpc.db.recall.Recall.hot_path`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(
        self,
        user_id: UUID,
        conversation_id: UUID,
        *,
        previous: Summary | None,
        anchor: Message,
        text: str,
        tokens: int,
        model: str,
    ) -> Summary | None:
        """Add the version that folds the messages after `previous`, through `anchor`, into it.

        Returns:
            The new version, or None where another worker has folded them meanwhile or the conversation is gone.
        """
        key = (user_id, conversation_id)
        async with self._database.transaction(user_id) as connection:
            if await (await connection.execute(LOCK, key)).fetchone() is None:
                return None
            clash = await connection.execute(CLASH, (*key, anchor.branch, anchor.depth))
            if await clash.fetchone() is not None:
                return None
            newest = await (await connection.execute(NEWEST, key)).fetchone()
            assert newest is not None  # An aggregate returns one row.
            inserted = await connection.execute(
                ADD,
                (
                    *key,
                    newest["newest"] + 1,
                    None if previous is None else previous.version,
                    anchor.id,
                    anchor.branch,
                    anchor.depth,
                    text,
                    tokens,
                    model,
                ),
            )
            row = await inserted.fetchone()
            assert row is not None  # RETURNING gives the inserted row.
            await connection.execute(BUMP, key)
            return summary_of(row)
