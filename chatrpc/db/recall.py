"""What a context is built from: the summary and the messages after it, and what a search finds.

Both together are one pipelined round trip; the texts of what is chosen of the find are another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from chatrpc.db.codec import facts_from_json, parts_from_json, path_of, settings_from_json
from chatrpc.db.engine import Database, Statement
from chatrpc.db.search import Passage, Pool, Query, array_text, passage_of, pool_call, pool_of, texts_call
from chatrpc.domain import (
    Conversation,
    ConversationMemory,
    HotPath,
    Message,
    MessageState,
    Path,
    Role,
    Summary,
)
from chatrpc.errors import NotFound, Reason

CONVERSATION_COLUMNS = (
    "c.id, c.title, c.settings, c.labels, c.revision, c.head_id, c.head_branch, c.head_depth, c.lineage, "
    "c.last_sequence, c.created_at, c.updated_at, c.memory"
)
HOT_PATH = "SELECT * FROM hot_path(%s, %s, %s::integer[], %s::integer[], %s::integer)"
CONVERSATION = f"SELECT {CONVERSATION_COLUMNS} FROM conversations c WHERE c.user_id = %s AND c.id = %s"


def conversation_of(row: dict[str, Any]) -> Conversation:
    return Conversation(
        id=row["id"],
        title=row["title"],
        settings=settings_from_json(row["settings"]),
        labels=row["labels"],
        revision=row["revision"],
        head_id=row["head_id"],
        path=path_of(row["lineage"], row["head_branch"], row["head_depth"]),
        message_count=row["last_sequence"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        memory=ConversationMemory(row["memory"]),
    )


class Recall:
    """Reads what contexts are built from."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def conversation(self, user_id: UUID, conversation_id: UUID) -> Conversation:
        """Raises NotFound where it is absent or somebody else's."""
        [rows] = await self._database.query(user_id, (CONVERSATION, (user_id, conversation_id)))
        if not rows:
            raise NotFound(Reason.CONVERSATION_NOT_FOUND, "conversation", str(conversation_id))
        return conversation_of(rows[0])

    async def hot_path(self, user_id: UUID, conversation_id: UUID, path: Path, *, keep: int = 0) -> HotPath:
        """The summary that covers most of `path`, and the messages of `path` after it. Raises NotFound.

        Its anchor lies on `path`, and not within the newest `keep` messages: a path that branches off shortly behind
        an anchor takes an earlier one.
        """
        [rows] = await self._database.calls(_hot_path_call(user_id, conversation_id, path, keep))
        return _hot_path_of(rows, conversation_id, path)

    async def pool(self, user_id: UUID, conversation_id: UUID | None, query: Query, through: Path) -> Pool:
        """What a hybrid search finds to score; of this conversation only messages on `through`.

        `through` is the summarised part of the path, so that nothing is found that stands verbatim in the window.
        """
        covered = _length(through)
        [rows] = await self._database.calls(
            pool_call(user_id, conversation_id, query, _ends(through), covered, covered)
        )
        return pool_of(rows[0], query)

    async def hot_path_and_pool(
        self, user_id: UUID, conversation_id: UUID, path: Path, query: Query, *, keep: int = 0
    ) -> tuple[HotPath, Pool]:
        """`hot_path`, and `pool` through the anchor of the summary that it finds, in one round trip."""
        hot, found = await self._database.calls(
            _hot_path_call(user_id, conversation_id, path, keep),
            pool_call(user_id, conversation_id, query, _ends(path), _length(path) - keep, None),
        )
        return _hot_path_of(hot, conversation_id, path), pool_of(found[0], query)

    async def passages(self, user_id: UUID, query: Query, pool: Pool, rows: Sequence[int]) -> dict[int, Passage]:
        """The texts of rows of a pool, by row; those that were deleted meanwhile are missing."""
        if not rows:
            return {}
        [found] = await self._database.calls(texts_call(user_id, query, pool, rows))
        by_row = ((rows[each["place"] - 1], each) for each in found)
        return {row: passage_of(each, shared=bool(pool.owner[row])) for row, each in by_row}


def _hot_path_call(user_id: UUID, conversation_id: UUID, path: Path, keep: int) -> Statement:
    branches = array_text([branch for branch, _ in path])
    return HOT_PATH, (user_id, conversation_id, branches, _ends(path), _length(path) - keep)


def _length(path: Path) -> int:
    return path[-1][1] if path else 0


def _ends(path: Path) -> str:
    """By branch number: the path's last depth on that branch, 0 where the path does not touch it."""
    ends = [0] * (1 + max((branch for branch, _ in path), default=0))
    for branch, depth in path:
        ends[branch] = depth
    return array_text(ends)


def _hot_path_of(rows: list[dict[str, Any]], conversation_id: UUID, path: Path) -> HotPath:
    if not rows:
        raise NotFound(Reason.CONVERSATION_NOT_FOUND, "conversation", str(conversation_id))
    first, *messages = rows
    return HotPath(
        conversation_id=conversation_id,
        revision=first["revision"],
        settings=settings_from_json(first["settings"]),
        path=path,
        summary=None if first["summary_version"] is None else _summary_of(first),
        messages=tuple(_message_of(row, conversation_id) for row in messages),
        rebuilding=first["rebuilding"],
        erasures=first["erasures"],
    )


def _summary_of(row: dict[str, Any]) -> Summary:
    return Summary(
        version=row["summary_version"],
        anchor_id=row["id"],
        anchor_branch=row["branch"],
        anchor_depth=row["depth"],
        text=row["summary_text"],
        tokens=row["tokens"],
        model=row["summary_model"],
        created_at=row["created_at"],
        facts=facts_from_json(row["facts"]),
    )


def _message_of(row: dict[str, Any], conversation_id: UUID) -> Message:
    """A message as far as a context needs it; who wants the rest asks the transcript."""
    return Message(
        id=row["id"],
        conversation_id=conversation_id,
        parent_id=None,
        sequence=row["sequence"],
        branch=row["branch"],
        depth=row["depth"],
        role=Role(row["role"]),
        state=MessageState(row["state"]),
        parts=parts_from_json(row["parts"]),
        tokens=row["tokens"],
        created_at=row["created_at"],
    )
