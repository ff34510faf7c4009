"""Temporary conversations are deleted some time after their last change."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import structlog

from chatrpc.db.conversations import Conversations
from chatrpc.errors import NotFound, Unavailable

PAUSE = 30.0
"""Seconds between two looks."""
BATCH = 100
"""Conversations deleted in one look; where there were as many, the next follows at once."""

log = structlog.get_logger(__name__)


class Expiry:
    """Looks for expired conversations of any user and deletes them; several processes may each run one.

    Args:
        age: Time since the last change of a temporary conversation after which it is deleted.
    """

    def __init__(self, conversations: Conversations, age: timedelta) -> None:
        self._conversations = conversations
        self._age = age

    async def run(self) -> None:
        """Sweep until cancelled. No error ends it."""
        while True:
            deleted = 0
            try:
                deleted = await self.sweep()
            except Unavailable as error:
                log.warning("expiry_failed", problem=str(error))
            except Exception:
                log.exception("expiry_failed")
            if deleted < BATCH:
                await asyncio.sleep(PAUSE)

    async def sweep(self) -> int:
        """Delete what has expired, at most `BATCH` conversations; their number."""
        deleted = 0
        for user_id, conversation_id in await self._conversations.expired(self._age, BATCH):
            try:
                await self._conversations.delete(user_id, conversation_id, unchanged_for=self._age)
            except NotFound:
                continue  # It was used again meanwhile, or another process was faster.
            deleted += 1
        return deleted
