"""Whose users a database holds."""

from __future__ import annotations

import psycopg

from chatrpc.db.engine import Database
from chatrpc.errors import SettingsError

RECORD = "INSERT INTO token_issuer (issuer) VALUES (%s) ON CONFLICT DO NOTHING"
RECORDED = "SELECT issuer FROM token_issuer"


async def require_issuer(database: Database, issuer: str) -> None:
    """Refuse to serve users of another issuer than the database's, which is the first that is asked for.

    Users of two would be told apart, since their ids are made of both names. But replies that a dead process has left
    behind go to whichever server is there, and it retrieves from the shared collections of its own issuer.

    Raises:
        SettingsError: The database is another issuer's.
        Unavailable: The database cannot be reached.
    """
    async with database.unbound() as connection:
        try:
            await connection.execute(RECORD, (issuer,))
        except psycopg.errors.UndefinedTable:
            raise SettingsError(
                "The database's schema is older than this server; run `chatrpc migrate` first."
            ) from None
        row = await (await connection.execute(RECORDED)).fetchone()
    assert row is not None  # Nobody deletes it while servers start.
    if row["issuer"] != issuer:
        raise SettingsError(
            f"CHATRPC_AUTH_ISSUER is {issuer!r}, but the database holds the users of {row['issuer']!r}; give each "
            "issuer a database of its own, or correct the one in `token_issuer` as the schema's owner."
        )
