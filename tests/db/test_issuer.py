"""A database belongs to one issuer of tokens."""

from __future__ import annotations

import asyncio
import re

import psycopg
import pytest

from chatrpc.db.engine import Database
from chatrpc.db.issuer import require_issuer
from chatrpc.errors import SettingsError


async def test_the_first_issuer_has_the_database(database: Database) -> None:
    tried = await asyncio.gather(
        *(require_issuer(database, name) for name in ("https://a", "https://b") * 3), return_exceptions=True
    )
    refused = [error for error in tried if isinstance(error, SettingsError)]
    assert len(refused) == 3
    [sentence] = {str(error) for error in refused}
    other, first = re.findall(r"'(https://.)'", sentence)
    assert {other, first} == {"https://a", "https://b"}
    await require_issuer(database, first)
    with pytest.raises(SettingsError, match=re.escape(sentence)):
        await require_issuer(database, other)


async def test_no_server_gives_it_to_another(database: Database) -> None:
    await require_issuer(database, "https://a")
    for statement in ("UPDATE token_issuer SET issuer = 'b'", "DELETE FROM token_issuer"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            async with database.unbound() as connection:
                await connection.execute(statement)
    with pytest.raises(psycopg.errors.CheckViolation):
        async with database.unbound() as connection:
            await connection.execute("INSERT INTO token_issuer VALUES (2, 'b')")
