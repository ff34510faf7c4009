"""The first schema."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import HALFVEC
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0001"
down_revision = None

FUNCTIONS = Path(__file__).resolve().parents[1] / "functions"
# One user's work touches one partition; from some thousands of vectors a user on, smaller indexes help.
PARTITIONS = 16
PARTITIONED = ("messages", "embeddings")
OF_A_USER = ("conversations", "branches", "messages", "summaries", "context_reports", "embeddings", "memory_tasks")
# Functions that run as the schema's owner, whom row-level security does not bind.
OF_ANY_USER = ("checkpoint_replies", "claim_memory_tasks")
SERVER_ROLE = "chatrpc_server"


def upgrade() -> None:
    op.execute("CREATE EXTENSION IF NOT EXISTS vector")
    create_tables()
    for table in PARTITIONED:
        for number in range(PARTITIONS):
            op.execute(
                f"CREATE TABLE {table}_partition_{number} PARTITION OF {table} "
                f"FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {number})"
            )
    for name in ("on_path", "append_message", "finish_reply", "hot_path", "search_passages", *OF_ANY_USER):
        op.execute(sa.text((FUNCTIONS / f"{name}_1.sql").read_text().replace(":", r"\:")))
    secure()


def of_conversation() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["user_id", "conversation_id"], ["conversations.user_id", "conversations.id"], ondelete="CASCADE"
    )


def create_tables() -> None:
    now = sa.text("now()")
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "conversations",
        sa.Column("user_id", sa.Uuid(), primary_key=True),
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("settings", JSONB(), nullable=False),
        sa.Column("labels", JSONB(), nullable=False),
        sa.Column("request_id", sa.Text()),
        sa.Column("request_hash", sa.LargeBinary()),
        sa.Column("revision", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("head_id", sa.Uuid()),
        sa.Column("head_branch", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("head_depth", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("lineage", ARRAY(sa.Integer()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("last_branch", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_sequence", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("pending_replies", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", moment, server_default=now, nullable=False),
        sa.Column("updated_at", moment, server_default=now, nullable=False),
        postgresql_with={"fillfactor": "70"},
    )
    op.create_index(
        "conversations_request_id_key",
        "conversations",
        ["user_id", "request_id"],
        unique=True,
        postgresql_where=sa.text("request_id IS NOT NULL"),
    )
    op.create_table(
        "branches",
        sa.Column("user_id", sa.Uuid(), primary_key=True),
        sa.Column("conversation_id", sa.Uuid(), primary_key=True),
        sa.Column("branch", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("lineage", ARRAY(sa.Integer()), nullable=False),
        of_conversation(),
    )
    op.create_table(
        "messages",
        sa.Column("user_id", sa.Uuid(), primary_key=True),
        sa.Column("conversation_id", sa.Uuid(), primary_key=True),
        sa.Column("branch", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("depth", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("parent_id", sa.Uuid()),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("parts", JSONB(), nullable=False),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("client_message_id", sa.Text()),
        sa.Column("content_hash", sa.LargeBinary()),
        sa.Column("turn_settings", JSONB()),
        sa.Column("actor", sa.Text()),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("owner", sa.Uuid()),
        sa.Column("model", sa.Text()),
        sa.Column("finish_reason", sa.Text()),
        sa.Column("error_reason", sa.Text()),
        sa.Column("usage", JSONB()),
        sa.Column("delta_ends", ARRAY(sa.Integer())),
        sa.Column("created_at", moment, server_default=now, nullable=False),
        sa.Column("finished_at", moment),
        postgresql_partition_by="HASH (user_id)",
    )
    op.create_index("messages_id_key", "messages", ["user_id", "id"], unique=True)
    op.create_index(
        "messages_client_message_id_key",
        "messages",
        ["user_id", "conversation_id", "client_message_id"],
        unique=True,
        postgresql_where=sa.text("client_message_id IS NOT NULL"),
    )
    op.create_table(
        "summaries",
        sa.Column("user_id", sa.Uuid(), primary_key=True),
        sa.Column("conversation_id", sa.Uuid(), primary_key=True),
        sa.Column("version", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("previous_version", sa.BigInteger()),
        sa.Column("anchor_id", sa.Uuid(), nullable=False),
        sa.Column("anchor_branch", sa.Integer(), nullable=False),
        sa.Column("anchor_depth", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("created_at", moment, server_default=now, nullable=False),
        of_conversation(),
    )
    op.create_index("summaries_anchor_idx", "summaries", ["user_id", "conversation_id", "anchor_depth"])
    op.create_table(
        "context_reports",
        sa.Column("user_id", sa.Uuid(), primary_key=True),
        sa.Column("conversation_id", sa.Uuid(), primary_key=True),
        sa.Column("reply_id", sa.Uuid(), primary_key=True),
        sa.Column("report", JSONB(), nullable=False),
    )
    op.create_table(
        "embedding_spaces",
        sa.Column("id", sa.SmallInteger(), sa.Identity(always=True), primary_key=True),
        sa.Column("fingerprint", sa.Text(), nullable=False, unique=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("dimension", sa.Integer(), nullable=False),
        sa.Column("created_at", moment, server_default=now, nullable=False),
    )
    op.create_table(
        "embeddings",
        sa.Column("user_id", sa.Uuid(), primary_key=True),
        sa.Column("space_id", sa.SmallInteger(), sa.ForeignKey("embedding_spaces.id"), primary_key=True),
        sa.Column("message_id", sa.Uuid(), primary_key=True),
        sa.Column("passage", sa.SmallInteger(), primary_key=True, autoincrement=False),
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("branch", sa.Integer(), nullable=False),
        sa.Column("depth", sa.Integer(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("span_start", sa.Integer(), nullable=False),
        sa.Column("span_end", sa.Integer(), nullable=False),
        sa.Column("embedding", HALFVEC(), nullable=False),
        postgresql_partition_by="HASH (user_id)",
    )
    op.create_index("embeddings_conversation_idx", "embeddings", ["user_id", "conversation_id"])
    op.create_table(
        "memory_tasks",
        sa.Column("user_id", sa.Uuid(), primary_key=True),
        sa.Column("conversation_id", sa.Uuid(), primary_key=True),
        sa.Column("due_at", moment),
        sa.Column("claimed_until", moment),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("embedded_sequence", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("finished_after", sa.BigInteger()),
        of_conversation(),
        postgresql_with={"fillfactor": "70"},
    )
    op.create_index("memory_tasks_due_idx", "memory_tasks", ["due_at"], postgresql_where=sa.text("due_at IS NOT NULL"))
    op.create_table(
        "server_processes",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("lease_until", moment, nullable=False),
    )


def secure() -> None:
    """Binds the server's role to one user at a time. The schema's owner is not bound, and is never the server."""
    op.execute(
        f"""
        DO $$ BEGIN
            IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = '{SERVER_ROLE}') THEN
                CREATE ROLE {SERVER_ROLE} NOLOGIN;
            END IF;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;  -- Another database of the cluster is being migrated at the same moment.
        END $$
        """
    )
    # A role that exists already may be one that its owner, and not the schema's, grants.
    op.execute(
        f"DO $$ BEGIN IF NOT pg_has_role(CURRENT_USER, '{SERVER_ROLE}', 'MEMBER') THEN "
        f"GRANT {SERVER_ROLE} TO CURRENT_USER; END IF; END $$"
    )
    for table in OF_A_USER:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY one_user ON {table} TO {SERVER_ROLE} "
            "USING (user_id = (SELECT nullif(current_setting('chatrpc.user_id', true), '')::uuid))"
        )
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {SERVER_ROLE}")
    op.execute(f"GRANT SELECT, INSERT ON embedding_spaces TO {SERVER_ROLE}")
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON server_processes TO {SERVER_ROLE}")
    # Where a search path does not name the schema of temporary tables, that comes first: the server's role could put a
    # table of its own, with triggers, under the hands of the schema's owner.
    for function in OF_ANY_USER:
        op.execute(
            "DO $$ BEGIN EXECUTE format("
            f"'ALTER FUNCTION {function} SET search_path = %I, pg_temp', current_schema()); END $$"
        )
        op.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO {SERVER_ROLE}")


def downgrade() -> None:
    for signature in (
        "claim_memory_tasks(integer, interval)",
        "checkpoint_replies",
        "search_passages",
        "hot_path",
        "finish_reply",
        "append_message",
        "on_path",
    ):
        op.execute(f"DROP FUNCTION {signature}")
    for table in ("server_processes", "memory_tasks", "embeddings", "embedding_spaces", "context_reports", "summaries"):
        op.drop_table(table)
    for table in ("messages", "branches", "conversations"):
        op.drop_table(table)
