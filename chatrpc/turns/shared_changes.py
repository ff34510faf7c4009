"""Hints between server processes that conversations have changed.

A hint may be lost, and nothing rests on it but how soon a watcher hears.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID, uuid4

from chatrpc.streams.streams import Streams, StreamsAway

CHANNEL = "chatrpc:changes"
# Seconds in which changes gather, so that a busy process says a few things a second and not one for each turn.
GATHERING = 0.02
_LENGTH = 16


class SharedChanges:
    """Tells the other processes, and hears them.

    Attributes:
        on_change: Called with a conversation that another process has changed.
    """

    def __init__(self, streams: Streams) -> None:
        self.on_change: Callable[[UUID], None] = lambda conversation_id: None
        self._streams = streams
        # What this process says comes back to it, too.
        self._own = uuid4().bytes
        self._untold: set[UUID] = set()
        self._something_untold = asyncio.Event()

    def tell(self, conversation_id: UUID) -> None:
        """Tell the others, soon."""
        self._untold.add(conversation_id)
        self._something_untold.set()

    def hear(self, said: bytes) -> None:
        """What was said on the channel: who says it, and which conversations."""
        if said[:_LENGTH] == self._own:
            return
        for start in range(_LENGTH, len(said), _LENGTH):
            self.on_change(UUID(bytes=said[start : start + _LENGTH]))

    async def run(self) -> None:
        """Say what there is to say, until cancelled."""
        with suppress(StreamsAway):
            await self._streams.subscribe(CHANNEL, lasting=True)
        while True:
            await self._something_untold.wait()
            await asyncio.sleep(GATHERING)
            self._something_untold.clear()
            untold, self._untold = self._untold, set()
            with suppress(StreamsAway):
                await self._streams.say(CHANNEL, self._own + b"".join(each.bytes for each in untold))
