"""A database belongs to one issuer of tokens; a user's hour of usage has so many models."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"

FUNCTIONS = Path(__file__).resolve().parents[1] / "functions"
SERVER_ROLE = "chatrpc_server"


def upgrade() -> None:
    op.create_table(
        "token_issuer",
        sa.Column("id", sa.SmallInteger(), sa.CheckConstraint("id = 1"), server_default="1", primary_key=True),
        sa.Column("issuer", sa.Text(), nullable=False),
    )
    # Recorded once; only the owner of the schema gives the database to another one.
    op.execute(f"GRANT SELECT, INSERT ON token_issuer TO {SERVER_ROLE}")
    replace("book_usage", 2)


def downgrade() -> None:
    replace("book_usage", 1)
    op.drop_table("token_issuer")


def replace(name: str, version: int) -> None:
    """Put another body under the same arguments and results, which open connections have prepared their calls for."""
    body = (FUNCTIONS / f"{name}_{version}.sql").read_text().replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1)
    op.execute(sa.text(body.replace(":", r"\:")))
