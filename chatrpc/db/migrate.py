"""Brings a database to the newest schema, from code; `alembic upgrade head` does the same."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import make_url
from sqlalchemy.engine import URL

ROOT = Path(__file__).resolve().parents[2]


def alembic_url(url: str) -> URL:
    """A libpq URL as SQLAlchemy's, by the psycopg driver."""
    return make_url(url).set(drivername="postgresql+psycopg")


def include_name(name: str | None, kind: str, parents: object) -> bool:
    """Whether Alembic compares this object: partitions are the migrations' own, not the models'."""
    return not (kind == "table" and name is not None and "_partition_" in name)


def config(url: str) -> Config:
    """Alembic's configuration for a database."""
    result = Config(ROOT / "alembic.ini")
    result.attributes["url"] = url
    return result


def upgrade(url: str) -> None:
    """Migrate the database at `url` to the newest schema."""
    command.upgrade(config(url), "head")
