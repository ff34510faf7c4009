"""Versions of rolling summaries: added by compare-and-set, never changed, erased with what they cover."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from uuid_utils.compat import uuid7

from chatrpc.db.codec import facts_to_json, summary_of
from chatrpc.db.engine import Database
from chatrpc.db.usage import UsageLedger, book_background
from chatrpc.domain import Fact, Message, Served, Summary, UsageKind

LOCK = "SELECT erasures FROM conversations WHERE user_id = %s AND id = %s FOR NO KEY UPDATE"
NEWEST = "SELECT coalesce(max(version), 0) AS newest FROM summaries WHERE user_id = %s AND conversation_id = %s"
# A path takes the deepest of its anchors, so a second version with the same anchor is the loser of a race. A deeper
# anchor of the same branch says nothing: a path may have branched off before it.
CLASH = """
SELECT 1 FROM summaries
WHERE user_id = %s AND conversation_id = %s AND anchor_branch = %s AND anchor_depth = %s AND erased_at IS NULL
"""
ADD = """
INSERT INTO summaries (user_id, conversation_id, version, previous_version, anchor_id, anchor_branch, anchor_depth,
                       text, facts, tokens, model)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
RETURNING *
"""
BUMP = "UPDATE conversations SET revision = revision + 1 WHERE user_id = %s AND id = %s"
ACCEPTED = """
UPDATE memory_tasks SET fold_refusals = 0 WHERE user_id = %s AND conversation_id = %s AND fold_refusals > 0
"""
REFUSED = """
UPDATE memory_tasks SET fold_refusals = fold_refusals + 1 WHERE user_id = %s AND conversation_id = %s
RETURNING fold_refusals
"""
INVALIDATE = "SELECT invalidate_summaries(%s, %s, %s) AS erased"


class Summaries:
    """Writes versions; reading is `chatrpc.db.recall.Recall.hot_path`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ledger = UsageLedger(database)

    async def add(
        self,
        user_id: UUID,
        conversation_id: UUID,
        *,
        previous: Summary | None,
        anchor: Message,
        erasures: int,
        text: str,
        facts: tuple[Fact, ...] = (),
        tokens: int,
        model: str,
        served: Served | None = None,
        work_id: UUID | None = None,
    ) -> Summary | None:
        """Add the version that folds the messages after `previous`, through `anchor`, into it.

        Args:
            erasures: The conversation's count of erasures when `previous` and the messages were read.
            served: What the summariser's model used; booked with the version, and not where there is none.
            work_id: It is booked by this id.

        Returns:
            The new version, or None where another worker has folded them meanwhile, a message was erased since they
            were read, or the conversation is gone.
        """
        key = (user_id, conversation_id)
        async with self._database.transaction(user_id) as connection:
            conversation = await (await connection.execute(LOCK, key)).fetchone()
            if conversation is None or conversation["erasures"] != erasures:
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
                    facts_to_json(facts),
                    tokens,
                    model,
                ),
            )
            row = await inserted.fetchone()
            assert row is not None  # RETURNING gives the inserted row.
            await connection.execute(BUMP, key)
            await connection.execute(ACCEPTED, key)
            if served is not None:
                await book_background(
                    connection, user_id, UsageKind.SUMMARY, work_id or uuid7(), conversation_id, served
                )
            return summary_of(row)

    async def book(self, user_id: UUID, work_id: UUID, conversation_id: UUID, served: Served) -> None:
        """Book what a fold used that led to no version, or to one whose storing was not heard of."""
        await self._ledger.book(user_id, UsageKind.SUMMARY, work_id, conversation_id, served)

    async def refused(self, user_id: UUID, conversation_id: UUID) -> int:
        """Note that the batch that is due was refused; how often it has been, in a row. 0 if there is no task."""
        [rows] = await self._database.query(user_id, (REFUSED, (user_id, conversation_id)))
        return int(rows[0]["fold_refusals"]) if rows else 0

    @staticmethod
    async def invalidate(
        connection: AsyncConnection[dict[str, Any]], user_id: UUID, conversation_id: UUID, message_id: UUID
    ) -> int:
        """Erase every version that covers a message, and the facts in it; the number of versions.

        To be called in the transaction that erases the message, before or after the message's own text is gone, for
        as long as its row is there; within SQL, `invalidate_summaries(p_user, p_conversation, p_message)` is the
        same. It takes the conversation's lock, raises its revision, makes its folding due, and has folds that are
        under way thrown away. The newest version before the message serves on, and contexts are `rebuilding` until
        the summary has come as far as it was. A batch that is folded anew reads messages as they then are.
        """
        row = await (await connection.execute(INVALIDATE, (user_id, conversation_id, message_id))).fetchone()
        assert row is not None  # The function returns one value.
        return int(row["erased"])
