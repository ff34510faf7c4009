"""Branches are switched, and conversations watched."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

FUNCTIONS = Path(__file__).resolve().parents[1] / "functions"
ADDED = ("mark_active", "leave_path", "switch_branch")
SERVER_ROLE = "chatrpc_server"
# It runs as the schema's owner, whom row-level security does not bind.
OF_ANY_USER = "changed_conversations"
# Replaced by their second versions.
CHANGED = ("erase_message",)


def upgrade() -> None:
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


def replace(name: str, version: int) -> None:
    op.execute(f"DROP FUNCTION {name}")
    create(name, version)


def create(name: str, version: int) -> None:
    op.execute(sa.text((FUNCTIONS / f"{name}_{version}.sql").read_text().replace(":", r"\:")))
