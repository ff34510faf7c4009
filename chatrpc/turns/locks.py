"""Locks by key, such as one a conversation."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID


class Locks:
    """A lock a key, kept while somebody holds or awaits it."""

    def __init__(self) -> None:
        self._locks: defaultdict[tuple[UUID, UUID], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._users: defaultdict[tuple[UUID, UUID], int] = defaultdict(int)

    @asynccontextmanager
    async def held(self, key: tuple[UUID, UUID]) -> AsyncIterator[None]:
        self._users[key] += 1
        try:
            async with self._locks[key]:
                yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._locks[key]
