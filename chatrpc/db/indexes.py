"""Indexes of single users: of those with so many passages that a pass over them all takes too long.

One index of vectors for all users would cost every message of every user its upkeep, and a search by it, filtered by
user, finds too little or takes too long. So each very large user has a partial index of vectors (HNSW) of its own, made
and dropped by a command that an operator runs now and then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

import psycopg
from psycopg import Connection, sql
from psycopg.rows import dict_row

from chatrpc.db.login import require_url
from chatrpc.db.migrate import MENDABLE
from chatrpc.errors import SettingsError

KEPT_FROM = 0.5
"""A user keeps its indexes until it has fallen to this share of the size that gave it them."""
# A graph is built several times faster in memory; 100,000 vectors of 384 dimensions take 200 MB.
BUILD_MEMORY = "1GB"

USERS = """
SELECT c.user_id, c.space_id, s.dimension, c.passages,
       (SELECT e.tableoid::regclass::text FROM embeddings e WHERE e.user_id = c.user_id LIMIT 1) AS partition
FROM embedding_counts c JOIN embedding_spaces s ON s.id = c.space_id
WHERE c.passages >= %s
ORDER BY c.passages DESC
"""
OWN = """
SELECT i.relname AS name, x.indisvalid AS valid
FROM pg_class i JOIN pg_index x ON x.indexrelid = i.oid
WHERE i.relnamespace = current_schema()::regnamespace AND i.relname ~ '^own_(vectors|terms)_[0-9a-f]{32}_[0-9]+$'
"""
# The name and the expression are those that the function search_by_vectors asks for. Indexes called own_terms_… were
# made before there was one of all users' words; they are dropped.
MAKE = (
    "CREATE INDEX CONCURRENTLY {} ON {} USING hnsw ((embedding::halfvec({})) halfvec_ip_ops) "
    "WHERE user_id = {} AND space_id = {}"
)


@dataclass(frozen=True, slots=True)
class IndexChange:
    """An index that was made, or else dropped."""

    name: str
    made: bool


def update_indexes(url: str, indexed_from: int) -> Iterator[IndexChange]:
    """Make the indexes of the users with so many passages, and drop those of users who have far fewer by now.

    Searches and writes go on meanwhile. One that was broken off, and is invalid, is made anew.

    Raises:
        SettingsError: The URL is malformed, or the database refuses for a reason that an operator can mend.
    """
    require_url(url)
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            yield from _update(connection, indexed_from)
    except MENDABLE as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise SettingsError(f"The indexes cannot be made: {reason}.") from None


def _update(connection: Connection, indexed_from: int) -> Iterator[IndexChange]:
    cursor = connection.cursor(row_factory=dict_row)
    cursor.execute("SELECT set_config('maintenance_work_mem', %s, false)", (BUILD_MEMORY,))
    # Workers would share the memory of the build, of which a container seldom has enough.
    cursor.execute("SET max_parallel_maintenance_workers = 0")
    users = cursor.execute(USERS, (indexed_from * KEPT_FROM,)).fetchall()
    kept = {_name(user["user_id"], user["space_id"]) for user in users}
    valid = set()
    for index in cursor.execute(OWN).fetchall():
        if index["name"] in kept and index["valid"]:
            valid.add(index["name"])
            continue
        cursor.execute(sql.SQL("DROP INDEX CONCURRENTLY {}").format(sql.Identifier(index["name"])))
        yield IndexChange(index["name"], made=False)
    for user in users:
        name = _name(user["user_id"], user["space_id"])
        if user["passages"] < indexed_from or name in valid:
            continue
        cursor.execute(
            sql.SQL(MAKE).format(
                sql.Identifier(name),
                sql.Identifier(user["partition"]),
                sql.Literal(int(user["dimension"])),
                sql.Literal(str(user["user_id"])),
                sql.Literal(user["space_id"]),
            )
        )
        yield IndexChange(name, made=True)


def _name(user_id: UUID, space_id: int) -> str:
    return f"own_vectors_{user_id.hex}_{space_id}"
