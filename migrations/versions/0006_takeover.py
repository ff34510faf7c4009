"""Replies whose process died are found and taken over; busy conversations, and limits of unfinished replies."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

FUNCTIONS = Path(__file__).resolve().parents[1] / "functions"
SERVER_ROLE = "chatrpc_server"
# It runs as the schema's owner, whom row-level security does not bind.
OF_ANY_USER = "claim_abandoned_replies"


def upgrade() -> None:
    op.create_index(
        "messages_pending_idx",
        "messages",
        ["user_id", "conversation_id", "owner"],
        postgresql_where=sa.text("state = 'pending'"),
    )
    replace("append_message", 3)
    create(OF_ANY_USER, 1)
    op.execute(
        "DO $$ BEGIN EXECUTE format("
        f"'ALTER FUNCTION {OF_ANY_USER} SET search_path = %I, pg_temp', current_schema()); END $$"
    )
    op.execute(f"REVOKE EXECUTE ON FUNCTION {OF_ANY_USER} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {OF_ANY_USER} TO {SERVER_ROLE}")


def downgrade() -> None:
    op.execute(f"DROP FUNCTION {OF_ANY_USER}")
    replace("append_message", 2)
    op.drop_index("messages_pending_idx", "messages")


def replace(name: str, version: int) -> None:
    op.execute(f"DROP FUNCTION {name}")
    create(name, version)


def create(name: str, version: int) -> None:
    op.execute(sa.text((FUNCTIONS / f"{name}_{version}.sql").read_text().replace(":", r"\:")))
