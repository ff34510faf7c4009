"""Search by words beside search by vectors.

`search_passages` stays for servers of the release before, which may be live; the next release drops it.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import SPARSEVEC
from sqlalchemy.dialects.postgresql import BIT

revision = "0002"
down_revision = "0001"

FUNCTIONS = Path(__file__).resolve().parents[1] / "functions"
SERVER_ROLE = "chatrpc_server"
KEY = "user_id, space_id, message_id, passage"
LOOKED_AT_FIRST = "conversation_id, branch, depth, active, source, collection_id, length, code, terms"
SHARED = "(SELECT nullif(current_setting('chatrpc.shared_id', true), '')::uuid)"
# It runs as the schema's owner, whom row-level security does not bind.
OF_ANY_USER = "search_by_indexes"
FUNCTIONS_ADDED = (
    "count_embeddings",
    "in_scope",
    "term_digits",
    "term_places",
    OF_ANY_USER,
    "search_coarsely",
    "search_pool",
)
COLUMNS_ADDED = ("source", "collection_id", "created_at", "length", "terms", "code")


def upgrade() -> None:
    # The column of signs rewrites the table. Whoever waits for it meanwhile is the background work, which tries again,
    # and the search, without which a reply goes on.
    columns = (
        sa.Column("source", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("collection_id", sa.Uuid()),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("length", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("terms", SPARSEVEC(), server_default=sa.text(r"'{}/1000000000'"), nullable=False),
        sa.Column("code", BIT(varying=True), sa.Computed("binary_quantize(embedding)", persisted=True), nullable=False),
    )
    for column in columns:
        op.add_column("embeddings", column)
    op.execute(
        "UPDATE embeddings e SET created_at = m.created_at FROM messages m "
        "WHERE m.user_id = e.user_id AND m.id = e.message_id"
    )
    op.execute("ALTER TABLE embeddings DROP CONSTRAINT embeddings_pkey")
    op.execute(f"ALTER TABLE embeddings ADD PRIMARY KEY ({KEY}) INCLUDE ({LOOKED_AT_FIRST})")
    op.drop_index("embeddings_conversation_idx", "embeddings")
    op.create_index("embeddings_place_idx", "embeddings", ["user_id", "conversation_id", "branch", "depth"])
    # What was said before is found by its vectors at once, and by its words when the worker has read it again.
    op.execute("UPDATE memory_tasks SET embedded_sequence = 0, due_at = now() WHERE embedded_sequence > 0")

    op.create_table(
        "embedding_counts",
        sa.Column("user_id", sa.Uuid(), primary_key=True),
        sa.Column("space_id", sa.SmallInteger(), primary_key=True, autoincrement=False),
        sa.Column("passages", sa.BigInteger(), nullable=False),
        postgresql_with={"fillfactor": "70"},
    )
    op.execute(
        "INSERT INTO embedding_counts SELECT user_id, space_id, count(*) FROM embeddings GROUP BY user_id, space_id"
    )
    for name in FUNCTIONS_ADDED:
        create(f"{name}_1")
    for operation, rows in (("INSERT", "NEW"), ("DELETE", "OLD")):
        op.execute(
            f"CREATE TRIGGER count_after_{operation.lower()} AFTER {operation} ON embeddings "
            f"REFERENCING {rows} TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION count_embeddings()"
        )

    op.execute("ALTER TABLE embedding_counts ENABLE ROW LEVEL SECURITY")
    op.execute(
        f"CREATE POLICY one_user ON embedding_counts TO {SERVER_ROLE} "
        "USING (user_id = (SELECT nullif(current_setting('chatrpc.user_id', true), '')::uuid))"
    )
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON embedding_counts TO {SERVER_ROLE}")
    # A shared owner shares documents, whoever may be taken for one.
    op.execute(
        f"CREATE POLICY shared ON embeddings FOR SELECT TO {SERVER_ROLE} USING (source <> 0 AND user_id = {SHARED})"
    )
    op.execute(f"CREATE POLICY shared ON embedding_counts FOR SELECT TO {SERVER_ROLE} USING (user_id = {SHARED})")
    # See the first migration: a function that runs as the schema's owner must not find a table of its caller's.
    op.execute(
        "DO $$ BEGIN EXECUTE format("
        f"'ALTER FUNCTION {OF_ANY_USER} SET search_path = %I, pg_temp', current_schema()); END $$"
    )
    op.execute(f"REVOKE EXECUTE ON FUNCTION {OF_ANY_USER} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {OF_ANY_USER} TO {SERVER_ROLE}")


def downgrade() -> None:
    op.execute("DROP POLICY shared ON embeddings")
    for operation in ("insert", "delete"):
        op.execute(f"DROP TRIGGER count_after_{operation} ON embeddings")
    for name in reversed(FUNCTIONS_ADDED):
        op.execute(f"DROP FUNCTION {name}")
    op.drop_table("embedding_counts")
    # Nothing before knows of documents.
    op.execute("DELETE FROM embeddings WHERE source <> 0")
    op.drop_index("embeddings_place_idx", "embeddings")
    op.create_index("embeddings_conversation_idx", "embeddings", ["user_id", "conversation_id"])
    op.execute("ALTER TABLE embeddings DROP CONSTRAINT embeddings_pkey")
    for column in reversed(COLUMNS_ADDED):
        op.drop_column("embeddings", column)
    op.execute(f"ALTER TABLE embeddings ADD PRIMARY KEY ({KEY})")


def create(name: str) -> None:
    op.execute(sa.text((FUNCTIONS / f"{name}.sql").read_text().replace(":", r"\:")))
