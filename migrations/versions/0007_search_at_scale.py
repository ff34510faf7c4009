"""A search of a user of very many passages does not depend on what the planner expects of an average one."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

FUNCTIONS = Path(__file__).resolve().parents[1] / "functions"
# Replaced by their second versions.
CHANGED = ("search_coarsely", "search_pool")


def upgrade() -> None:
    for name in CHANGED:
        replace(name, 2)


def downgrade() -> None:
    for name in CHANGED:
        replace(name, 1)


def replace(name: str, version: int) -> None:
    op.execute(f"DROP FUNCTION {name}")
    op.execute(sa.text((FUNCTIONS / f"{name}_{version}.sql").read_text().replace(":", r"\:")))
