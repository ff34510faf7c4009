"""The text of running replies is stored about once a second, for all of a process in one statement."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from uuid import UUID

import structlog

from chatrpc.db.transcript import Transcript
from chatrpc.errors import Unavailable
from chatrpc.turns.generation import Generation

log = structlog.get_logger(__name__)

# A crash costs at most this many seconds of a reply's text.
INTERVAL = 1.0


async def checkpoint_while_running(transcript: Transcript, running: Mapping[tuple[UUID, UUID], Generation]) -> None:
    """Checkpoint the running generations until there is none.

    Whose attempt is found not to be the current one any more is stopped.
    """
    while running:
        await asyncio.sleep(INTERVAL)
        try:
            await _checkpoint(transcript, running)
        except Unavailable:
            continue  # The next checkpoint, or the end of the reply, tries again.
        except Exception:
            log.exception("checkpoint_failed")


async def _checkpoint(transcript: Transcript, running: Mapping[tuple[UUID, UUID], Generation]) -> None:
    checkpoints = [unsaved for generation in running.values() if (unsaved := generation.unsaved()) is not None]
    if not checkpoints:
        return
    superseded = await transcript.checkpoint_replies(checkpoints)
    for checkpoint in checkpoints:
        generation = running.get((checkpoint.user_id, checkpoint.reply_id))
        stale = checkpoint.reply_id in superseded
        if stale and generation is not None and generation.log.attempt == checkpoint.attempt:
            generation.supersede()
