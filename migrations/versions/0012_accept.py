"""A message is accepted by fewer statements."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

FUNCTIONS = Path(__file__).resolve().parents[1] / "functions"


def upgrade() -> None:
    # Nullable and without a default, so that no row is rewritten.
    op.add_column("conversations", sa.Column("previous_head_id", sa.Uuid()))
    replace("append_message", 5)


def downgrade() -> None:
    replace("append_message", 4)
    op.drop_column("conversations", "previous_head_id")


def replace(name: str, version: int) -> None:
    """Put another body under the same arguments and results, which open connections have prepared their calls for."""
    body = (FUNCTIONS / f"{name}_{version}.sql").read_text().replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1)
    op.execute(sa.text(body.replace(":", r"\:")))
