"""Usage is booked for each attempt at a reply and each piece of background work; a message reserves what it needs.

Replies are had anew and conversations forked only from here on, since both make reservations, or carry them along.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

FUNCTIONS = Path(__file__).resolve().parents[1] / "functions"
PARTITIONS = 16
SERVER_ROLE = "chatrpc_server"
OF_A_USER = ("usage_entries", "usage_hours")
NEW = (
    "book_usage",
    "reservation",
    "over_quota",
    "begin_attempt",
    "book_stopped",
    "regenerate_reply",
    "new_id",
    "fork_conversation",
)
# Each with its version and the one before.
CHANGED = {"claim_abandoned_replies": (2, 1)}
# These stand beside those of the release before, since they return more: an open connection of a server of that release
# has its call prepared, which breaks if the columns of the result change. The old ones lead to the new ones, until a
# later release drops them.
OVERLOADED = {"append_message": (4, 3), "finish_reply": (3, 2)}
# It runs as the schema's owner, whom row-level security does not bind.
OF_ANY_USER = "claim_abandoned_replies"


def upgrade() -> None:
    # What is added to these has no default that would rewrite them.
    op.add_column("messages", sa.Column("reserved_prompt_tokens", sa.Integer()))
    op.add_column("messages", sa.Column("reserved_completion_tokens", sa.Integer()))
    op.add_column(
        "conversations", sa.Column("context_tokens", sa.Integer(), server_default=sa.text("0"), nullable=False)
    )
    create_tables()
    for name in NEW:
        create(name, 1)
    for name, (new, _) in CHANGED.items():
        op.execute(f"DROP FUNCTION {name}")
        create(name, new)
    for name, (new, _) in OVERLOADED.items():
        create(name, new)
        create(f"{name}_before", 1)
    secure()


def downgrade() -> None:
    for name, (_, old) in CHANGED.items():
        op.execute(f"DROP FUNCTION {name}")
        create(name, old)
    for name, (_, old) in OVERLOADED.items():
        drop_all(name)
        create(name, old)
        # Its file sets what the session has set since 0009.
        op.execute(f"ALTER FUNCTION {name} RESET plan_cache_mode")
        op.execute(f"ALTER FUNCTION {name} RESET enable_seqscan")
    bind_to_schema()
    for name in NEW:
        op.execute(f"DROP FUNCTION {name}")
    for table in OF_A_USER:
        op.drop_table(table)
    op.drop_column("conversations", "context_tokens")
    op.drop_column("messages", "reserved_completion_tokens")
    op.drop_column("messages", "reserved_prompt_tokens")


def create_tables() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "usage_entries",
        sa.Column("user_id", sa.Uuid(), primary_key=True),
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("attempt", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("conversation_id", sa.Uuid()),
        sa.Column("model", sa.Text()),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("embedding_tokens", sa.BigInteger(), nullable=False),
        sa.Column("estimated", sa.Boolean(), nullable=False),
        sa.Column("reserved_tokens", sa.Integer(), nullable=False),
        sa.Column("booked_at", moment, nullable=False),
        postgresql_partition_by="HASH (user_id)",
    )
    for number in range(PARTITIONS):
        op.execute(
            f"CREATE TABLE usage_entries_partition_{number} PARTITION OF usage_entries "
            f"FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {number})"
        )
    op.create_table(
        "usage_hours",
        sa.Column("user_id", sa.Uuid(), primary_key=True),
        sa.Column("hour", moment, primary_key=True),
        sa.Column("kind", sa.Text(), primary_key=True),
        sa.Column("model", sa.Text(), primary_key=True),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False)
            for name in (
                "turns",
                "prompt_tokens",
                "cached_tokens",
                "completion_tokens",
                "embedding_tokens",
                "estimated_tokens",
            )
        ),
        postgresql_with={"fillfactor": "70"},
    )


def secure() -> None:
    for table in OF_A_USER:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY one_user ON {table} TO {SERVER_ROLE} "
            "USING (user_id = (SELECT nullif(current_setting('chatrpc.user_id', true), '')::uuid))"
        )
    # What is booked stays booked.
    op.execute(f"GRANT SELECT, INSERT ON usage_entries TO {SERVER_ROLE}")
    op.execute(f"GRANT SELECT, INSERT, UPDATE ON usage_hours TO {SERVER_ROLE}")
    bind_to_schema()


def bind_to_schema() -> None:
    """See the first migration: a function that runs as the schema's owner must not find a table of its caller's."""
    op.execute(
        "DO $$ BEGIN EXECUTE format("
        f"'ALTER FUNCTION {OF_ANY_USER} SET search_path = %I, pg_temp', current_schema()); END $$"
    )
    op.execute(f"REVOKE EXECUTE ON FUNCTION {OF_ANY_USER} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {OF_ANY_USER} TO {SERVER_ROLE}")


def drop_all(name: str) -> None:
    """Drop the functions of a name, whatever their arguments."""
    op.execute(
        "DO $$ DECLARE each regprocedure; BEGIN "
        f"FOR each IN SELECT p.oid FROM pg_proc p WHERE p.proname = '{name}' "
        "AND p.pronamespace = current_schema()::regnamespace "
        "LOOP EXECUTE 'DROP FUNCTION ' || each; END LOOP; END $$"
    )


def create(name: str, version: int) -> None:
    op.execute(sa.text((FUNCTIONS / f"{name}_{version}.sql").read_text().replace(":", r"\:")))
