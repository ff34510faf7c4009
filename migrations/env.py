"""Runs the migrations.

Old code may be live while they run: each statement gives up soon where it must wait for a lock, and an advisory lock
keeps two migrations apart.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, text

from chatrpc.db.migrate import engine, include_name
from chatrpc.db.tables import Base
from chatrpc.settings import DatabaseSettings, load

# Any constant of 64 bits that nothing else uses.
ADVISORY_LOCK = 0x63_68_61_74_72_70_63


def migrate(connection: Connection) -> None:
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
    connection.execute(text("SET lock_timeout = '5s'"))
    connection.execute(text("SET statement_timeout = '15min'"))
    connection.commit()
    try:
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            include_name=include_name,
            compare_server_default=True,
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": ADVISORY_LOCK})
        connection.commit()


def run() -> None:
    url = context.config.attributes.get("url")
    if url is None:
        settings = load(DatabaseSettings)
        url = settings.migration_url or settings.url
    with engine(url).connect() as connection:
        migrate(connection)


run()
