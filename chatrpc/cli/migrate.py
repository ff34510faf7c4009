"""`chatrpc migrate`."""

from __future__ import annotations

import click

from chatrpc.db.migrate import upgrade
from chatrpc.settings import DatabaseSettings, load


@click.command()
def migrate() -> None:
    """Bring the database to the newest schema, as CHATRPC_DATABASE_MIGRATION_URL or CHATRPC_DATABASE_URL."""
    settings = load(DatabaseSettings)
    upgrade(settings.migration_url or settings.url)
