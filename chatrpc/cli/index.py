"""`chatrpc index`."""

from __future__ import annotations

import click

from chatrpc.db.indexes import update_indexes
from chatrpc.db.search import INDEXED_FROM
from chatrpc.settings import DatabaseSettings, load


@click.command()
def index() -> None:
    """Give users with very many messages an index of their own, as the owner of the schema; run it daily or weekly.

    It uses CHATRPC_DATABASE_MIGRATION_URL or CHATRPC_DATABASE_URL.
    """
    settings = load(DatabaseSettings)
    for change in update_indexes(settings.migration_url or settings.url, INDEXED_FROM):
        click.echo(f"{'Made' if change.made else 'Dropped'} {change.name}.")
