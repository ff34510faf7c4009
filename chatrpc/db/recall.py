"""What a context is built from: the summary and the messages after it, and what a search finds.

Both together are one statement; the texts of what is chosen of the find are another. What words alone find can be asked
for before, in a statement of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import numpy as np
from psycopg.rows import DictRow

from chatrpc.db.codec import facts_from_json, parts_from_json, path_of, settings_from_json
from chatrpc.db.engine import Connection, Database, Params
from chatrpc.db.search import (
    POOL,
    POOL_BEHIND_SUMMARY,
    TEXTS,
    Look,
    Passage,
    Pool,
    Query,
    Sought,
    array_text,
    look_call,
    passage_of,
    pool_call,
    pool_of,
    pool_params,
    texts_call,
)
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
HOT_PATH = "SELECT * FROM hot_path_row(%s, %s, %s::integer[], %s::integer[], %s::integer) h"
HOT_PATH_AND_POOL = f"{HOT_PATH} CROSS JOIN LATERAL {POOL_BEHIND_SUMMARY}"
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


async def plan_searches(connection: Connection) -> None:
    """Have a new connection plan the functions of a search, by searching in two stages for nobody.

    Each connection has plans of its own, and to make these takes it about 50 ms.
    """
    nobody = UUID(int=0)
    query = Query(space_id=0, terms=["nothing"], elsewhere=False, exact_to=-1, vector=np.zeros(1, np.float32))
    params = (*_hot_path_params(nobody, nobody, (), 0), *pool_params(nobody, nobody, query, _ends(())))
    await connection.execute(HOT_PATH_AND_POOL, params, prepare=True, binary=True)
    await connection.execute(POOL, pool_params(nobody, nobody, query, _ends(()), 0), prepare=True, binary=True)
    await connection.execute(TEXTS, (nobody, None, 0, array_text([nobody]), "{0}"), prepare=True, binary=True)


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
        row = await self._row(HOT_PATH, _hot_path_params(user_id, conversation_id, path, keep))
        return _hot_path_of(row, conversation_id, path)

    async def look(self, user_id: UUID, conversation_id: UUID | None, sought: Sought, through: Path) -> Look:
        """What a search finds by words alone, for `pool`: it spares that the part for which no vector is needed."""
        row = await self._row(*look_call(user_id, conversation_id, sought, _ends(through), _length(through)))
        return Look(row["look"])

    async def pool(
        self, user_id: UUID, conversation_id: UUID | None, query: Query, through: Path, look: Look | None = None
    ) -> Pool:
        """What a hybrid search finds to score; of this conversation only messages on `through`.

        `through` is the summarised part of the path, so that nothing is found that stands verbatim in the window.

        Args:
            look: What `look` has found for the same arguments, where it was asked.
        """
        row = await self._row(*pool_call(user_id, conversation_id, query, _ends(through), _length(through), look))
        return pool_of(row, query)

    async def hot_path_and_pool(
        self, user_id: UUID, conversation_id: UUID, path: Path, query: Query, *, keep: int = 0
    ) -> tuple[HotPath, Pool]:
        """`hot_path`, and `pool` through the anchor of the summary that it finds, in one statement."""
        hot = _hot_path_params(user_id, conversation_id, path, keep)
        pool = pool_params(user_id, conversation_id, query, _ends(path))
        row = await self._row(HOT_PATH_AND_POOL, (*hot, *pool))
        return _hot_path_of(row, conversation_id, path), pool_of(row, query)

    async def passages(self, user_id: UUID, sought: Sought, pool: Pool, rows: Sequence[int]) -> dict[int, Passage]:
        """The texts of rows of a pool, by row; those that were deleted meanwhile are missing."""
        if not rows:
            return {}
        found = await self._database.rows(*texts_call(user_id, sought, pool, rows))
        by_row = ((rows[each["place"] - 1], each) for each in found)
        return {row: passage_of(each, shared=bool(pool.owner[row])) for row, each in by_row}

    async def _row(self, query: str, params: Params) -> DictRow:
        """The row that each of these statements gives, whatever it finds. It is too large for a cursor to keep."""
        [row] = await self._database.rows(query, params)
        return row


def _hot_path_params(user_id: UUID, conversation_id: UUID, path: Path, keep: int) -> tuple[object, ...]:
    branches = array_text([branch for branch, _ in path])
    return (user_id, conversation_id, branches, _ends(path), _length(path) - keep)


def _length(path: Path) -> int:
    return path[-1][1] if path else 0


def _ends(path: Path) -> str:
    """By branch number: the path's last depth on that branch, 0 where the path does not touch it."""
    ends = [0] * (1 + max((branch for branch, _ in path), default=0))
    for branch, depth in path:
        ends[branch] = depth
    return array_text(ends)


def _hot_path_of(row: Mapping[str, Any], conversation_id: UUID, path: Path) -> HotPath:
    if row["revision"] is None:
        raise NotFound(Reason.CONVERSATION_NOT_FOUND, "conversation", str(conversation_id))
    return HotPath(
        conversation_id=conversation_id,
        revision=row["revision"],
        settings=settings_from_json(row["settings"]),
        path=path,
        summary=None if row["summary_version"] is None else _summary_of(row),
        messages=_messages_of(row, conversation_id),
        rebuilding=row["rebuilding"],
        erasures=row["erasures"],
    )


def _summary_of(row: Mapping[str, Any]) -> Summary:
    return Summary(
        version=row["summary_version"],
        anchor_id=row["anchor_id"],
        anchor_branch=row["anchor_branch"],
        anchor_depth=row["anchor_depth"],
        text=row["summary_text"],
        tokens=row["summary_tokens"],
        model=row["summary_model"],
        created_at=row["summary_created_at"],
        facts=facts_from_json(row["facts"]),
    )


_MESSAGE_COLUMNS = (
    "message_ids", "sequences", "message_branches", "depths", "roles", "states", "parts", "tokens", "said_at",
)  # fmt: skip


def _messages_of(row: Mapping[str, Any], conversation_id: UUID) -> tuple[Message, ...]:
    """Messages as far as a context needs them; who wants the rest asks the transcript."""
    if row["message_ids"] is None:
        return ()
    return tuple(
        Message(
            id=id_,
            conversation_id=conversation_id,
            parent_id=None,
            sequence=sequence,
            branch=branch,
            depth=depth,
            role=Role(role),
            state=MessageState(state),
            parts=parts_from_json(parts),
            tokens=tokens,
            created_at=said_at,
        )
        for id_, sequence, branch, depth, role, state, parts, tokens, said_at in zip(
            *(row[column] for column in _MESSAGE_COLUMNS), strict=True
        )
    )
