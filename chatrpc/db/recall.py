"""What a context is built from: the summary and the messages after it, and the passages nearest to a query.

Both together are one pipelined round trip.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from pgvector import HalfVector

from chatrpc.db.codec import (
    MESSAGE_COLUMNS,
    message_of,
    parts_from_json,
    path_of,
    settings_from_json,
    summary_of,
)
from chatrpc.db.engine import Database
from chatrpc.domain import Conversation, HotPath, MemoryScope, Path, Role
from chatrpc.errors import NotFound, Reason
from chatrpc.ports import Vector

CONVERSATION_COLUMNS = (
    "c.id, c.title, c.settings, c.labels, c.revision, c.head_id, c.head_branch, c.head_depth, c.lineage, "
    "c.last_sequence, c.created_at, c.updated_at"
)
CONVERSATION = f"SELECT {CONVERSATION_COLUMNS} FROM conversations c WHERE c.user_id = %s AND c.id = %s"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A passage near to a query."""

    message_id: UUID
    conversation_id: UUID
    role: Role
    text: str
    created_at: datetime
    cosine: float


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for.

    Attributes:
        vector: The query's unit vector.
        space_id: The embedding space it belongs to.
        limit: Passages at most.
        scope: All of the user's conversations, or this one alone.
    """

    vector: Vector
    space_id: int
    limit: int
    scope: MemoryScope


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
    )


def _on_path(segments: int, branch: str, depth: str, upper: str | None = None) -> str:
    """SQL that holds for messages of a path given as parameters b0, d0, b1, d1, ...; false for an empty path.

    One comparison a segment lets the planner use the key; a conversation without branches has one segment.
    """
    if segments == 0:
        return "false"
    clauses = []
    for i in range(segments):
        end = f"%(d{i})s" if upper is None else f"least(%(d{i})s, {upper})"
        clauses.append(f"({branch} = %(b{i})s AND {depth} <= {end})")
    return "(" + " OR ".join(clauses) + ")"


def _path_params(path: Path, keep: int) -> dict[str, int]:
    params = {"last_anchor": path[-1][1] - keep if path else 0}
    for i, (branch, depth) in enumerate(path):
        params[f"b{i}"], params[f"d{i}"] = branch, depth
    return params


@lru_cache(maxsize=64)
def _hot_path_query(segments: int) -> str:
    # The summary's text stands on the first row alone, since every message repeats the other columns. Its depth is a
    # subquery, evaluated first, and bounds the index scan. As a column of the join, or inside a function that is not
    # marked leakproof (row-level security keeps those out of index conditions), it would filter the whole path.
    return f"""
    WITH summary AS (
        SELECT s.* FROM summaries s
        WHERE s.user_id = %(user)s AND s.conversation_id = %(conversation)s
          AND {_on_path(segments, "s.anchor_branch", "s.anchor_depth")} AND s.anchor_depth <= %(last_anchor)s
        ORDER BY s.anchor_depth DESC, s.version DESC LIMIT 1
    )
    SELECT c.revision, c.settings AS conversation_settings,
           s.version AS summary_version, s.anchor_id, s.anchor_branch, s.anchor_depth, s.tokens AS summary_tokens,
           s.model AS summary_model, s.created_at AS summary_created_at,
           CASE WHEN m.depth IS NULL OR m.depth = s.anchor_depth + 1 THEN s.text END AS summary_text,
           {MESSAGE_COLUMNS}
    FROM conversations c
    LEFT JOIN summary s ON true
    LEFT JOIN messages m ON m.user_id = %(user)s AND m.conversation_id = %(conversation)s
        AND {_on_path(segments, "m.branch", "m.depth")}
        AND m.depth > (SELECT coalesce(max(anchor_depth), 0) FROM summary)
    WHERE c.user_id = %(user)s AND c.id = %(conversation)s
    ORDER BY m.depth
    """


@lru_cache(maxsize=256)
def _search_query(scope: MemoryScope, segments: int, after_summary: bool) -> str:
    """`after_summary`: of this conversation only what the path's summary covers, looked up here."""
    upper = None
    if after_summary and segments:
        upper = f"""(SELECT coalesce(max(s.anchor_depth), 0) FROM (
            SELECT s.anchor_depth FROM summaries s
            WHERE s.user_id = %(user)s AND s.conversation_id = %(conversation)s
              AND {_on_path(segments, "s.anchor_branch", "s.anchor_depth")} AND s.anchor_depth <= %(last_anchor)s
            ORDER BY s.anchor_depth DESC, s.version DESC LIMIT 1) s)"""
    here = f"(e.conversation_id = %(conversation)s AND {_on_path(segments, 'e.branch', 'e.depth', upper)})"
    elsewhere = " OR (e.conversation_id <> %(conversation)s AND e.active)" if scope is MemoryScope.USER else ""
    return f"""
    SELECT e.message_id, e.conversation_id, e.span_start, e.span_end, 1 - e.distance AS cosine,
           m.role, m.parts, m.created_at
    FROM (
        SELECT e.message_id, e.conversation_id, e.span_start, e.span_end, e.embedding <=> %(vector)s AS distance
        FROM embeddings e
        WHERE e.user_id = %(user)s AND e.space_id = %(space)s AND ({here}{elsewhere})
        ORDER BY distance LIMIT %(limit)s
    ) e
    JOIN messages m ON m.user_id = %(user)s AND m.id = e.message_id
    ORDER BY e.distance, m.created_at DESC
    """


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
        [rows] = await self._database.query(user_id, self._hot_path_statement(user_id, conversation_id, path, keep))
        return _hot_path_of(rows, conversation_id, path)

    async def search(self, user_id: UUID, conversation_id: UUID, search: Search, through: Path) -> list[Candidate]:
        """The passages nearest to a query, best first; of this conversation only messages on `through`.

        `through` is the summarised part of the path, so that nothing is found that stands verbatim in the window.
        """
        statement = self._search_statement(user_id, conversation_id, search, through, after_summary=False)
        [rows] = await self._database.query(user_id, statement)
        return [_candidate_of(row) for row in rows]

    async def hot_path_and_search(
        self, user_id: UUID, conversation_id: UUID, path: Path, search: Search, *, keep: int = 0
    ) -> tuple[HotPath, list[Candidate]]:
        """`hot_path`, and `search` through the anchor of the summary that it finds, in one round trip."""
        hot, found = await self._database.query(
            user_id,
            self._hot_path_statement(user_id, conversation_id, path, keep),
            self._search_statement(user_id, conversation_id, search, path, after_summary=True, keep=keep),
        )
        return _hot_path_of(hot, conversation_id, path), [_candidate_of(row) for row in found]

    @staticmethod
    def _hot_path_statement(
        user_id: UUID, conversation_id: UUID, path: Path, keep: int
    ) -> tuple[str, dict[str, Any]]:
        params = {"user": user_id, "conversation": conversation_id, **_path_params(path, keep)}
        return _hot_path_query(len(path)), params

    @staticmethod
    def _search_statement(
        user_id: UUID, conversation_id: UUID, search: Search, path: Path, *, after_summary: bool, keep: int = 0
    ) -> tuple[str, dict[str, Any]]:
        params = {
            "user": user_id,
            "conversation": conversation_id,
            "vector": HalfVector(search.vector),
            "space": search.space_id,
            "limit": search.limit,
            **_path_params(path, keep),
        }
        return _search_query(search.scope, len(path), after_summary), params


