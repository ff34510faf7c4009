"""What a conversation lets others remember of it, erasure of messages, and the floor of an embedding model."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

FUNCTIONS = Path(__file__).resolve().parents[1] / "functions"
SERVER_ROLE = "chatrpc_server"
# Replaced by their second versions.
CHANGED = ("append_message", "finish_reply")
ADDED = ("without_passages", "erase_message")
# It runs as the schema's owner, whom row-level security does not bind.
OF_ANY_USER = "expired_conversations"


def upgrade() -> None:
    op.add_column(
        "conversations", sa.Column("memory", sa.Text(), server_default=sa.text("'remembered'"), nullable=False)
    )
    # Not on `updated_at`, which every append changes: its update would no longer stay within its page (HOT).
    op.create_index(
        "conversations_temporary_idx",
        "conversations",
        ["created_at"],
        postgresql_where=sa.text("memory = 'temporary'"),
    )
    op.add_column("embedding_spaces", sa.Column("floor", sa.Double()))
    op.execute(f"GRANT UPDATE (floor) ON embedding_spaces TO {SERVER_ROLE}")
    for name in ADDED:
        create(name, 1)
    for name in CHANGED:
        replace(name, 2)
    create(OF_ANY_USER, 1)
    op.execute(
        "DO $$ BEGIN EXECUTE format("
        f"'ALTER FUNCTION {OF_ANY_USER} SET search_path = %I, pg_temp', current_schema()); END $$"
    )
    op.execute(f"REVOKE EXECUTE ON FUNCTION {OF_ANY_USER} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {OF_ANY_USER} TO {SERVER_ROLE}")


def downgrade() -> None:
    op.execute(f"DROP FUNCTION {OF_ANY_USER}")
    for name in CHANGED:
        replace(name, 1)
    for name in reversed(ADDED):
        op.execute(f"DROP FUNCTION {name}")
    op.execute(f"REVOKE UPDATE (floor) ON embedding_spaces FROM {SERVER_ROLE}")
    op.drop_column("embedding_spaces", "floor")
    op.drop_index("conversations_temporary_idx", "conversations")
    op.drop_column("conversations", "memory")


def replace(name: str, version: int) -> None:
    op.execute(f"DROP FUNCTION {name}")
    create(name, version)


def create(name: str, version: int) -> None:
    op.execute(sa.text((FUNCTIONS / f"{name}_{version}.sql").read_text().replace(":", r"\:")))
