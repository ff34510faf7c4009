"""Durable facts beside the summaries, and what erasing one leaves."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"

FUNCTIONS = Path(__file__).resolve().parents[1] / "functions"


def upgrade() -> None:
    op.add_column("conversations", sa.Column("erasures", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("summaries", sa.Column("facts", JSONB(), server_default=sa.text("'[]'"), nullable=False))
    op.add_column("summaries", sa.Column("erased_at", sa.DateTime(timezone=True)))
    op.add_column("memory_tasks", sa.Column("fold_refusals", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.execute("DROP FUNCTION hot_path")
    _create("hot_path_2")
    _create("invalidate_summaries_1")


def downgrade() -> None:
    op.execute("DROP FUNCTION invalidate_summaries")
    op.execute("DROP FUNCTION hot_path")
    # A version without its text is no version to the code before.
    op.execute("DELETE FROM summaries WHERE erased_at IS NOT NULL")
    op.drop_column("memory_tasks", "fold_refusals")
    op.drop_column("summaries", "erased_at")
    op.drop_column("summaries", "facts")
    op.drop_column("conversations", "erasures")
    _create("hot_path_1")


def _create(name: str) -> None:
    op.execute(sa.text((FUNCTIONS / f"{name}.sql").read_text().replace(":", r"\:")))
