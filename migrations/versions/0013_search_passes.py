"""Quicker searches, and a conversation's hot path as one row, which a search can stand beside.

A search tells the scope of what is near alone, and finds a user's partition without reading all its passages.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

FUNCTIONS = Path(__file__).resolve().parents[1] / "functions"
# Each with its version and the one before; their arguments and results are the same.
CHANGED = {"search_by_words": (2, 1), "search_coarsely": (4, 3), "passage_texts": (2, 1)}
# It runs as the schema's owner, whom row-level security does not bind.
OF_ANY_USER = "search_by_words"
# Beside hot_path, which servers of the release before call until a later release drops it.
NEW = "hot_path_row"


def upgrade() -> None:
    for name, (new, _) in CHANGED.items():
        replace(name, new)
    bind_to_schema()
    create(NEW, 1)


def downgrade() -> None:
    op.execute(f"DROP FUNCTION {NEW}")
    for name, (_, old) in CHANGED.items():
        replace(name, old)
    # Its first version sets what the session has set since 0009.
    for setting in ("plan_cache_mode", "enable_seqscan"):
        op.execute(f"ALTER FUNCTION passage_texts RESET {setting}")
    bind_to_schema()


def replace(name: str, version: int) -> None:
    """Put another body under the same arguments and results, which open connections have prepared their calls for."""
    create(name, version, "CREATE OR REPLACE FUNCTION")


def create(name: str, version: int, how: str = "CREATE FUNCTION") -> None:
    body = (FUNCTIONS / f"{name}_{version}.sql").read_text().replace("CREATE FUNCTION", how, 1)
    op.execute(sa.text(body.replace(":", r"\:")))


def bind_to_schema() -> None:
    """See the first migration: a function that runs as the schema's owner must not find a table of its caller's."""
    op.execute(
        "DO $$ BEGIN EXECUTE format("
        f"'ALTER FUNCTION {OF_ANY_USER} SET search_path = %I, pg_temp', current_schema()); END $$"
    )
