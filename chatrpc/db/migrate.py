"""Brings a database to the newest schema, from code; `alembic upgrade head` does the same."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, NullPool, create_engine
from sqlalchemy.exc import DBAPIError

from chatrpc.db.login import require_url
from chatrpc.errors import SettingsError

# What an operator can mend: a server out of reach, a lock that stays taken, a role without the right, no pgvector.
MENDABLE = (
    psycopg.OperationalError,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.FeatureNotSupported,
)
ROOT = Path(__file__).resolve().parents[2]


def engine(url: str) -> Engine:
    """For any libpq URL, which SQLAlchemy could not read itself: several hosts, for example."""
    return create_engine("postgresql+psycopg://", poolclass=NullPool, creator=partial(psycopg.connect, url))


def include_name(name: str | None, kind: str, parents: object) -> bool:
    """Whether Alembic compares this object: partitions are the migrations' own, not the models'."""
    return not (kind == "table" and name is not None and "_partition_" in name)


def config(url: str) -> Config:
    """Alembic's configuration for a database."""
    result = Config(ROOT / "alembic.ini")
    result.attributes["url"] = url
    return result


def upgrade(url: str) -> None:
    """Migrate the database at `url` to the newest schema.

    Raises:
        SettingsError: The URL is malformed, the database cannot be reached by it, or it refuses the migration for a
            reason that is no fault of the migration's.
    """
    require_url(url)
    try:
        command.upgrade(config(url), "head")
    except DBAPIError as error:
        if not isinstance(error.orig, MENDABLE):
            raise
        # libpq adds lines of advice to the first.
        reason = str(error.orig).partition("\n")[0].rstrip(".")
        raise SettingsError(f"The database cannot be migrated: {reason}.") from None