def _hot_path_of(rows: list[dict[str, Any]], conversation_id: UUID, path: Path) -> HotPath:
    if not rows:
        raise NotFound(Reason.CONVERSATION_NOT_FOUND, "conversation", str(conversation_id))
    first = rows[0]
    summary = None
    if first["summary_version"] is not None:
        summary = summary_of(
            {
                "version": first["summary_version"],
                "anchor_id": first["anchor_id"],
                "anchor_branch": first["anchor_branch"],
                "anchor_depth": first["anchor_depth"],
                "text": first["summary_text"],
                "tokens": first["summary_tokens"],
                "model": first["summary_model"],
                "created_at": first["summary_created_at"],
            }
        )
    return HotPath(
        conversation_id=conversation_id,
        revision=first["revision"],
        settings=settings_from_json(first["conversation_settings"]),
        path=path,
        summary=summary,
        messages=tuple(message_of(row) for row in rows if row["id"] is not None),
    )


def _candidate_of(row: dict[str, Any]) -> Candidate:
    text = "".join(part.text for part in parts_from_json(row["parts"]))
    return Candidate(
        message_id=row["message_id"],
        conversation_id=row["conversation_id"],
        role=Role(row["role"]),
        text=text[row["span_start"] : row["span_end"]],
        created_at=row["created_at"],
        cosine=row["cosine"],
    )
