"""What is asked of a login before anything relies on it, so that a wrong one is a sentence and not an endless wait."""

from __future__ import annotations

import math

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.conninfo import conninfo_to_dict

from chatrpc.db.engine import translated
from chatrpc.errors import SettingsError
from chatrpc.settings import DatabaseSettings


def require_url(url: str) -> None:
    """Refuse what libpq cannot read. Its own words are not passed on, since they quote the URL, password included.

    Raises:
        SettingsError: The URL is malformed.
    """
    try:
        conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise SettingsError(
            "CHATRPC_DATABASE_URL, or CHATRPC_DATABASE_MIGRATION_URL, is malformed; write it as "
            "postgresql://user:password@host:port/database, with special characters percent-encoded."
        ) from None


async def require_role(settings: DatabaseSettings) -> None:
    """Refuse a login that may not take the server's role; a pool would try for ever.

    Raises:
        SettingsError: The URL is malformed, or the role is not there for this login.
        Unavailable: The database cannot be reached, or refuses the login.
    """
    require_url(settings.url)
    timeout = math.ceil(settings.connect_timeout)
    async with translated(), await AsyncConnection.connect(settings.url, connect_timeout=timeout) as connection:
        login = connection.info.user
        try:
            # For the transaction alone: a pooler may give the connection to somebody else afterwards.
            await connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(settings.role)))
        except psycopg.errors.InvalidParameterValue:
            raise SettingsError(
                f"The database has no role {settings.role!r}; run `chatrpc migrate` first, or set "
                "CHATRPC_DATABASE_ROLE to the role that it made."
            ) from None
        except psycopg.errors.InsufficientPrivilege:
            raise SettingsError(
                f"The login {login!r} may not take the role {settings.role!r} (CHATRPC_DATABASE_ROLE); "
                f'GRANT "{settings.role}" TO "{login}".'
            ) from None
