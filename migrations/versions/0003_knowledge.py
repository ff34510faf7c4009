"""Documents, their collections and their passages."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0003"
down_revision = "0002"

FUNCTIONS = Path(__file__).resolve().parents[1] / "functions"
PARTITIONS = 16
OF_A_USER = ("collections", "documents", "document_parts", "document_chunks", "document_tasks")
# What all users read of the shared owner: what documents say, but neither bytes on their way nor work to be done.
OF_ALL_USERS = ("collections", "documents", "document_chunks")
SERVER_ROLE = "chatrpc_server"


def upgrade() -> None:
    create_tables()
    for number in range(PARTITIONS):
        op.execute(
            f"CREATE TABLE document_chunks_partition_{number} PARTITION OF document_chunks "
            f"FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {number})"
        )
    op.execute((FUNCTIONS / "claim_document_tasks_1.sql").read_text())
    op.execute(sa.text((FUNCTIONS / "passage_texts_1.sql").read_text().replace(":", r"\:")))
    secure()


def of_document() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["user_id", "document_id"], ["documents.user_id", "documents.id"], ondelete="CASCADE"
    )


def create_tables() -> None:
    now = sa.text("now()")
    zero = sa.text("0")
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "collections",
        sa.Column("user_id", sa.Uuid(), primary_key=True),
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text()),
        sa.Column("created_at", moment, server_default=now, nullable=False),
    )
    op.create_index(
        "collections_request_id_key",
        "collections",
        ["user_id", "request_id"],
        unique=True,
        postgresql_where=sa.text("request_id IS NOT NULL"),
    )
    op.create_table(
        "documents",
        sa.Column("user_id", sa.Uuid(), primary_key=True),
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("collection_id", sa.Uuid()),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("labels", JSONB(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("error_reason", sa.Text()),
        sa.Column("received", sa.BigInteger(), server_default=zero, nullable=False),
        sa.Column("characters", sa.Integer(), server_default=zero, nullable=False),
        sa.Column("pages", sa.Integer(), server_default=zero, nullable=False),
        sa.Column("chunks", sa.Integer(), server_default=zero, nullable=False),
        sa.Column("embedded_chunks", sa.Integer(), server_default=zero, nullable=False),
        sa.Column("created_at", moment, server_default=now, nullable=False),
        sa.Column("updated_at", moment, server_default=now, nullable=False),
        sa.ForeignKeyConstraint(["user_id", "collection_id"], ["collections.user_id", "collections.id"]),
    )
    op.create_index(
        "documents_content_key",
        "documents",
        ["user_id", "collection_id", "sha256", "media_type"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "document_parts",
        sa.Column("user_id", sa.Uuid(), primary_key=True),
        sa.Column("document_id", sa.Uuid(), primary_key=True),
        sa.Column("start", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        of_document(),
    )
    op.create_table(
        "document_chunks",
        sa.Column("user_id", sa.Uuid(), primary_key=True),
        sa.Column("document_id", sa.Uuid(), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("span_start", sa.Integer(), nullable=False),
        sa.Column("span_end", sa.Integer(), nullable=False),
        sa.Column("page", sa.Integer(), nullable=False),
        sa.Column("headings", ARRAY(sa.Text()), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        of_document(),
        postgresql_partition_by="HASH (user_id)",
    )
    op.create_index("document_chunks_id_key", "document_chunks", ["user_id", "id"], unique=True)
    op.create_table(
        "document_tasks",
        sa.Column("user_id", sa.Uuid(), primary_key=True),
        sa.Column("document_id", sa.Uuid(), primary_key=True),
        sa.Column("due_at", moment, nullable=False),
        sa.Column("claimed_until", moment),
        sa.Column("attempts", sa.Integer(), server_default=zero, nullable=False),
        of_document(),
        postgresql_with={"fillfactor": "70"},
    )
    op.create_index("document_tasks_due_idx", "document_tasks", ["due_at"])


def secure() -> None:
    """Binds the server's role to one user at a time, and lets it read what the shared owner shares."""
    for table in OF_A_USER:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY one_user ON {table} TO {SERVER_ROLE} "
            "USING (user_id = (SELECT nullif(current_setting('chatrpc.user_id', true), '')::uuid))"
        )
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {SERVER_ROLE}")
    for table in OF_ALL_USERS:
        op.execute(
            f"CREATE POLICY shared ON {table} FOR SELECT TO {SERVER_ROLE} "
            "USING (user_id = (SELECT nullif(current_setting('chatrpc.shared_id', true), '')::uuid))"
        )
    # See the first migration: a function that runs as the schema's owner must not find a table of its caller's.
    op.execute(
        "DO $$ BEGIN EXECUTE format("
        "'ALTER FUNCTION claim_document_tasks SET search_path = %I, pg_temp', current_schema()); END $$"
    )
    op.execute("REVOKE EXECUTE ON FUNCTION claim_document_tasks FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION claim_document_tasks TO {SERVER_ROLE}")


def downgrade() -> None:
    op.execute("DROP FUNCTION passage_texts")
    op.execute("DROP FUNCTION claim_document_tasks(integer, interval)")
    for table in ("document_tasks", "document_chunks", "document_parts", "documents", "collections"):
        op.drop_table(table)
