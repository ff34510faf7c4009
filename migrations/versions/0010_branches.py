"""Regenerated replies, switched branches, forks."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

FUNCTIONS = Path(__file__).resolve().parents[1] / "functions"
ADDED = ("mark_active", "regenerate_reply", "leave_path", "switch_branch", "new_id", "fork_conversation")
# Replaced by their second versions.
CHANGED = ("erase_message",)


def upgrade() -> None:
    for name in ADDED:
        create(name, 1)
    for name in CHANGED:
        replace(name, 2)


def downgrade() -> None:
    for name in CHANGED:
        replace(name, 1)
    for name in reversed(ADDED):
        op.execute(f"DROP FUNCTION {name}")


def replace(name: str, version: int) -> None:
    op.execute(f"DROP FUNCTION {name}")
    create(name, version)


def create(name: str, version: int) -> None:
    op.execute(sa.text((FUNCTIONS / f"{name}_{version}.sql").read_text().replace(":", r"\:")))
