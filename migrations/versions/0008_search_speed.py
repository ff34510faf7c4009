"""Searches of large users: a narrow index for vectors, one for words, one for documents."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

FUNCTIONS = Path(__file__).resolve().parents[1] / "functions"
SERVER_ROLE = "chatrpc_server"
KEY = "user_id, space_id, message_id, passage"
LOOKED_AT_BEFORE = "conversation_id, branch, depth, active, source, collection_id, length, code, terms"
LOOKED_AT_FIRST = "conversation_id, branch, depth, active, source, collection_id, code"
# In the order in which they are made; those with a second and third version are replaced. `term_places` stays, since
# users' own indexes of words are built on it until `chatrpc index` drops them.
BEFORE = ("in_scope_1", "search_by_indexes_1", "search_coarsely_2", "search_pool_2")
AFTER = ("in_scope_2", "term_keys_1", "search_by_vectors_1", "search_by_words_1", "search_coarsely_3", "search_pool_3")
# They run as the schema's owner, whom row-level security does not bind.
OF_ANY_USER_BEFORE = ("search_by_indexes",)
OF_ANY_USER = ("search_by_vectors", "search_by_words")


def upgrade() -> None:
    for name in reversed(BEFORE):
        drop(name)
    for name in AFTER:
        create(name)
    bind(OF_ANY_USER)
    # Whoever waits while these are built is the background work, which tries again; while the primary key is, also the
    # search, without which a reply goes on.
    op.execute(
        "CREATE INDEX embeddings_terms_idx ON embeddings USING gin (term_keys(user_id, terms)) WITH (fastupdate = off)"
    )
    op.execute(
        "CREATE INDEX embeddings_documents_idx ON embeddings (user_id, collection_id) INCLUDE (source) "
        "WHERE source <> 0"
    )
    include(LOOKED_AT_FIRST)


def downgrade() -> None:
    include(LOOKED_AT_BEFORE)
    op.drop_index("embeddings_documents_idx", "embeddings")
    op.drop_index("embeddings_terms_idx", "embeddings")
    for name in reversed(AFTER):
        drop(name)
    for name in BEFORE:
        create(name)
    bind(OF_ANY_USER_BEFORE)


def include(columns: str) -> None:
    """What the primary key holds besides the key, for scans that read nothing else."""
    op.execute("ALTER TABLE embeddings DROP CONSTRAINT embeddings_pkey")
    op.execute(f"ALTER TABLE embeddings ADD PRIMARY KEY ({KEY}) INCLUDE ({columns})")


def create(name: str) -> None:
    op.execute(sa.text((FUNCTIONS / f"{name}.sql").read_text().replace(":", r"\:")))


def drop(name: str) -> None:
    op.execute(f"DROP FUNCTION {name.rpartition('_')[0]}")


def bind(functions: tuple[str, ...]) -> None:
    """See the first migration: a function that runs as the schema's owner must not find a table of its caller's."""
    for function in functions:
        op.execute(
            "DO $$ BEGIN EXECUTE format("
            f"'ALTER FUNCTION {function} SET search_path = %I, pg_temp', current_schema()); END $$"
        )
        op.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO {SERVER_ROLE}")
